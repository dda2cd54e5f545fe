"""The figures of tokens: what they say of phases, windows, final answers and rules, and their reasons."""

import dataclasses
import json
import re
from collections import Counter

import numpy as np
import pytest

from forkpoint.analyze.traces.records import batch_of
from forkpoint.analyze.traces.sources import open_traces
from forkpoint.analyze.views.analysis_page import drawn
from forkpoint.analyze.views.held import hold
from forkpoint.analyze.views.overview import Panel, analyse
from forkpoint.analyze.views.trace_panels import token_figures
from forkpoint.errors import InputError

ALONG, RULES = "Entropy along the answer", "Would other rules pick the same tokens?"
WORDS = ["so", " it", " is", "</", "think>", " \\boxed{", "4", "}"]


def records(count=12, **more):
    draw = np.random.default_rng(3)
    return [
        {
            "tokens": WORDS, "logp": (-draw.random(8)).tolist(), "entropy": (2 * draw.random(8)).tolist(),
            "entropy_kind": "exact", "prompt_id": f"p{i // 4}", "verdict": "right" if i % 2 else "wrong",
        } | {name: value(i) if callable(value) else value for name, value in more.items()}
        for i in range(count)
    ]  # fmt: skip


def drawing_of(held, title, *, lower_bound=False):
    """Return one of the figures as a panel."""
    figures = token_figures(held, {}, lower_bound=lower_bound, min_count=2)
    return drawn(title, *figures[title])


def panel_of(rows, title, *, marker=None, lower_bound=False):
    return drawing_of(hold([batch_of(rows, file="f")], marker=marker), title, lower_bound=lower_bound)


def phases(panel):
    """Return the phases named in the label of the figure."""
    return re.findall(r"([a-z ]+): mean", re.search(r'aria-label="([^"]*)"', panel.svg)[1])


def test_phases_that_nobody_labels_are_the_whole_answer():
    panel = panel_of(records(), ALONG)
    assert [name.strip() for name in phases(panel)] == ["whole answer"]
    assert "does not label phases, so answers are taken whole; --marker" in panel.caption


def test_a_marker_labels_them_and_one_that_never_comes_is_told():
    panel = panel_of(records(), ALONG, marker="</think>")
    assert [name.strip() for name in phases(panel)] == ["thinking", "answer"]
    assert "label" not in panel.caption
    panel = panel_of(records(), ALONG, marker="<answer>")
    assert [name.strip() for name in phases(panel)] == ["whole answer"]
    assert "the marker '<answer>' is in no response" in panel.caption


def test_labels_of_the_source_come_before_the_marker():
    rows = records(3)
    rows[0]["phase"] = [1] * 6 + [2] * 2
    rows[1]["phase"] = [1] * 8
    held = hold([batch_of(rows, file="f")])
    assert (held.answer_start.tolist(), held.phase_known.tolist()) == ([6, -1, -1], [True, True, False])
    held = hold([batch_of(rows, file="f")], marker="</think>")
    assert (held.answer_start.tolist(), held.phase_known.tolist()) == ([6, -1, 5], [True, True, True])
    assert "1 have no label" in panel_of(rows, ALONG).caption


def test_a_marker_of_ids_where_tokens_have_no_text():
    held = hold(
        [batch_of([{"ids": [5, 9, 7], "logp": [-1] * 3}, {"ids": [9, 5], "logp": [-1] * 2}], file="f")], marker="9"
    )
    assert held.answer_start.tolist() == [2, 1]
    with pytest.raises(InputError, match="the marker between thinking and answer is empty"):
        hold([batch_of(records(1), file="f")], marker="")


def test_semantic_entropy_of_the_final_answers():
    """Two problems whose answers agree under the verifier, one that is split in half."""

    def written(i):
        return r"\boxed{1/2}" if i < 4 else r"\boxed{0.5}" if i % 4 < 2 else r"\boxed{3}" if i < 8 else "no answer"

    panel = panel_of(records(completion=written), "Semantic entropy")
    assert "3 problems with 4 answers each" in panel.caption
    assert f"mean {2 * np.log(2) / 3:.3f} nats" in panel.caption
    assert r"what the last \boxed{} holds; texts without one, 2 of them," in panel.caption
    assert panel.svg.count("<use") >= 1 or "<path" in panel.svg


