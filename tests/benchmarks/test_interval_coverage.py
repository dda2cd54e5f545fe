"""What `benchmarks/interval_coverage.py` rests on: an interval that is too narrow is seen, and true values are true."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import interval_coverage as coverage
import interval_populations as populations

from forkpoint.evaluate import intervals, share_intervals
from forkpoint.evaluate.paired import paired_arrays

EVEN, HARD = [(1.0, "beta", 1.0, 1.0)], [(1.0, "beta", 1.0, 3.0)]


def cell(repetitions=600):
    chance = populations.right_answers(HARD, 4)
    return coverage.coverage_cell(chance, np.arange(5) / 4, 30, repetitions, np.random.default_rng(0))


def test_an_interval_of_the_wrong_width_is_seen(monkeypatch):
    assert 92.5 < cell().percent < 98
    narrow = share_intervals.shares
    monkeypatch.setattr(share_intervals, "shares", lambda values, weights: narrow(values, 0.8, weights=weights))
    assert 74 < cell().percent < 86


@pytest.mark.parametrize("name", populations.POPULATIONS)
def test_chances_are_those_of_what_is_drawn(name):
    population, rng = populations.POPULATIONS[name], np.random.default_rng(1)
    right = rng.binomial(4, populations.draw(population, (20_000,), rng))
    assert np.bincount(right, minlength=5) / 20_000 == pytest.approx(
        populations.right_answers(population, 4), abs=0.015
    )


def test_values_of_a_problem():
    found = {(name, k): (chance, value) for name, k, chance, value in coverage.measures(EVEN)}
    # Of Beta(1, 1): the mean is 1/2, pass@k is k / (k + 1), a majority of either kind is as likely.
    for (name, k), (chance, value) in found.items():
        true = k / (k + 1) if name == "pass" else 0.5
        assert float(chance @ value) == pytest.approx(true, abs=1e-9)
    assert len(found) == 11


def test_what_discreteness_leaves():
    one = np.array([0.1, 0.9]), np.array([0.0, 1.0])
    # 20 problems: P(20 right) is 12 %, P(15 or fewer) 4.3 %, P(14 or fewer) 1.1 %.
    expected = 1 - stats.binom.cdf(14, 20, 0.9)
    assert populations.central_share(*one, 20) == pytest.approx(expected, abs=1e-9)
    fine = populations.right_answers(EVEN, 64), np.arange(65) / 64
    assert populations.central_share(*fine, 100) == pytest.approx(0.95, abs=0.002)


def test_alarms_are_those_of_the_paired_test():
    rng = np.random.default_rng(2)
    drawn = [rng.integers(-1, 2, (150, 20)), rng.standard_t(1.2, (150, 20)).clip(-9, 9) / 9, np.zeros((3, 20))]
    drawn.append(rng.normal(0.1, 0.3, (50, 80)))
    for rows in drawn:
        expected = [paired_arrays(row, np.zeros(len(row))).p_value < 0.05 for row in rows]
        assert coverage.alarms(rows.astype(float)).tolist() == expected
    assert coverage.alarms(drawn[1]).sum() > sum(stats.ttest_1samp(drawn[1], 0, axis=1).pvalue < 0.05)


@pytest.mark.parametrize("redrawn", [False, True])
def test_false_alarms_of_the_paired_test(redrawn):
    found = coverage.size_cell(EVEN, 30, 4, redrawn, 1000, np.random.default_rng(3))
    assert 3 < found.percent < 7.5
    assert not found.discrete
    rare = coverage.size_cell([(1.0, "point", 0.02, 0.0)], 20, 1, redrawn, 200, np.random.default_rng(4))
    assert rare.discrete


def test_a_true_difference_is_known():
    # Of what is missing, 0.5 of all, two fifths go in half the problems: 0.1.
    found = coverage.difference_cells(EVEN, "half the problems", 200, 16, 400, np.random.default_rng(5))
    assert all(91 < cell.percent < 98.5 for cell in found)


@pytest.mark.parametrize(("share", "part"), [(0.1, 0.8), (0.01, 0.1)])
def test_a_true_difference_is_judged_as_paired_test_would(share, part, monkeypatch):
    monkeypatch.setitem(coverage.GAINS, "this", (share, part))
    found, plain = coverage.difference_cells(HARD, "this", 20, 64, 400, np.random.default_rng(8))
    rng = np.random.default_rng(8)
    before = populations.draw(HARD, (400, 20), rng)
    after = np.where(rng.random(before.shape) < share, before + part * (1 - before), before)
    a, b = rng.binomial(64, after) / 64, rng.binomial(64, before) / 64
    true, ends = share * part * 0.75, [paired_arrays(*pair).difference for pair in zip(a, b, strict=True)]
    assert found.percent == pytest.approx(100 * np.mean([end.low <= true <= end.high for end in ends]))
    assert plain.percent < found.percent - 1, "Student's interval misses more, and is told apart"


def test_methods_are_compared_on_the_same_kind_of_values():
    chance, value = populations.right_answers(HARD, 4), np.arange(5) / 4
    for name in ("shares (default)", "Student"):
        assert 91 < coverage.method_cell(name, chance, value, 30, np.random.default_rng(6)).percent < 98.5


def test_batches_are_all_of_it():
    assert sum(coverage.batches(5000, 500)) == 5000
    assert max(coverage.batches(5000, 500)) * 500 <= coverage.DRAWN_AT_ONCE


def test_cells_outside_the_goal_are_marked_and_counted():
    def made(percent, discrete=False):
        return coverage.Cell(percent=percent, repetitions=5000, discrete=discrete)

    marks = [coverage.mark(made(v), (93, 97)) for v in (91.0, 92.8, 95.04, 97.2, 98.0)]
    assert marks == ["91.0 *", "92.8", "95.0", "97.2", "98.0 +"]
    cells = {1: made(92.8), 2: made(95.0), 3: made(99.0, True), 4: made(91.0)}
    assert coverage.count(cells, (93, 97)) == (
        "1 of 4 within 93-97 %, 2 below and 1 above (1 and 1 beyond their own noise); lowest 91.0 %, highest 99.0 %"
    )
    assert "1 of 3 within" in coverage.both_counts(cells, (93, 97))


def test_a_test_that_is_too_eager_is_seen(monkeypatch):
    narrow = intervals.student
    monkeypatch.setattr(intervals, "student", lambda values, level=0.95: narrow(values, 0.8))
    assert coverage.size_cell(EVEN, 30, 4, False, 500, np.random.default_rng(7)).percent > 14
