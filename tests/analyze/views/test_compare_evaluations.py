"""The page and the command that compare evaluations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_report import Page
from typer.testing import CliRunner

from forkpoint import cli
from forkpoint.analyze.views.compare_evaluations import render_evaluations
from forkpoint.evaluate.compare import System, compare
from forkpoint.evaluate.graded import graded
from forkpoint.evaluate.spec import EvalSpec, canonical

DATA = Path(__file__).resolve().parents[3] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not beside the repository")


def write(path: Path, rows: list[list[int]], **spec: object) -> Path:
    lines = [{"id": f"p{i}", "sample": s, "correct": bool(v)} for i, row in enumerate(rows) for s, v in enumerate(row)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if spec:
        path.with_suffix(".spec.json").write_text(canonical(EvalSpec(**spec)))
    return path


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    old = rng.random((24, 4)) < 0.8
    new = old & (rng.random((24, 4)) < 0.4)
    write(tmp_path / "old.jsonl", old.tolist(), samples=4, dtype="float32")
    write(tmp_path / "new.jsonl", new.tolist(), samples=4, dtype="bfloat16")
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the figures out, which take most of the time of a page."""
    monkeypatch.setattr("forkpoint.analyze.views.compare_evaluations.figures", lambda found: [])


def run(*arguments: object):
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


def system(name: str, ids: list[str], values: list[float], benchmark: str = "") -> System:
    return System(name=name, results=(graded(name, ids, values),))


def test_the_page_shows_everything(files):
    result = run("old.jsonl", "new.jsonl", "third=old.jsonl")
    assert result.exit_code == 0, result.output
    html = (files / "evaluations.html").read_text("utf-8")
    page = Page(html)
    assert page.open == []
    # Two forests, the curves, and a scatter for each of two pairs.
    assert sum(tag == "svg" for tag, _ in page.tags) == 5
    for said in ("Results", "Differences", "Problems that changed sides from old to new", "Conditions that differ",
                 "float32", "pass@4", "One training seed each", "corrected for 2 comparisons", "points"):  # fmt: skip
        assert said in page.text, said
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert "http" not in re.sub(r'xmlns="[^"]+"', "", html).replace("http-equiv", "")
    again = run("old.jsonl", "new.jsonl", "third=old.jsonl")
    assert again.exit_code == 0
    assert (files / "evaluations.html").read_text("utf-8") == html


def test_names_and_ids_are_hostile(tmp_path):
    evil = "<script>x</script>\u202e$\\frac$"
    found = compare({evil: [system("a", [evil, "q"], [1, 0]), system(evil, [evil, "q"], [0, 0])]})
    html = render_evaluations(found)
    assert "<script>x" not in html
    assert "\u202e" not in html
    page = Page(html)
    assert page.open == []
    assert "⟨U+202E⟩" in page.text


@pytest.mark.parametrize("values", [[1.0], [0.5, 7.0, -3.0], [float("nan"), 1.0], [1.0] * 1000])
def test_odd_values_still_give_a_page(values):
    ids = [f"p{i}" for i in range(len(values))]
    found = compare({"": [system("a", ids, values), system("b", ids, [v / 2 for v in values])]})
    assert Page(render_evaluations(found)).open == []


def test_many_values_are_drawn_on_a_grid():
    rng = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(1500)]
    found = compare({"": [system(n, ids, rng.random(1500).tolist()) for n in "ab"]})
    assert len(render_evaluations(found)) < 1_500_000


@pytest.mark.usefixtures("undrawn")
def test_exit_codes(files):
    assert run("old.jsonl", "new.jsonl").exit_code == 0
    worse = run("old.jsonl", "new.jsonl", "--fail-if-worse")
    assert worse.exit_code == 1
    assert "worse: new - old" in worse.output
    assert run("new.jsonl", "old.jsonl", "--fail-if-worse").exit_code == 0
    assert run("old.jsonl", "same=old.jsonl", "--fail-if-worse").exit_code == 0


@pytest.mark.usefixtures("undrawn")
def test_strict_refuses_other_conditions(files):
    refused = run("old.jsonl", "new.jsonl", "--strict", "--out", "x.html")
    assert refused.exit_code == 2
    assert 'dtype: "float32" against "bfloat16"' in refused.output
    assert not (files / "x.html").exists()
    warned = run("old.jsonl", "new.jsonl")
    assert 'were not evaluated alike: dtype: "float32" against "bfloat16"' in warned.output
    assert run("old.jsonl", "same=old.jsonl", "--strict").exit_code == 0
    (files / "new.spec.json").unlink()
    unknown = run("old.jsonl", "new.jsonl", "--strict")
    assert unknown.exit_code == 2
    assert "not recorded" in unknown.output


@pytest.mark.usefixtures("undrawn")
def test_json_is_json(files):
    result = run("old.jsonl", "new.jsonl", "--json")
    found = json.loads(result.output, parse_constant=lambda text: pytest.fail(text))
    (pair,) = found["pairs"]
    old, new = found["benchmarks"][""]
    assert pair["difference"]["value"] == pytest.approx(new["accuracy"]["value"] - old["accuracy"]["value"])
    assert pair["spec"] == [{"field": "dtype", "first": '"float32"', "second": '"bfloat16"'}]
    assert set(pair["metrics"]) == {"pass@1", "pass@2", "pass@4"}
    assert found["worse"] == ["new - old"]
    assert old["seed_deviation"] is None
    assert found["page"] == "evaluations.html"


@pytest.mark.usefixtures("undrawn")
def test_bad_input_is_one_sentence(files):
    for arguments, said in (
        (["old.jsonl"], "only one evaluation"),
        (["old.jsonl", "none.jsonl"], "cannot be read"),
        (["old.jsonl", "new.jsonl", "--id", "name"], "no problem id (name)"),
        (["old.jsonl", "new.jsonl", "--level", "95"], "between 0 and 1"),
        (["old.jsonl", "new.jsonl", "--out", "no/where.html"], "cannot be written"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert said in result.output
        assert result.output.count("\n") == 1


@needs_data
def test_gsm8k_through_the_command(tmp_path):
    file = DATA / "recorded/gsm8k_openai_6b_175b.jsonl"
    result = run(f"{file}:175b_finetuning.is_correct", f"{file}:6b_verification.is_correct", "--id", "question",
                 "--json", "--out", tmp_path / "page.html")  # fmt: skip
    (pair,) = json.loads(result.output)["pairs"]
    assert pair["difference"]["value"] == pytest.approx(0.0432, abs=5e-5)
    assert pair["difference"]["error"] == pytest.approx(0.0144, abs=5e-5)
    assert (pair["mcnemar"]["won"], pair["mcnemar"]["lost"]) == (209, 152)
    assert pair["mcnemar"]["exact"] == pytest.approx(0.00315, abs=5e-6)
    assert len(pair["changed"]) == 361