def test_semantic_entropy_keeps_the_steps_of_a_run_apart():
    """The same problem at another step is answered by another policy."""
    rows = records(8, prompt_id="p", step=lambda i: i // 4, completion=lambda i: f"#### {i // 4}")
    assert "2 problems with 4 answers each, mean 0.000 nats" in panel_of(rows, "Semantic entropy").caption


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"prompt_id": None}, "no problem has two or more answers"),
        ({"completion": "nothing to see", "finish": "stop"}, "no final answer was found in the texts"),
    ],
)
def test_semantic_entropy_says_what_it_lacks(more, reason):
    panel = panel_of(records(**more), "Semantic entropy")
    assert not panel.svg
    assert panel.absent.startswith(f"Not drawn: {reason}")


def test_answers_that_nobody_judged_have_no_accuracy():
    panel = panel_of(records(verdict=None), "Semantic entropy")
    assert "problems" in panel.svg
    assert "right answers" not in panel.svg


def test_windows_say_their_width_and_how_far_they_agree():
    panel = panel_of(records(), "Entropy in windows of 4 tokens")
    assert "The 60 windows that fit" in panel.caption  # 12 answers of 8 tokens: five each
    assert re.search(r"Jaccard index of 0\.\d\d", panel.caption)
    short = [record | {"tokens": ["a"], "logp": [-1], "entropy": [0.5]} for record in records()]
    assert "no answer has 4 tokens in a row" in panel_of(short, "Entropy in windows of 4 tokens").absent


def test_rules_that_the_source_knows_are_compared():
    panel = panel_of(records(), RULES)
    assert "gradient norm" not in panel.svg
    assert "by construction" not in panel.caption
    panel = panel_of(records(advantage=lambda i: [1.0 - i] * 8), RULES, lower_bound=True)
    assert "|advantage| (1 - p)" in panel.svg
    assert "partly by construction" in panel.caption


def test_rules_that_only_a_model_knows():
    batch = batch_of(records(), file="f")
    draw = np.random.default_rng(0)
    attention = draw.random(batch.tokens).astype(np.float32)
    attention[:8] = np.nan
    batch = dataclasses.replace(batch, others_N=draw.random(batch.tokens).astype(np.float32), attention_N=attention)
    panel = drawing_of(hold([batch]), RULES)
    assert "gradient norm" in panel.svg
    assert "attention entropy" in panel.svg
    assert "88 tokens for which all of these are known" in panel.caption


def test_intervals_of_token_types_end_at_zero():
    rows = [{"tokens": ["a"], "entropy": [0.9 if i == 0 else 0.0], "logp": [-1.0]} for i in range(4)]
    for count, interval in ((4, "0.000 to 0.941"), (1, "one response only")):
        tables = {}
        figures = token_figures(hold([batch_of(rows[:count], file="f")]), tables, lower_bound=False, min_count=0)
        figures["Token types by mean entropy"][1]()
        (row,) = tables["Most uncertain token types (more than 0 occurrences)"].rows
        assert row[3] == interval


def test_figures_made_elsewhere_come_after_its_own_and_ids_do_not_clash(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, records())))
    more = Panel(title="<b>Elsewhere</b>", caption="c", absent="not measured")
    analyse(open_traces(path), tmp_path / "page.html", min_count=2, extra=[more], marker="</think>")
    page = (tmp_path / "page.html").read_text()
    titles = re.findall(r"<h3>(.*?)</h3>", page)
    assert titles[-1] == "&lt;b&gt;Elsewhere&lt;/b&gt;"
    assert "not measured" in page
    ids = Counter(re.findall(r'\bid="([^"]+)"', page))
    assert max(ids.values()) == 1
