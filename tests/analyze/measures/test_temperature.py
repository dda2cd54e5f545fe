from __future__ import annotations

import math

import pytest
import torch

from forkpoint.analyze.measures.temperature import temperature_curves, two_temperature
from forkpoint.errors import InputError
from forkpoint.evaluate.stats import accuracy, paired_difference

Z = torch.tensor([[1.0, 3.0, 2.0], [4.0, 0.0, 4.0]], dtype=torch.float64)


def test_forks_and_others_are_divided_by_their_own_temperature():
    found = two_temperature(Z, torch.tensor([0.7, 0.1]), 0.672, t_fork=2.0, t_other=0.5)
    assert found.tolist() == [[0.5, 1.5, 1.0], [8.0, 0.0, 8.0]]
    assert found.dtype == torch.float64


def test_the_cut_is_strict_and_nan_is_no_fork():
    found = two_temperature(Z, torch.tensor([0.672, math.nan]), 0.672, t_fork=2.0, t_other=1.0)
    assert torch.equal(found, Z)


def test_temperature_zero_takes_the_first_of_the_most_likely():
    found = two_temperature(Z, torch.tensor([0.0, 1.0]), 0.5, t_fork=0.0, t_other=0.0)
    assert found.softmax(-1).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_temperature_one_changes_nothing_and_half_precision_stays():
    z = Z.to(torch.bfloat16)
    found = two_temperature(z, torch.tensor([1.0, 0.0]), 0.5, t_fork=1.0, t_other=1.0)
    assert torch.equal(found, z)
    assert found.dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [-0.1, math.nan])
def test_temperatures_out_of_range(bad):
    with pytest.raises(InputError, match="t_other is"):
        two_temperature(Z, torch.tensor([1.0, 0.0]), 0.5, t_fork=1.0, t_other=bad)


P = ["a", "a", "b", "b", "c", "c"]
RESULTS = {
    (1.0, 1.0): (P, [1, 0, 1, 1, 0, 0]),
    (2.0, 1.0): (P, [1, 1, 1, 1, 0, 1]),
    (1.0, 0.0): (P, [1, 1, 0, 0, 0, 0]),
    (2.0, 2.0): (P, [0] * 6),
}


def test_curves_hold_one_temperature_still():
    found = temperature_curves(RESULTS)
    assert [point.temperature for point in found.fork] == [1.0, 2.0]
    assert [point.temperature for point in found.other] == [0.0, 1.0]
    assert found.fork[1].accuracy == accuracy(*RESULTS[2.0, 1.0])
    assert found.fork[1].difference == paired_difference(*RESULTS[2.0, 1.0], *RESULTS[1.0, 1.0])
    assert found.fork[1].difference.value == pytest.approx((0.5 + 0.0 + 0.5) / 3)
    assert found.fork[0].difference is None


def test_curves_without_the_reference():
    found = temperature_curves({(2.0, 1.0): RESULTS[2.0, 1.0]})
    assert found.fork[0].difference is None
    assert found.other == ()
    with pytest.raises(InputError, match="no result was decoded"):
        temperature_curves({(2.0, 2.0): RESULTS[2.0, 2.0]})
