from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest
from scipy.stats import binomtest
from synthetic_run import write_synthetic_run

from forkpoint.analyze.rundata import read_run
from forkpoint.analyze.views.summary import facts, header, paired_difference, times
from forkpoint.evaluate.stats import unpaired_difference


def evaluation(verdicts: dict[str, str]) -> pa.Table:
    rows = [{"prompt_id": p, "verdict": v} for p, letters in verdicts.items() for v in map(WORDS.get, letters)]
    return pa.Table.from_pylist(rows)


WORDS = {"r": "right", "w": "wrong", "u": "unjudged"}


def test_paired_difference_by_hand():
    before = evaluation({"a": "rw", "b": "ww", "c": "wu", "d": "rw", "gone": "rr"})
    after = evaluation({"a": "rr", "b": "wr", "c": "rr", "d": "ww", "new": "ww"})
    # Changes 0.5, 0.5, 1, -0.5: mean 3/8, variance 19/48, standard error sqrt(19/192), t(3) at 97.5 % = 3.182446.
    difference, low, high = paired_difference(before, after)
    assert difference == pytest.approx(3 / 8, abs=1e-12)
    assert difference - low == pytest.approx(3.18244631 * math.sqrt(19 / 192), abs=1e-6)
    assert high == 1.0, "Student's end lies beyond what a difference of shares can be"


def test_paired_difference_needs_two_shared_problems():
    assert all(map(math.isnan, paired_difference(evaluation({"a": "r"}), evaluation({"a": "w", "b": "w"}))))


def test_unpaired_difference_agrees_with_newcombe_example():
    # Newcombe (1998), example (a): 56/70 - 48/80, Wilson intervals; the paper gives 0.0524 to 0.3339.
    first, second = (
        (right / of, *binomtest(right, of).proportion_ci(method="wilson")) for right, of in ((48, 80), (56, 70))
    )
    difference, low, high = unpaired_difference(first, second)
    assert difference == pytest.approx(0.2, abs=1e-12)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_summary_of_a_whole_run(tmp_path):
    run = read_run(write_synthetic_run(tmp_path / "run"))
    by_label = {fact.label: fact for fact in facts(run)}
    first, last = run.evaluations[0], run.evaluations[-1]
    change = 100 * (last["eval/accuracy"] - first["eval/accuracy"])
    assert by_label["Accuracy"].before == f"{100 * first['eval/accuracy']:.1f}\xa0%"
    assert by_label["Accuracy"].after == f"{100 * last['eval/accuracy']:.1f}\xa0%"
    assert by_label["Difference"].before == f"{change:+.1f} points"
    assert "paired by problem" in by_label["Difference"].detail
    assert by_label["Training steps"].before == "12"
    assert by_label["Tokens credited"].before == "20.0\xa0%"


def test_evaluations_that_do_not_explain_the_curve_are_not_paired(tmp_path):
    run = read_run(write_synthetic_run(tmp_path / "run"))
    run.evaluations[-1]["eval/accuracy"] = 0.9
    details = {fact.label: fact.detail for fact in facts(run)}
    assert "as if the problems were independent" in details["Difference"]


def test_no_change_on_any_problem_is_no_certainty(tmp_path):
    path = write_synthetic_run(tmp_path / "run")
    (path / "evals" / "step-00012.parquet").write_bytes((path / "evals" / "step-00000.parquet").read_bytes())
    run = read_run(path)
    run.evaluations[-1]["eval/accuracy"] = run.evaluations[0]["eval/accuracy"]
    (detail,) = (fact.detail for fact in facts(run) if fact.label == "Difference")
    assert "-4.2 to +4.2, paired by problem" in detail


def test_one_evaluation_is_said(tmp_path):
    run = read_run(write_synthetic_run(tmp_path / "run"))
    del run.evaluations[1:]
    shown = {fact.label: fact for fact in facts(run)}
    assert "only one evaluation so far" in shown["Accuracy"].detail
    assert "Difference" not in shown


def test_time_split_sums_to_one_and_names_the_rest(tmp_path):
    run = read_run(write_synthetic_run(tmp_path / "run", steps=2))
    run.metrics[:] = [
        {"step": s, "time/decode": 5, "time/verify": 1, "time/credit": 1, "time/update": 2, "time/step": 10}
        for s in (1, 2)
    ]
    split = times(run)
    assert [(name, share) for name, share, _ in split] == [
        ("decode", 0.5),
        ("verify", 0.1),
        ("credit", 0.1),
        ("update", 0.2),
        ("other", 0.1),
    ]
    assert [spent for _, _, spent in split] == ["10 s", "2.0 s", "2.0 s", "4.0 s", "2.0 s"]
    run.metrics[:] = [{"step": 1, "loss": 1.0}]
    assert times(run) == []


def test_header_shows_method_and_links_as_calls(tmp_path):
    run = read_run(write_synthetic_run(tmp_path / "run"))
    shown = header(run)
    assert shown["name"] == "synthetic-countdown"
    assert shown["method"] == "forking(share=0.2, scope=mini)"
    assert shown["chain"] == [
        "group_advantage(std=true)",
        "clip(low=0.2, high=0.28)",
        "top_entropy(share=0.2)",
    ]
    assert (shown["model"], shown["task"], shown["seed"]) == ("models/countdown-1m", "countdown", "17")
    assert shown["versions"]["torch"] == "2.13.0"
    run.recipe["recipe"]["credit"] = [{"link": "clip", "low": 0.2}]
    assert header(run)["method"] == "a chain of its own"


@pytest.mark.parametrize(
    "recipe", [{}, {"recipe": []}, {"recipe": {"model": 3, "credit": 4}, "chain": 5, "versions": 6}]
)
def test_header_of_a_foreign_recipe(tmp_path, recipe):
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    shown = header(read_run(tmp_path))
    assert shown["name"] == tmp_path.name
    assert shown["chain"] == []
