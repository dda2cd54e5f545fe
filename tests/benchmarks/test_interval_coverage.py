"""What `benchmarks/interval_coverage.py` rests on: an interval that is too narrow is seen, and true values are true."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import interval_coverage as coverage

from forkpoint.evaluate import intervals


def cell(repetitions=600):
    return coverage.average_cell((1.0, 1.0), 30, 4, repetitions, np.random.default_rng(0))


def test_an_interval_of_the_wrong_width_is_seen(monkeypatch):
    assert 92.5 < cell() < 98.5
    monkeypatch.setattr(intervals, "clustered_wilson", lambda values: intervals.student(values, 0.8))
    assert 74 < cell() < 86


def test_true_values_of_curves_and_votes_are_inside():
    passes = coverage.pass_cells((1.0, 1.0), 50, 400, np.random.default_rng(1))
    assert all(91 < value <= 100 for value in passes)
    assert 91 < coverage.majority_cell((1.0, 1.0), 50, 4, 400, np.random.default_rng(2)) <= 100


@pytest.mark.parametrize("redrawn", [False, True])
def test_false_alarms_of_the_paired_test(redrawn):
    alarms, differing = coverage.size_cell((1.0, 1.0), 30, 4, redrawn, 1000, np.random.default_rng(3))
    assert 3 < alarms < 7.5
    assert 15 < differing < 30


def test_batches_are_all_of_it():
    assert sum(coverage.batches(5000, 500)) == 5000
    assert max(coverage.batches(5000, 500)) * 500 * 64 <= coverage.DRAWN_AT_ONCE


def test_cells_outside_the_goal_are_marked_and_counted():
    assert [coverage.mark(v, (93, 97)) for v in (92.94, 92.96, 97.1)] == ["92.9 *", "93.0", "97.1 *"]
    assert coverage.count({1: 92.0, 2: 95.0, 3: 99.0, 4: 96.0}, (93, 97)) == (
        "2 of 4 cells within 93-97 %, 1 below, 1 above; lowest 92.0 %, highest 99.0 %"
    )
