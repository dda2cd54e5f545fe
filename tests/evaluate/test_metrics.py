"""Metrics of one sampling: by hand, by enumeration, and the numbers recorded with real answers."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from forkpoint.errors import InputError
from forkpoint.evaluate.graded import equality_classes, graded
from forkpoint.evaluate.metrics import pass_curve, right_counts, summarise
from forkpoint.evaluate.passk import pass_at_k
from forkpoint.evaluate.voting import answer_entropy, best_of, majority, majority_curve, means

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not beside the repository")
NAN = math.nan


def flat(*groups):
    """Return problem and value arrays of lists of values."""
    return np.repeat(np.arange(len(groups)), [len(g) for g in groups]), np.array([v for g in groups for v in g], float)


@pytest.fixture(scope="module")
def qwen():
    rows = [json.loads(line) for line in (DATA / "recorded/qwen25math_math100x8.jsonl").open()]
    ids = [row["idx"] for row in rows for _ in range(8)]
    return graded(
        "qwen", ids, [float(s) for row in rows for s in row["score"]], sample=list(range(8)) * 100,
        answer_class=equality_classes(ids, [p for row in rows for p in row["pred"]], lambda a, b: False),
        score=[s[0] for row in rows for s in row["pred_score"]],
    )  # fmt: skip


@needs_data
def test_cruxeval_as_its_authors_recorded_it():
    recorded = json.loads((DATA / "recorded/cruxeval_codellama7b_output_scored.json").read_text())
    scores = recorded["raw_scored_generations"]
    found = summarise(
        graded("crux", [i for i, row in scores.items() for _ in row], [v for row in scores.values() for v in row])
    )
    assert found.answers == (10, 10)
    assert 100 * found.estimates["pass@1"].value == pytest.approx(34.2125, abs=1e-12)
    assert 100 * found.estimates["pass@5"].value == pytest.approx(40.28670634920636, abs=1e-12)
    assert found.estimates["avg@10"] == found.estimates["pass@1"]


@needs_data
def test_qwen_as_recorded(qwen):
    found = summarise(qwen).estimates
    for name, value in {"avg@8": 0.91, "pass@2": 0.9329, "pass@4": 0.9510, "pass@8": 0.96, "best-of-8": 0.94}.items():
        assert found[name].value == pytest.approx(value, abs=5e-5), name
    assert found["avg@8"].error == pytest.approx(0.0250, abs=5e-5)
    assert (found["avg@8"].problems, found["avg@8"].samples) == (100, 800)
    # One problem is a tie of four to four: half of it counts, or all of it if the first answer wins.
    assert found["maj@8"].value == pytest.approx(0.925, abs=1e-12)
    first = majority(qwen.problem_N, qwen.class_N, qwen.value_N, 100, ties="first")
    assert first.mean() == pytest.approx(0.93, abs=1e-12)


@needs_data
def test_bootstrap_of_the_same_metrics(qwen):
    plain, drawn = summarise(qwen).estimates, summarise(qwen, interval="bootstrap").estimates
    for name in ("pass@4", "maj@8"):
        assert drawn[name].value == plain[name].value
        assert drawn[name].low != plain[name].low
        assert drawn[name].low < drawn[name].value < drawn[name].high <= 1.0


@pytest.mark.parametrize("n", [1, 3, 6])
def test_the_curve_is_that_of_single_problems(n):
    right = np.arange(n + 1)
    curve = pass_curve(np.full(n + 1, n), right, n)
    for c in right:
        assert curve[c] == pytest.approx([pass_at_k(n, c, k) for k in range(1, n + 1)], abs=1e-14)


def test_problems_without_a_verdict_have_no_curve():
    judged, right = right_counts(*flat([1, 0], [NAN, NAN]), 2)
    curve = pass_curve(judged, right, 2)
    assert curve[0].tolist() == [0.5, 1.0]
    assert np.isnan(curve[1]).all()


def test_k_above_the_answers_is_an_error():
    with pytest.raises(InputError, match=r"pass@3 cannot be estimated: a problem has 2 judged answers.*in \[1, 2\]"):
        pass_curve(np.array([4, 2]), np.array([1, 1]), 3)
    with pytest.raises(InputError, match="maj@3 needs k answers a problem: a problem has 2"):
        majority(np.array([0, 0]), np.array([0, 1]), np.array([1.0, 0.0]), 1, k=3)
    with pytest.raises(InputError, match="besides 0 and 1"):
        right_counts(*flat([0.5]), 1)


def test_means_are_per_problem():
    assert means(*flat([1, 0, NAN], [NAN], [0.25]), 3).tolist() == pytest.approx([0.5, NAN, 0.25], nan_ok=True)


def test_majority_by_hand():
    problem, value = flat([1, 1, 0], [0, 0, 1], [1, 0], [0, 0], [1, NAN])
    classes = np.array([0, 0, 1, 0, 0, 1, 0, 1, -1, -1, -1, 0])
    # Majority right; wrong; a tie; nobody votes; the only voter was not judged.
    shared = majority(problem, classes, value, 5)
    assert shared[:4].tolist() == [1.0, 0.0, 0.5, 0.0]
    assert math.isnan(shared[4])
    assert majority(problem, classes, value, 5, ties="first")[:4].tolist() == [1.0, 0.0, 1.0, 0.0]
    # The order within a problem decides, not the number of the class.
    assert majority(np.array([0, 0]), np.array([1, 0]), np.array([0.0, 1.0]), 1, ties="first").tolist() == [0.0]
    with pytest.raises(InputError, match="unknown rule"):
        majority(problem, classes, value, 5, ties="last")


def test_a_class_is_worth_the_mean_of_its_members():
    problem, value = flat([1, 0, 1, 0])
    assert majority(problem, np.array([0, 0, 0, 1]), value, 1).tolist() == pytest.approx([2 / 3])


def test_majority_of_fewer_is_the_mean_over_subsets():
    problem, value = flat([1, 1, 0, 0, 0])
    classes = np.array([0, 0, 1, 2, 2])

    def vote(chosen):
        counts = {c: sum(classes[i] == c for i in chosen) for c in {classes[i] for i in chosen}}
        top = [c for c, n in counts.items() if n == max(counts.values())]
        return sum(c == 0 for c in top) / len(top)

    exact = np.mean([vote(chosen) for chosen in combinations(range(5), 3)])
    drawn = majority(problem, classes, value, 1, k=3, draws=6000)[0]
    assert drawn == pytest.approx(exact, abs=0.02)
    assert majority(problem, classes, value, 1, k=5)[0] == vote(range(5))
    assert majority(problem, classes, value, 1, k=3)[0] == majority(problem, classes, value, 1, k=3)[0]


def test_no_answer_does_not_vote_in_subsets_either():
    problem, value = flat([0, 0, 1], [1, 1, 0])
    found = majority(problem, np.array([-1, -1, 0, 0, 0, -1]), value, 2, k=1, draws=3000)
    assert found.tolist() == pytest.approx([1 / 3, 2 / 3], abs=0.03)


def test_several_k_come_from_the_same_subsets():
    problem, value = flat([1, 1, 0, 0, 0], [1, 0, 1, 1, 1])
    classes = np.array([0, 0, 1, 2, 2, 0, 1, 0, 0, 0])
    curve = majority_curve(problem, classes, value, 2, [1, 3, 5])
    for place, k in enumerate((1, 3, 5)):
        assert curve[:, place].tolist() == majority(problem, classes, value, 2, k=k).tolist()
    assert len({tuple(column) for column in curve.T.tolist()}) == 3


def test_majority_of_one_is_the_mean():
    problem, value = flat([1, 1, 0, 0, 0], [1, 0, 1, 1, 1])
    classes = np.tile([0, 0, 1, 2, 2], 2)
    classes[5:] = [0, 1, 0, 0, 0]
    assert majority(problem, classes, value, 2, k=1, draws=4000).tolist() == pytest.approx([0.4, 0.8], abs=0.03)


def test_best_of_by_hand():
    problem, value = flat([0, 1, 1], [1, 0], [1, 0], [NAN, 0])
    score = np.array([0.1, 0.9, 0.2, 0.5, 0.5, NAN, NAN, 2.0, 1.0])
    assert best_of(problem, score, value, 4).tolist() == pytest.approx([1.0, 0.5, NAN, NAN], nan_ok=True)


def test_answer_entropy_by_hand():
    found = answer_entropy(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, -1, 3, 3]), 3)
    assert found[:2].tolist() == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(4), 0.0])
    assert math.isnan(found[2])


def test_everything_of_one_sampling():
    found = summarise(
        graded(
            "a", ["x", "x", "y", "y"], [1, 0, 1, NAN], length=[10, 30, 5, 15], truncated=[0, 1, 0, 0],
            format=[1, 1, 1, 0], entropy=[5.0, 15.0, 1.0, 3.0], entropy_bound=True, notes=["a note."],
        )
    )  # fmt: skip
    value = {name: one.value for name, one in found.estimates.items()}
    assert value == pytest.approx(
        {"avg@1-2": 0.75, "pass@1": 0.75, "format": 0.75, "truncated": 0.25, "length": 15.0, "entropy, at least": 0.35}
    )
    assert (found.answers, found.unjudged) == ((1, 2), 1)
    assert found.notes[0] == "a note."
    assert found.notes[1] == "1 of 4 answers of a were not judged and are left out."
    assert "1 to 2 judged answers: pass@k is given up to k = 1" in found.notes[2]


def test_scores_have_no_pass_at_k():
    found = summarise(graded("a", ["x", "y"], [0.5, 3.0]))
    assert list(found.estimates) == ["avg@1"]
    assert found.estimates["avg@1"].high > 3, "Student's interval is not cut to [0, 1]"
    assert "no pass@k" in found.notes[0]


def test_nothing_judged_is_not_a_number():
    found = summarise(graded("a", ["x", "y"], [NAN, NAN]))
    (only,) = found.estimates.values()
    assert math.isnan(only.value)
    assert (only.problems, found.answers, found.unjudged) == (0, (0, 0), 2)


def test_one_problem_has_a_value_and_no_interval():
    found = summarise(graded("a", ["x", "x"], [1, 0])).estimates["pass@2"]
    assert found.value == 1.0
    assert math.isnan(found.low)


def test_order_of_answers_does_not_matter():
    rng = np.random.default_rng(0)
    ids, values = np.repeat(np.arange(9), 5), rng.integers(0, 2, 45)
    order = rng.permutation(45)
    one, other = (summarise(graded("a", list(i), v)).estimates for i, v in ((ids, values), (ids[order], values[order])))
    for name, estimate in one.items():
        assert (estimate.value, estimate.low) == pytest.approx((other[name].value, other[name].low), abs=1e-12)


@pytest.mark.parametrize(
    ("problems", "values", "extra", "said"),
    [
        ([], [], {}, "holds no answer"),
        (["x", None], [1, 0], {}, "answer 2 of a has no problem id"),
        (["x", ""], [1, 0], {}, "answer 2 of a has no problem id"),
        (["x", "y"], [1], {}, "2 problem ids do not match 1 values"),
        (["x", "x"], [1, 0], {"sample": [3, 3]}, "sample 3 of problem 'x' twice"),
        (["x", "x"], [1, 0], {"sample": [3]}, "1 sample numbers do not match 2 problem ids"),
        (["x"], [math.inf], {}, "infinite value"),
        (["x", "y"], [1, 0], {"length": [3]}, "length_N has 1 rows for 2 answers"),
    ],
)
def test_bad_answers_are_named(problems, values, extra, said):
    with pytest.raises(InputError, match=said):
        graded("a", problems, values, **extra)


def test_equality_is_asked_no_more_than_needed():
    asked = []

    def equal(first, answer):
        asked.append((first, answer))
        return {first, answer} == {"1/2", "0.5"}

    answers = ["1/2", "0.5", "3", "0.5", None, "", "1/2", "3"]
    assert equality_classes(["p"] * 8, answers, equal).tolist() == [0, 0, 1, 0, -1, -1, 0, 1]
    assert asked == [("1/2", "0.5"), ("1/2", "3")]
    assert equality_classes(["p", "q"], ["0.5", "1/2"], equal).tolist() == [0, 0], "problems do not share classes"
