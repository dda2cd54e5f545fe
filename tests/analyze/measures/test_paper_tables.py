from __future__ import annotations

import math

import numpy as np
import pytest

from forkpoint.analyze.measures.paper_tables import Answers, compare_methods, overlap_over_checkpoints
from forkpoint.errors import InputError
from forkpoint.evaluate.paired import paired_test
from forkpoint.evaluate.stats import accuracy

NAN = float("nan")


def test_overlap_by_hand():
    base = [5.0, 4.0, 0.0, 0.0, 3.0, 1.0, 0.5, 0.2]
    middle = [5.0, 0.0, 0.0, 1.0, 9.0, 0.0, 8.0, 7.0]
    final = [0.0, 0.0, 6.0, 5.0, 9.0, 0.0, 8.0, 0.0]
    found = overlap_over_checkpoints({0: base, 4: middle, 9: final}, [0, 4, 8], share=0.5)
    # Pooled tops of 4: base {0,1,4,5}, middle {0,4,6,7}, final {2,3,4,6}.
    assert [row.base.value for row in found.rows] == [1.0, 0.5, 0.25]
    assert [row.final.value for row in found.rows] == [0.25, 0.5, 1.0]
    # In each answer the top 2: base {0,1 | 4,5}, middle {0,3 | 4,6}, final {2,3 | 4,6}.
    assert [row.base_each.value for row in found.rows] == [1.0, 0.5, 0.25]
    assert [row.final_each.value for row in found.rows] == [0.25, 0.75, 1.0]
    assert (found.chance, found.chance_each) == (0.5, 0.5)


def test_overlap_of_noise_is_the_chance_level():
    rng = np.random.default_rng(4)
    offsets = np.arange(0, 20_001, 100)
    found = overlap_over_checkpoints({0: rng.random(20_000), 1: rng.random(20_000)}, offsets)
    row = found.rows[1]
    assert found.chance == pytest.approx(0.2)
    for interval in (row.base, row.base_each):
        assert interval.low < 0.2 < interval.high
        assert interval.high - interval.low < 0.05


def test_a_response_counts_once_however_long_it_is():
    base = [1.0, 0.0, *range(8)]
    final = [0.0, 1.0, *range(8)]
    found = overlap_over_checkpoints({0: base, 1: final}, [0, 2, 10], share=0.5)
    assert found.rows[1].base_each.value == 0.5  # 0 of 1 and 4 of 4, not 4 of 5


def test_overlap_at_its_limits():
    assert overlap_over_checkpoints({3: [1.0, 2.0]}, [0, 2]).rows[0].base.value == 1.0
    one = overlap_over_checkpoints({0: [1.0], 1: [2.0]}, [0, 1])
    assert (one.rows[1].base.value, one.chance) == (1.0, 1.0)
    left = overlap_over_checkpoints({0: [1.0, 2.0, NAN], 1: [NAN, 1.0, 2.0]}, [0, 3])
    assert (left.tokens, left.left_out) == (1, 2)
    with pytest.raises(InputError, match="all entropies of step 1 are equal"):
        overlap_over_checkpoints({0: [1.0, 2.0], 1: [2.0, 2.0]}, [0, 2])
    with pytest.raises(InputError, match="no checkpoint"):
        overlap_over_checkpoints({}, [0])
    with pytest.raises(InputError, match="step 0 has 2, step 1 has 1"):
        overlap_over_checkpoints({0: [1.0, 2.0], 1: [1.0]}, [0, 2])


def answers(values, lengths):
    return Answers(problem=["p", "p", "q", "q", "r", "r"], value=values, length=lengths)


ALL = answers([0, 0, 1, 1, 1, 0], [10, 20, 30, 30, 20, 10])
TOP = answers([1, 0, 1, 1, 1, NAN], [20, 30, 40, 40, 30, 20])


def test_comparison_is_paired_by_problem():
    row, other, average = compare_methods({"a": ALL, "b": ALL, "c": ALL}, {"b": ALL, "a": TOP})
    assert row.benchmark == "a"
    assert (row.accuracy[0].value, row.accuracy[1].value) == pytest.approx((0.5, 2.5 / 3))
    assert row.accuracy_difference == paired_test(TOP.problem, TOP.value, ALL.problem, ALL.value).difference
    assert row.accuracy_difference.value == pytest.approx((0.5 + 0.0 + 0.5) / 3)
    assert row.length_difference.value == pytest.approx(10.0)
    assert row.length[0] == accuracy(ALL.problem, ALL.length)
    assert other.accuracy_difference.value == 0.0
    assert average.benchmark == "average"
    assert average.accuracy_difference.value == pytest.approx(1 / 6)
    error = row.accuracy_difference.error / 2
    assert average.accuracy_difference.error == pytest.approx(error)
    assert average.accuracy_difference.high == pytest.approx(1 / 6 + 1.959964 * error)
    assert math.isclose(average.length[1].value, (30.0 + 20.0) / 2)
    both = compare_methods({"a": ALL, "b": ALL}, {"b": TOP, "a": TOP})[-1]
    assert both.accuracy_difference.error == pytest.approx(row.accuracy_difference.error / math.sqrt(2))


def test_methods_without_a_common_benchmark():
    with pytest.raises(InputError, match="share no benchmark"):
        compare_methods({"a": ALL}, {"b": ALL})
    assert len(compare_methods({"a": ALL}, {"a": TOP})) == 1
