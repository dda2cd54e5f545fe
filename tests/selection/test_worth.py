"""What more answers are worth: numbers stand in `tests/methods/test_vectors.py`; here what is refused."""

from __future__ import annotations

import pytest

from forkpoint.errors import InputError
from forkpoint.selection.worth import allocate, gain, marginal_gain, uncertainty_value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: marginal_gain(5, 4, 0), "5 right of 4 answers"),
        (lambda: marginal_gain(-1, 4, 0), "-1 right of 4 answers"),
        (lambda: gain(1, 4, -1), "-1 more"),
        (lambda: allocate([1], 4, -1), "the budget is -1 answers"),
        (lambda: uncertainty_value(1.2), "pass rate 1.2"),
        (lambda: uncertainty_value(0.5, float("nan")), "entropy nan"),
    ],
)
def test_what_is_out_of_range_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_no_problem_gets_nothing_and_equal_problems_take_turns():
    assert allocate([], 4, 3) == []
    assert allocate([2, 2], 4, 0) == [0, 0]
    assert allocate([2, 2, 2], 4, 4) == [2, 1, 1]
