"""When outputs agree with expected ones: tolerance, shapes, the rules for single functions of MBPP+."""

from __future__ import annotations

import math

import pytest

from forkpoint.verify.code_mbpp import arguments_of, number_of
from forkpoint.verify.code_oracle import HEAVIEST, agrees, close, floats, found, rule_of, weight


@pytest.mark.parametrize(
    ("got", "expected", "atol", "fine"),
    [
        (0.1 + 0.2, 0.3, 0, True), ([0.1 + 0.2], [0.3], 0, True), ((0.1 + 0.2,), (0.3,), 0, True),
        (0.30001, 0.3, 0, False), (0.30001, 0.3, 1e-4, True), ([0.3, 1], [0.1 + 0.2, 1], 0, False),
        ([0.3, 1], [0.1 + 0.2, 1], 1e-6, True), (1, 1.0, 0, True), (1, 1.0 + 1e-9, 0, False), ([1.0], (1.0,), 0, False),
        ([1.0, 1.0], [1.0], 1e-6, False), ("a", 1.0, 1e-6, False), (math.nan, math.nan, 1e-6, False),
        (math.inf, math.inf, 1e-6, True), (math.inf, 1.0, 1e-6, False), (1.0, math.inf, 1e-6, False), ([], [], 0, True),
        (True, 1, 0, True), ([[0.1 + 0.2]], [[0.3]], 0, False), ([[0.1 + 0.2]], [[0.3]], 1e-9, True),
        (10**400, 1.5, 1e-6, False), ({"a": 0.3}, {"a": 0.1 + 0.2}, 1e-6, False),
    ],
)  # fmt: skip
def test_equality_and_tolerance(got, expected, atol, fine):
    assert agrees("f", (), got, expected, atol) is fine


def test_the_relative_part_of_the_tolerance():
    assert close(1e9 + 50, 1e9, 0.0)
    assert not close(1e9 + 150, 1e9, 0.0)


def test_rules_for_single_functions():
    assert agrees("similar_elements", (), [5, 4], (4, 5), 0)
    assert not agrees("similar_elements", (), [5], (4, 5), 0)
    assert agrees("sum_div", (), 0, 7, 0)
    assert not agrees("sum_div", (), 1, 7, 0)
    # A square pyramid with base 3 and height 4: 9 + 2 * 3 * sqrt(2.25 + 16), rounded.
    assert agrees("surface_Area", (3, 4), 35, 33, 0)
    assert not agrees("surface_Area", (3, 4), 34, 33, 0)
    # |1 - 0| + |2 - 9| with the shorter number filled up.
    assert agrees("digit_distance_nums", (12, 9), 8, 0, 0)
    assert not agrees("digit_distance_nums", (12, 9), 9, 0, 0)
    assert agrees("find_zero", ([-6.0, 11.0, -6.0, 1.0],), 3.0, 1.0, 1e-4)
    assert not agrees("find_zero", ([-6.0, 11.0, -6.0, 1.0],), 2.5, 1.0, 1e-4)
    assert [found(value) for value in (True, False, None, "match")] == [True, False, False, True]


def test_rules_hold_for_the_rows_of_their_data_sets_alone():
    assert rule_of("sum_div", "Mbpp/126") == "sum_div"
    assert rule_of("find_zero", "HumanEval/32") == "find_zero"
    for entry, row in (("sum_div", "mine/1"), ("sum_div", ""), ("sum_div", "HumanEval/1"), ("find_zero", "Mbpp/1")):
        assert rule_of(entry, row) == ""
    assert not agrees(rule_of("are_equivalent", "mine/1"), (), 1, 2, 0)


def test_what_is_floats():
    assert floats((1.0, 2.0))
    assert not floats([[1.0]])


def test_weight_counts_and_stops():
    assert weight({"a": {1, 2}}) == 5
    many = [[0] * 1000 for _ in range(10**4)]
    assert HEAVIEST < weight(many) < 2 * HEAVIEST
    assert weight("x" * 10**7) > HEAVIEST


@pytest.mark.parametrize(
    ("number", "given", "meant"),
    [
        (2, [[1], [2]], [(1,), (2,)]), (63, [[[1, 2]]], [[(1, 2)]]), (75, [[[1]], 2], [[(1,)], 2]),
        (106, [[1], [2]], [[1], (2,)]), (115, [[[1, 1], []]], [[{1}, {}]]), (124, [1, "2+3j"], [1.0, 2 + 3j]),
        (250, [[1], 2], [(1,), 2]), (259, [[[1]], [[2]]], [((1,),), ((2,),)]), (278, [[1, [2]]], [(1, (2,))]),
        (307, [[1], 2, 3], [(1,), 2, 3]), (722, [{"a": [1]}, 2], [{"a": (1,)}, 2]), (252, ["1+2j"], [1 + 2j]),
        (580, [[1, [2, [3]]]], [(1, (2, (3,)))]), (3, [[[1]]], [[[1]]]), (None, [[1]], [[1]]),
    ],
)  # fmt: skip
def test_types_of_arguments(number, given, meant):
    assert arguments_of(number, given) == meant


def test_numbers_of_problems():
    assert (number_of("Mbpp/2"), number_of(2), number_of(None), number_of("Mbpp/x")) == (2, None, None, None)
