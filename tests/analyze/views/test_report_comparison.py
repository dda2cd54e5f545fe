from __future__ import annotations

import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from synthetic_run import eval_line, write_synthetic_run, write_table
from test_report import Page

from forkpoint.analyze.rundata import read_run
from forkpoint.analyze.views.compare_runs import labels, recipe_differences, results, write_comparison
from forkpoint.analyze.views.overlay import overlay
from forkpoint.errors import InputError


def small_run(path: Path, verdicts: dict[str, str], *, recipe: dict | None = None, step: int = 5) -> Path:
    """Write a run with one evaluation: letters r, w, u for the answers to every problem."""
    path.mkdir()
    words = {"r": "right", "w": "wrong", "u": "unjudged"}
    rows = [{"prompt_id": p, "verdict": words[v]} for p, letters in verdicts.items() for v in letters]
    shares = [letters.count("r") / sum(v in "rw" for v in letters) for letters in verdicts.values()]
    write_table(path / "evals" / f"step-{step:05d}.parquet", rows)
    lines = [{"step": step, "loss": 0.1, "tokens/learned": 1500, "time/step": 30.0}]
    lines.append(eval_line(step, sum(shares) / len(shares)))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "recipe.json").write_text(json.dumps({"recipe": {"name": path.name, **(recipe or {})}, "seed": 3}))
    return path


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the figures out, which take most of the time of a page."""
    monkeypatch.setattr("forkpoint.analyze.views.compare_runs.overlays", lambda runs: [])


def test_differences_are_paired_by_problem_and_by_hand(tmp_path):
    first = small_run(tmp_path / "one", {"a": "rw", "b": "ww", "c": "wr"})
    second = small_run(tmp_path / "two", {"a": "rr", "b": "wr", "c": "wr"})
    one, two = results([read_run(first), read_run(second)])
    assert all(map(math.isnan, one.difference))
    # Changes 0.5, 0.5, 0: mean 1/3, standard error sqrt(1/12)/sqrt(3) = 1/6, t(2) at 97.5 % = 4.302653.
    assert two.paired
    # No difference of shares is above 1.
    assert two.difference == pytest.approx((1 / 3, 1 / 3 - 4.30265273 / 6, 1.0), abs=1e-6)
    assert two.last == pytest.approx((2 / 3, 2 / 3 - 0.03, 2 / 3 + 0.03))
    assert two.step == 5


@pytest.mark.usefixtures("undrawn")
def test_without_answers_the_difference_comes_from_the_intervals(tmp_path):
    first = small_run(tmp_path / "one", {"a": "rw", "b": "ww"})
    second = small_run(tmp_path / "two", {"a": "rr", "b": "wr"})
    shutil.rmtree(second / "evals")
    two = results([read_run(first), read_run(second)])[1]
    assert not two.paired
    assert two.difference == pytest.approx((0.5, 0.5 - math.hypot(0.03, 0.03), 0.5 + math.hypot(0.03, 0.03)))
    page = Page(write_comparison([first, second], tmp_path / "page.html").read_text("utf-8"))
    assert "as if the problems were independent" in page.text
    assert "two: There are no evals/step-*.parquet files." in page.text


def test_foreign_answers_are_not_paired(tmp_path):
    first = small_run(tmp_path / "one", {"a": "rw", "b": "ww", "c": "wr"})
    second = small_run(tmp_path / "two", {"a": "rr", "b": "wr", "c": "wr"})
    rows = [{"prompt_id": name, "verdict": "right" if name == "a" else "wrong"} for name in "abc"]
    write_table(second / "evals" / "step-00005.parquet", rows)
    assert not results([read_run(first), read_run(second)])[1].paired


@pytest.mark.usefixtures("undrawn")
def test_only_settings_that_differ_are_named(tmp_path):
    common = {"train": {"lr": 1e-4, "steps": 10}, "task": {"name": "x"}, "seed": 1}
    runs = [
        small_run(tmp_path / "one", {"a": "rw"}, recipe=common | {"credit": {"method": "forking", "share": 0.2}}),
        small_run(tmp_path / "two", {"a": "rw"}, recipe=common | {"seed": 2, "credit": {"method": "dapo"}}),
    ]
    assert recipe_differences([read_run(path) for path in runs]) == [
        ["credit.method", "forking", "dapo"],
        ["credit.share", "0.2", "–"],
    ]
    (runs[1] / "recipe.json").unlink()
    assert recipe_differences([read_run(path) for path in runs]) == []
    page = Page(write_comparison(runs, tmp_path / "page.html").read_text("utf-8"))
    assert "Recipes cannot be compared: two has none." in page.text


def test_runs_of_one_name_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        small_run(tmp_path / folder / "run", {"a": "rw"}, recipe={"name": "demo"})
        small_run(tmp_path / folder / "other", {"a": "rw"}, recipe={"name": "demo"})
    read = {name: read_run(tmp_path / name) for name in ("a/run", "a/other", "b/run")}
    assert labels([read["a/run"], read["a/other"]]) == ["demo (run)", "demo (other)"]
    assert labels([read["a/run"], read["b/run"]]) == [str(tmp_path / "a/run"), str(tmp_path / "b/run")]
    assert len(set(labels([read["a/run"], read["a/run"]]))) == 2


def test_whole_page(tmp_path):
    first = write_synthetic_run(tmp_path / "one")
    second = write_synthetic_run(tmp_path / "two", steps=9, seed=5)
    out = tmp_path / "page.html"
    assert write_comparison([first, second], out) == out
    html = out.read_text("utf-8")
    page = Page(html)
    assert page.open == []
    assert sum(tag == "svg" for tag, _ in page.tags) == 7
    assert "None of the runs holds numbers for this figure." in page.text, "no gradient was recorded"
    assert "The last evaluations belong to different steps." in page.text
    assert "synthetic-countdown (one)" in page.text
    assert "so they do not cover what another seed would give" in page.text
    rows = [attrs for tag, attrs in page.tags if tag == "th" and attrs.get("scope") == "row"]
    assert len(rows) == 2
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert html == write_comparison([first, second], out).read_text("utf-8")


@pytest.mark.usefixtures("undrawn")
def test_warnings_are_told_run_by_run(tmp_path):
    first = small_run(tmp_path / "one", {"a": "rw"})
    second = small_run(tmp_path / "two", {"a": "rw"})
    lines = [{"step": step, "entropy/mean": 0.5 / step**2} for step in range(1, 13)]
    (second / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = Page(write_comparison([first, second], tmp_path / "page.html").read_text("utf-8")).text.split("Warnings")[1]
    assert re.search(r"\btwo\b.*Entropy collapse", said, re.DOTALL)
    assert "one" not in said.split("Entropy collapse")[0]


def test_a_run_without_numbers_is_named_and_the_others_drawn():
    steps = [{"step": step, "loss": float(step)} for step in range(3)]
    panel = overlay(["full", "empty", "_under"], [steps, [], steps], "loss", "Loss", "The loss.", unit="loss")
    assert panel.caption == "The loss. Not recorded for empty."
    root = ET.fromstring(panel.svg)
    words = [node.text.strip() for node in root.iter() if node.tag.endswith("text") and node.text]
    assert "full" in words
    assert "_under" in words
    assert "empty" not in words
    assert "full: 0 to 2" in root.get("aria-label")


def test_many_runs_look_different():
    steps = [{"step": step, "reward/mean": float(step)} for step in range(50)]
    panel = overlay([f"run {n}" for n in range(7)], [steps] * 7, "reward/mean", "Reward", "Rewards.", unit="reward")
    styles = [node.get("style", "") for node in ET.fromstring(panel.svg).iter() if node.tag.endswith("path")]
    curves = [style for style in styles if "stroke: var(--series" in style]
    drawn = {tuple(re.findall(r"(?:stroke|stroke-dasharray): [^;]*", style)) for style in curves}
    assert len(drawn) >= 6


def test_hostile_names(tmp_path):
    name = "</script><script>alert(1)</script>$\\frac{x}$\u202e\x00"
    runs = [small_run(tmp_path / folder, {"a": "rw"}, recipe={"name": name}) for folder in ("one", "two")]
    html = write_comparison(runs, tmp_path / "page.html").read_text("utf-8")
    page = Page(html)
    assert page.open == []
    assert [attrs for tag, attrs in page.tags if tag == "script" and not attrs] == [{}]
    assert "<script>alert(1)</script>$\\frac{x}$⟨U+202E⟩⟨U+0000⟩ (one)" in page.text
    assert "\u202e" not in html


@pytest.mark.usefixtures("undrawn")
def test_wrong_input_is_one_sentence(tmp_path):
    run = small_run(tmp_path / "one", {"a": "rw"})
    with pytest.raises(InputError, match="1 run directories were given: a comparison takes 2 to 25"):
        write_comparison([run], tmp_path / "page.html")
    with pytest.raises(InputError, match="nowhere is not a directory"):
        write_comparison([run, tmp_path / "nowhere"], tmp_path / "page.html")
    with pytest.raises(InputError, match="cannot be written"):
        write_comparison([run, run], tmp_path / "nowhere" / "page.html")


def test_bands_stay_inside_their_figure():
    lines = [{"step": step, "a": 0.1, "low": 0.05, "high": 0.95} for step in (1, 2)]
    panel = overlay(["x"], [lines], "a", "A", "", unit="a", band=("low", "high"), percent=True)
    assert "100 %" in panel.svg
    assert "100 %" not in overlay(["x"], [lines], "a", "A", "", unit="a", percent=True).svg
