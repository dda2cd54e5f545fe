"""The fusion of two tensors, against a plain restatement of its formula."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from forkpoint.merge.fusion import fuse, importance, row_divergence, threshold

torch.set_default_dtype(torch.float32)


def by_hand(other, base):
    """The formula on lists, one number at a time."""

    def softmax(row):
        top = max(row)
        weights = [math.exp(value - top) for value in row]
        return [weight / sum(weights) + 1e-8 for weight in weights]

    importances = []
    for o, b in zip(other, base, strict=True):
        k = sum(p * math.log(p / q) for p, q in zip(softmax(o), softmax(b), strict=True))
        importances.append([abs(x - y) * k for x, y in zip(o, b, strict=True)])
    flat = [value for row in importances for value in row]
    low, middle, high = statistics.quantiles(flat, n=4, method="inclusive")
    limit = middle + 1.5 * (high - low)
    merged = [
        [x if i >= limit else y for x, y, i in zip(o, b, row, strict=True)]
        for o, b, row in zip(other, base, importances, strict=True)
    ]
    return importances, limit, merged


OTHER = [[0.5, -1.0, 2.0, 0.25], [1.0, 1.0, 1.0, 1.5], [0.0, 3.0, -2.0, 0.125]]
BASE = [[0.5, -1.0, 1.5, 0.0], [1.0, 1.0, 1.0, 1.0], [0.25, 0.0, -2.0, 0.0]]


def test_against_the_formula_by_hand():
    importances, limit, merged = by_hand(OTHER, BASE)
    other, base = torch.tensor(OTHER), torch.tensor(BASE)
    found = importance(other, base, row_divergence(other, base))
    torch.testing.assert_close(found, torch.tensor(importances, dtype=torch.float64), rtol=1e-12, atol=1e-15)
    assert threshold(found.flatten()) == pytest.approx(limit, rel=1e-12)
    assert fuse(other, base).tolist() == merged
    assert 0 < sum(m != b for x, y in zip(merged, BASE, strict=True) for m, b in zip(x, y, strict=True)) < 6


def test_a_vector_is_one_row_and_more_dimensions_are_rows_of_the_last():
    other, base = torch.tensor(OTHER), torch.tensor(BASE)
    assert (
        fuse(other.flatten(), base.flatten()).tolist()
        == by_hand([other.flatten().tolist()], [base.flatten().tolist()])[2][0]
    )
    assert torch.equal(fuse(other.view(3, 1, 4), base.view(3, 1, 4)), fuse(other, base).view(3, 1, 4))


def test_equal_weights_come_out_as_they_are():
    base = torch.tensor(BASE)
    divergence = row_divergence(base, base)
    assert divergence.tolist() == [0.0] * 3
    assert threshold(importance(base, base, divergence).flatten()) == 0.0
    assert torch.equal(fuse(base, base), base)


def test_small_changes_have_an_importance_above_rounding():
    """Second order in the change: k is near half the variance of the difference under the softmax."""
    torch.manual_seed(0)
    base = torch.randn(8, 512) * 0.02
    change = torch.randn(8, 512) * 1e-4
    k = row_divergence(base + change, base)
    difference = (base + change).double() - base.double()
    q = torch.softmax(base.double(), -1)
    variance = (q * difference**2).sum(-1) - (q * difference).sum(-1) ** 2
    torch.testing.assert_close(k, variance / 2, rtol=1e-3, atol=0)


def test_bfloat16_keeps_its_values():
    other, base = torch.tensor(OTHER).bfloat16(), torch.tensor(BASE).bfloat16()
    merged = fuse(other, base)
    assert merged.dtype == torch.bfloat16
    assert merged.tolist() == by_hand(other.tolist(), base.tolist())[2]


def test_a_single_number_is_the_others():
    """Its softmax is 1 in both, so its importance is 0, and so is the threshold, which it reaches."""
    assert fuse(torch.tensor([5.0]), torch.tensor([3.0])).tolist() == [5.0]
    assert fuse(torch.tensor(5.0), torch.tensor(3.0)).item() == 5.0
