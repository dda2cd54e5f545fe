"""The ablation of the share of tokens that learns, from the runs' own recipes."""

import json

import pytest
from synthetic_run import write_synthetic_run

from forkpoint.analyze.rundata import read_run
from forkpoint.analyze.views.compare_runs import render_comparison
from forkpoint.analyze.views.shares import Selection, selection_of, share_panels


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a run whose chain selects a share of the tokens."""

    def makes(name, share=None, keep="top", chain=None, accuracy=None):
        path = write_synthetic_run(tmp_path / name, steps=3, length=10)
        recipe = json.loads((path / "recipe.json").read_text())
        links = [{"link": "clip", "arguments": {"low": 0.2}}]
        if share is not None:
            links.append({"link": "top_entropy", "arguments": {"share": share, "keep": keep}})
        recipe["chain"] = links if chain is None else chain
        recipe["recipe"]["name"] = name
        (path / "recipe.json").write_text(json.dumps(recipe))
        if accuracy is not None:
            line = {"step": 3, "eval/accuracy": accuracy, "eval/accuracy_low": accuracy - 0.1,
                    "eval/accuracy_high": accuracy + 0.1, "eval/length": 5.0}  # fmt: skip
            with (path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        return read_run(path)

    return makes


def test_the_share_is_read_from_the_resolved_chain(make):
    assert selection_of(make("a", 0.2)) == Selection(share=0.2)
    assert selection_of(make("b", 0.8, "bottom")) == Selection(share=0.8, keep="bottom")
    assert selection_of(make("c")) == Selection(share=1.0)
    twice = [{"link": "top_entropy", "arguments": {"share": 0.5}}] * 2
    for name, chain in (("d", twice), ("e", []), ("f", "x"), ("g", [{"arguments": {"share": "much"}}])):
        assert selection_of(make(name, chain=chain)) is None
    assert [str(Selection(share=s, keep=k)) for s, k in ((0.2, "top"), (0.8, "bottom"), (1.0, "bottom"))] == [
        "20 %", "80 % bottom", "100 %",
    ]  # fmt: skip


def test_accuracy_by_share_with_differences_to_all_tokens(make):
    runs = [make("all", accuracy=0.4), make("fifth", 0.2, accuracy=0.55), make("rest", 0.8, "bottom", accuracy=0.3)]
    accuracy, curves = share_panels([run.path.name for run in runs], runs)
    label = accuracy.svg[accuracy.svg.index("aria-label") :][:200]
    assert "fifth, 20%: 55.0%; rest, 80%: 30.0%; all, 100%: 40.0%." in label
    assert "fifth +15.0 points (+0.9 to +29.1); rest -10.0 points (-24.1 to +4.1)" in accuracy.caption
    assert "the least uncertain" in accuracy.svg
    assert "20 % (fifth)" in curves.svg
    assert "80 % bottom (rest)" in curves.svg


def test_runs_of_one_share_are_no_ablation(make):
    runs = [make("a", 0.2), make("b", 0.2)]
    assert share_panels(["a", "b"], runs) == []
    assert "share of tokens that learn" not in render_comparison(runs)


def test_what_cannot_be_compared_is_said(make):
    runs = [make("a", 0.2), make("b", 0.5), make("c", chain=[])]
    accuracy, _ = share_panels(["a", "b", "c"], runs, others_differ=True)
    assert "Not here, as its share is not known: c." in accuracy.caption
    assert "differ in other settings too" in accuracy.caption
    assert "Against learning from all tokens" not in accuracy.caption
    # Two seeds of the whole: the figure has both, and no run to take differences to.
    accuracy, _ = share_panels(["a", "x", "y"], [runs[0], make("x"), make("y")])
    assert accuracy.svg
    assert "Against" not in accuracy.caption


def test_runs_without_an_evaluation_say_so(make):
    runs = [make("a", 0.2), make("b", 0.5)]
    for run in runs:
        lines = [line for line in (run.path / "metrics.jsonl").read_text().splitlines() if "eval/" not in line]
        (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    accuracy, curves = share_panels(["a", "b"], [read_run(run.path) for run in runs])
    assert accuracy.absent == "Not drawn: no run has an evaluation with an accuracy."
    assert curves.svg


def test_the_comparison_has_the_ablation_first(make):
    page = render_comparison([make("a", 0.2), make("b", 0.5)])
    assert page.index("Accuracy by share of tokens that learn") < page.index("<h3>Accuracy</h3>")
