"""Statistics by hand, and against numbers computed independently on recorded answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from forkpoint.errors import InputError
from forkpoint.evaluate.share_intervals import dirichlet
from forkpoint.evaluate.stats import accuracy, mean_estimate, problem_means

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not beside the repository")
NAN = math.nan


def test_clustered_error_by_hand():
    # Means 1, 0.5, 0: mean 0.5, variance 0.25 with n - 1, error 0.5 / sqrt(3); t(0.975, 2) = 4.3026527299.
    estimate = accuracy(list("aabbcc"), [1, 1, 1, 0, 0, 0])
    assert (estimate.value, estimate.problems, estimate.samples) == (0.5, 3, 6)
    assert estimate.error == pytest.approx(0.5 / math.sqrt(3), abs=1e-15)
    assert (estimate.low, estimate.high) == tuple(map(float, dirichlet([1, 0.5, 0])))
    scores = accuracy(list("aabbcc"), [10, 10, 10, 0, 0, 0])
    half = 4.302652729911275 * 5 / math.sqrt(3)
    assert (scores.low, scores.high) == pytest.approx((5 - half, 5 + half), abs=1e-9)


def test_a_ragged_problem_weighs_as_much_as_any_other():
    # 'a' is right once in four, 'b' once in one: the mean of means is 0.625, not 2 of 5.
    estimate = accuracy(list("aaaab"), [1, 0, 0, 0, 1])
    assert estimate.value == 0.625
    assert estimate.error == pytest.approx(math.sqrt(2 * 0.375**2) / math.sqrt(2), abs=1e-15)


def test_unjudged_answers_are_left_out():
    with_gaps = accuracy(list("aaabbc"), [1, 0, NAN, 1, NAN, NAN])
    without = accuracy(list("aab"), [1, 0, 1])
    assert with_gaps == without
    assert (without.problems, without.samples) == (2, 3)


@pytest.mark.parametrize(
    ("right", "low", "high"),
    # Wilson at 95 %: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n); 9 of 30 by mid-p: 0.1573 to 0.4797.
    [(0, 0.0, 0.1135), (30, 0.8865, 1.0), (9, 0.1573, 0.4797)],
)
def test_one_answer_a_problem(right, low, high):
    problems, values = list(range(30)), [1] * right + [0] * (30 - right)
    estimate = accuracy(problems, values)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-4)
    plain = mean_estimate(values, samples=30, interval="wilson")
    z, n, p = 1.959963984540054, 30, right / 30
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert plain.low == pytest.approx((centre - half) / (1 + z * z / n), abs=1e-12)
    assert plain.high == pytest.approx((centre + half) / (1 + z * z / n), abs=1e-12)
    assert estimate.low <= plain.low
    assert plain.high <= estimate.high


def test_all_right_is_no_certainty():
    several = accuracy([p for p in range(30) for _ in range(4)], [1] * 120)
    assert several.low == accuracy(list(range(30)), [1] * 30).low < 1
    assert several.error == 0.0


def test_level_widens_the_interval():
    narrow, wide = (accuracy(list("aabbcc"), [1, 0, 1, 1, 0, 0], level=level) for level in (0.5, 0.9))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


@pytest.mark.parametrize("values", [[], [NAN], [1.0], [1.0, 0.0]])
def test_fewer_than_two_problems_have_no_error(values):
    estimate = accuracy(["only"] * len(values), values)
    assert all(math.isnan(x) for x in (estimate.low, estimate.high, estimate.error))
    judged = [v for v in values if not math.isnan(v)]
    assert (estimate.value == np.mean(judged)) if judged else math.isnan(estimate.value)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="2 problem ids do not match 1 values"):
        problem_means(["a", "b"], [1.0])
    with pytest.raises(InputError, match="level"):
        accuracy(["a", "b"], [1, 0], level=95)
    with pytest.raises(InputError, match="'shares' needs values in"):
        mean_estimate([1.0, 2.0], samples=2, interval="shares")


@needs_data
def test_qwen_clustered_error():
    rows = [json.loads(line) for line in (DATA / "recorded/qwen25math_math100x8.jsonl").open()]
    estimate = accuracy(
        [row["idx"] for row in rows for _ in row["score"]], [float(s) for row in rows for s in row["score"]]
    )
    assert (estimate.value, estimate.problems, estimate.samples) == (pytest.approx(0.910), 100, 800)
    assert estimate.error == pytest.approx(0.0250, abs=5e-5)
