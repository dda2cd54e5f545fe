"""Variance split, detectable difference and training seeds, by hand and by simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from forkpoint.errors import InputError
from forkpoint.evaluate.power import (
    VarianceSplit,
    advice,
    detectable_difference,
    planned_error,
    resolution,
    variance_split,
)
from forkpoint.evaluate.seeds import seed_effect, seeds_difference
from forkpoint.evaluate.stats import accuracy

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not beside the repository")


@needs_data
def test_the_split_of_recorded_answers_gives_their_error_back():
    rows = [json.loads(line) for line in (DATA / "recorded/qwen25math_math100x8.jsonl").open()]
    ids, values = [r["idx"] for r in rows for _ in range(8)], [float(s) for r in rows for s in r["score"]]
    split = variance_split(ids, values)
    assert planned_error(split, problems=100, samples=8) == pytest.approx(accuracy(ids, values).error, abs=1e-12)
    assert planned_error(split, problems=100, samples=8) == pytest.approx(0.0250, abs=5e-5)
    naive = np.std(values, ddof=1) / math.sqrt(800)
    assert naive == pytest.approx(0.0101, abs=5e-5)
    assert split.share_between > 0.9


def test_split_by_hand():
    # Problem a: 1, 0 (s² 0.5, mean 0.5); b: 1, 1, 1 (0, 1); c: one answer 0.
    split = variance_split(list("aabbbc"), [1, 0, 1, 1, 1, 0])
    assert split.within == pytest.approx(0.25)
    # var of 0.5, 1, 0 is 0.25; noise 0.25 * (1/2 + 1/3 + 1) / 3.
    assert split.between == pytest.approx(0.25 - 0.25 * (11 / 6) / 3)
    assert (split.problems, split.samples) == (3, pytest.approx(18 / 11))


def test_noise_alone_has_no_variance_between():
    split = variance_split(list("aabb"), [1, 0, 1, 0])
    assert (split.between, split.within) == (0.0, 0.5)
    assert advice(split).endswith("more answers help most.")


def test_one_answer_a_problem_tells_no_split():
    split = variance_split(list("abc"), [1, 0, math.nan])
    assert math.isnan(split.within)
    assert (split.between, split.problems) == (0.5, 2)
    assert "does not tell" in advice(split)
    assert planned_error(split, problems=50, samples=1) == pytest.approx(math.sqrt(0.5 / 50))
    with pytest.raises(InputError, match="at least two"):
        planned_error(split, problems=50, samples=4)


def test_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    size, spread = 25, 0.3
    least = detectable_difference(spread / 5, problems=size)
    drawn = least + spread * rng.standard_normal((4000, size))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / 5)
    assert (t > 2.0639).mean() == pytest.approx(0.8, abs=0.025)


def test_thirty_problems_cannot_resolve_five_points():
    # 30 problems, half of them solved once: error sqrt(0.5 / 30) of an unpaired difference.
    least = detectable_difference(math.sqrt(2 * 0.25 / 30), problems=30)
    assert resolution(least, problems=30).startswith("These 30 problems cannot resolve 5 points")
    assert "1319 problems can resolve 5 points" in resolution(0.04, problems=1319)
    assert "at least two" in resolution(math.nan, problems=1)


def test_planning_mistakes_are_named():
    split = VarianceSplit(between=0.1, within=0.1, problems=10, samples=2)
    with pytest.raises(InputError, match="positive"):
        planned_error(split, problems=0, samples=2)
    with pytest.raises(InputError, match="between 0 and 1"):
        detectable_difference(0.1, problems=30, power=80)
    with pytest.raises(InputError, match="2 problem ids do not match 1"):
        variance_split(["a", "b"], [1.0])
    assert math.isnan(detectable_difference(0.1, problems=1))


def test_two_seeds_by_hand():
    # Rows 0.4, 0.6 means; columns 0.25, 0.5, 0.75; all of it additive, so the rest is 0.
    y = np.array([[0.15, 0.4, 0.65], [0.35, 0.6, 0.85]])
    found = seed_effect(y)
    by_seed, by_problem = 3 * 2 * 0.1**2 / 1, 2 * 2 * 0.25**2 / 2
    assert found.estimate.value == pytest.approx(0.5)
    assert found.estimate.error == pytest.approx(math.sqrt((by_seed + by_problem) / 6), abs=1e-12)
    assert found.seed == pytest.approx(math.sqrt(by_seed / 3), abs=1e-12)
    assert found.problem == pytest.approx(math.sqrt(by_problem / 2), abs=1e-12)
    assert found.degrees == pytest.approx((by_seed + by_problem) ** 2 / (by_seed**2 / 1 + by_problem**2 / 2))


def test_what_seeds_and_problems_do_together_is_taken_off_once():
    # Sums of squares: seeds 2/3 (1 degree), problems 7/75 (2), rest 1/75 (2).
    found = seed_effect([[0.0, 0.1, 0.2], [0.6, 0.7, 1.0]])
    squares = (2 / 3, 7 / 150, 1 / 150)
    assert found.estimate.error == pytest.approx(math.sqrt((squares[0] + squares[1] - squares[2]) / 6), abs=1e-12)
    assert found.seed == pytest.approx(math.sqrt((squares[0] - squares[2]) / 3), abs=1e-12)
    assert found.problem == pytest.approx(math.sqrt((squares[1] - squares[2]) / 2), abs=1e-12)


def test_one_seed_is_the_clustered_error():
    values = np.random.default_rng(1).random(40)
    found = seed_effect(values[None])
    expected = accuracy(range(40), values)
    assert (found.estimate.value, found.estimate.error) == pytest.approx((expected.value, expected.error), abs=1e-12)
    assert math.isnan(found.seed)


def test_intervals_over_seeds_cover_other_seeds_and_problems():
    rng, inside, naive, rounds = np.random.default_rng(2), 0, 0, 600
    for _ in range(rounds):
        y = (
            0.5
            + 0.05 * rng.standard_normal((5, 1))
            + 0.2 * rng.standard_normal(100)
            + 0.1 * rng.standard_normal((5, 100))
        )
        found = seed_effect(y).estimate
        inside += found.low <= 0.5 <= found.high
        one = y.mean(0)
        naive += abs(one.mean() - 0.5) < 1.984 * one.std(ddof=1) / 10
    assert 0.92 <= inside / rounds <= 0.985
    assert naive / rounds < 0.90, "problems alone are not all of the error"


def test_difference_over_seeds_by_hand():
    a, b = np.array([[0.6, 0.8], [0.8, 1.0]]), np.array([[0.5, 0.4]])
    found, p = seeds_difference(a, b)
    # d = 0.2, 0.5: variance 0.045 over 2 problems; seeds of a: means 0.7, 0.9, no rest, so sd² = 0.02 over 2 seeds.
    assert found.value == pytest.approx(0.35)
    assert found.error == pytest.approx(math.sqrt(0.045 / 2 + 0.02 / 2), abs=1e-12)
    assert (found.problems, found.samples) == (2, 3)
    assert 0.05 < p < 1


def test_seeds_without_any_spread_claim_no_certainty():
    right = seed_effect(np.ones((2, 50))).estimate
    assert (right.error, right.high) == (0.0, 1.0)
    assert right.low == pytest.approx(accuracy(range(50), [1.0] * 50).low)
    # But for rounding the same everywhere.
    nearly = seed_effect([[0.1 + 0.2] * 9, [0.3] * 9])
    assert (nearly.estimate.error, nearly.seed) == (0.0, 0.0)
    found, p = seeds_difference([[0.1 + 0.2, 0.4 - 0.1, 0.3]] * 2, [[0.1, 0.1, 0.1]] * 2)
    assert found.error == 0.0
    assert math.isnan(p)
    lengths = seed_effect(np.full((2, 5), 120.0)).estimate
    assert (lengths.low, lengths.high) == (120.0, 120.0)


def test_differences_of_shares_over_seeds_stay_among_shares():
    found, _ = seeds_difference([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert -1 <= found.low < found.value < found.high == 1.0
    scores, _ = seeds_difference([[10.0, 0.0, 10.0], [0.0, 10.0, 10.0]], [[0.0, 10.0, 0.0], [10.0, 0.0, 0.0]])
    assert scores.high > 10


def test_seed_mistakes_are_named():
    with pytest.raises(InputError, match="two problems or more"):
        seed_effect([[1.0]])
    with pytest.raises(InputError, match="not finite"):
        seed_effect([[1.0, math.nan]])
    with pytest.raises(InputError, match="2 and 3 problems"):
        seeds_difference([[1.0, 0.0]], [[1.0, 0.0, 1.0]])
