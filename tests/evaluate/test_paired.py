"""Paired comparisons by hand, against scipy, and on recorded answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from forkpoint.errors import InputError
from forkpoint.evaluate.paired import holm, mcnemar, paired_arrays, paired_bootstrap, paired_test
from forkpoint.evaluate.share_intervals import differences
from forkpoint.evaluate.signflip import MOST, sign_flip
from forkpoint.evaluate.stats import mean_estimate

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not beside the repository")


@needs_data
def test_gsm8k_pair_of_openai():
    rows = [json.loads(line) for line in (DATA / "recorded/gsm8k_openai_6b_175b.jsonl").open()]
    ids = [row["question"] for row in rows]
    small, large = ([float(row[name]["is_correct"]) for row in rows] for name in ("6b_verification", "175b_finetuning"))
    found = paired_test(ids, small, ids, large)
    assert (found.difference.value, found.difference.error) == pytest.approx((0.0432, 0.0144), abs=5e-5)
    assert found.unpaired_error == pytest.approx(0.0188, abs=5e-5)
    assert found.correlation == pytest.approx(0.42, abs=5e-3)
    assert (found.mcnemar.won, found.mcnemar.lost) == (209, 152)
    assert found.mcnemar.exact == pytest.approx(0.00315, abs=5e-6)
    assert found.p_value == pytest.approx(stats.ttest_rel(small, large).pvalue, rel=1e-9)
    assert 0 < found.difference.low < 0.0432 < found.difference.high


def test_the_difference_by_hand():
    # Shared a, b, c: differences 1, 0.5, 0, so mean 0.5 and error 0.5 / sqrt(3), whatever d and e say.
    found = paired_test(list("abbcd"), [1, 1, 0, 0, 1], list("caabe"), [0, 0, 0, 0, 1]).difference
    assert (found.value, found.problems, found.samples) == (0.5, 3, 8)
    assert found.error == pytest.approx(0.5 / math.sqrt(3), abs=1e-15)
    # Student's lower end; its upper one lies beyond 1, which no difference of shares does.
    assert (found.low, found.high) == pytest.approx((0.5 - 4.302652729911275 * found.error, 1.0), abs=1e-9)


def test_scores_outside_the_range_of_shares_have_students_interval():
    a, b = np.array([120.0, 80, 95, 300, 20, 7]), np.array([100.0, 85, 60, 310, 10, 9])
    found = paired_arrays(a, b).difference
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    same = paired_arrays(a + 7, a).difference
    assert (same.low, same.high) == (7.0, 7.0) == (same.value, same.value)


def test_few_gains_are_not_a_small_gain():
    # Two of thirty problems are won outright and the others move by a little: more winners may not have been drawn.
    d = np.array([0.9, 0.8] + [0.02, -0.02] * 14)
    a, b = 0.05 + d.clip(0), 0.05 + (-d).clip(0)
    found = paired_arrays(a, b)
    student = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert found.p_value > 0.05
    assert found.difference.low <= student.low < 0 < student.high < found.difference.high
    low, high = differences(a, b)
    assert (found.difference.low, found.difference.high) == pytest.approx((float(low), float(high)), abs=1e-12)


def test_mcnemar_by_counting():
    # 7 of 8 discordant problems: outcomes at least as uneven are 0, 1, 7, 8 won, (1 + 8 + 8 + 1) / 256.
    found = mcnemar(7, 1)
    assert found.exact == pytest.approx(18 / 256, abs=1e-12)
    assert found.mid == pytest.approx(10 / 256, abs=1e-12)
    assert mcnemar(1, 7).exact == found.exact
    assert (mcnemar(4, 4).exact, mcnemar(4, 4).mid, mcnemar(0, 0).exact) == (1.0, 1.0, 1.0)


def test_only_shared_judged_problems_count():
    found = paired_test(list("abcd"), [1, 1, 0, math.nan], list("bcda"), [0, 0, 1, 1])
    assert (found.difference.problems, found.better, found.worse) == (3, 1, 0)
    assert (found.mcnemar.won, found.mcnemar.lost) == (1, 0)


def test_several_answers_have_no_mcnemar():
    found = paired_test(list("aabb"), [1, 0, 1, 1], list("ab"), [0, 1])
    assert found.mcnemar is None
    assert (found.better, found.worse, found.difference.value) == (1, 0, 0.25)


def test_the_p_value_agrees_with_the_interval():
    rng = np.random.default_rng(0)
    sides = set()
    for _ in range(200):
        found = paired_arrays(rng.integers(0, 5, 12) / 4, rng.integers(0, 5, 12) / 4)
        leaves_out = not found.difference.low < 0 < found.difference.high
        assert (found.p_value < 0.05) == leaves_out
        sides.add(leaves_out)
    assert sides == {True, False}


def test_a_difference_that_student_cannot_see():
    # Ten problems gain a little and one a lot: the error is that of the one.
    a = np.array([0.9] + [0.02] * 10 + [0.0] * 19)
    found = paired_arrays(a, np.zeros(30))
    student = stats.ttest_rel(a, np.zeros(30))
    assert student.pvalue > 0.1
    assert found.p_value == sign_flip(a) < 0.001
    low, high = map(float, differences(a, np.zeros(30)))
    assert low < 0 == found.difference.low
    assert found.difference.high == pytest.approx(high, abs=1e-12)
    mirrored = paired_arrays(np.zeros(30), a)
    assert (mirrored.p_value, mirrored.difference.high) == (found.p_value, 0.0)
    assert mirrored.difference.low == pytest.approx(-high, abs=1e-9)


def test_with_many_differences_it_is_students_test():
    rng = np.random.default_rng(5)
    a, b = rng.random(MOST + 1), rng.random(MOST + 1)
    assert paired_arrays(a, b).p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert sign_flip(a - b) != pytest.approx(paired_arrays(a, b).p_value, rel=1e-9)


def test_the_same_difference_everywhere_is_no_certainty():
    same = paired_arrays([1.0] * 30, [1.0] * 30)
    assert same.p_value == 1.0
    # Bonett and Price: one more problem each way, error sqrt(2 / 32) / sqrt(32) = sqrt(2) / 32.
    half = 1.959963984540054 * math.sqrt(2) / 32
    assert (same.difference.low, same.difference.high) == pytest.approx((-half, half), abs=1e-12)
    all_won = paired_arrays([1.0] * 10, [0.0] * 10)
    assert all_won.p_value == pytest.approx(2 / 2**10)
    assert 0 < all_won.difference.low < 1
    assert all_won.difference.high == 1.0
    # Four of four are too few for the test, so the interval does not leave 0 out either.
    few = paired_arrays([1.0] * 4, [0.0] * 4)
    assert (few.p_value, few.difference.low, few.difference.high) == (2 / 2**4, 0.0, 1.0)


def test_rounding_is_no_difference():
    # The same three scores in another order: their means differ in the last bit.
    first, second = [0.1, 0.2, 0.3] * 20, [0.3, 0.2, 0.1] * 20
    ids = np.repeat(np.arange(20), 3).tolist()
    found = paired_test(ids, first, ids, second)
    assert (found.p_value, found.better, found.worse, found.difference.value) == (1.0, 0, 0, 0.0)
    # Three problems with the same gain but for rounding: the exact sign test, and no error.
    same = paired_arrays([0.3, 0.2, 0.4], [0.1, 0.0, 0.2])
    assert (same.p_value, same.difference.error) == (0.25, 0.0)
    assert same.difference.low < 0 < same.difference.high


@pytest.mark.parametrize("level", [0.5, 0.68, 0.95])
def test_an_interval_holds_its_estimate(level):
    for size in (2, 5, 40):
        for a, b in ((1.0, 0.0), (0.0, 1.0), (0.7, 0.6), (0.5, 0.5)):
            found = paired_arrays([a] * size, [b] * size, level=level).difference
            assert found.low <= found.value <= found.high


def test_a_higher_level_is_wider():
    rng = np.random.default_rng(2)
    a, b = rng.random(30), rng.random(30)
    found = [paired_arrays(a, b, level=level).difference for level in (0.8, 0.95, 0.99)]
    assert found[2].low < found[1].low < found[0].low < found[0].high < found[1].high < found[2].high


def test_one_problem_has_no_error():
    found = paired_arrays([1.0], [0.0])
    assert (found.difference.value, found.difference.problems) == (1.0, 1)
    assert all(map(math.isnan, (found.p_value, found.difference.low, found.unpaired_error, found.correlation)))


def test_paired_bootstrap_draws_problems():
    rng = np.random.default_rng(1)
    a = rng.random(60)
    b = a - 0.1 + 0.02 * rng.standard_normal(60)
    found = paired_bootstrap(a, b)
    assert found.value == pytest.approx(float((a - b).mean()))
    assert found.high - found.low < 0.02, "the spread between problems is not in it"
    assert found == paired_bootstrap(a, b)
    separate = mean_estimate(a, samples=60, interval="bootstrap")
    assert separate.high - separate.low > 0.1


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
    with_gap = holm([math.nan, 0.02, 0.04])
    assert math.isnan(with_gap[0])
    assert with_gap[1:].tolist() == pytest.approx([0.04, 0.04])


def test_mistakes_are_named():
    with pytest.raises(InputError, match="cannot be paired"):
        paired_arrays([1, 0], [1])
    with pytest.raises(InputError, match="not finite"):
        paired_arrays([1, float("nan")], [1, 0])
    with pytest.raises(InputError, match="p value lies outside"):
        holm([0.5, 1.5])
    with pytest.raises(InputError, match="no judged problem in common"):
        paired_test(["a"], [1], ["b"], [1])
    with pytest.raises(InputError, match="0 or more"):
        mcnemar(-1, 2)
    with pytest.raises(InputError, match="level"):
        paired_test(["a", "b"], [1, 1], ["a", "b"], [1, 0], level=95)
