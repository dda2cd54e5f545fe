"""Optimal transport: the two ways to its plan, and what it costs in counted exponentials."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from forkpoint.credit.transport import (
    _logarithmic_plan,
    _scaled_plan,
    _uniform,
    distances,
    nearest_opposite,
    sinkhorn_cost,
    spans_of,
)


def measures(seed=0, pairs=5, points=12, spread=1.0):
    """Costs between points of the plane, and masks that leave one pair without a second measure."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (spread * torch.rand(pairs, points, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    masks = [torch.rand(pairs, points, generator=generator) < 0.7 for _ in range(2)]
    for mask in masks:
        mask[:, 0] = True
    masks[1][-1] = False
    return torch.cdist(a, b), *masks


@pytest.mark.parametrize("epsilon", [1.0, 0.2, 0.02])
@pytest.mark.parametrize("iterations", [1, 3, 200])
def test_scaling_and_logarithms_give_one_plan(epsilon, iterations):
    cost, a, b = measures()
    scaled = torch.where(a[:, :, None] & b[:, None, :], cost, 0.0) / -epsilon
    shares = [_uniform(mask, cost.dtype) for mask in (a, b)]
    one, other = (plan(scaled, *shares, iterations=iterations) for plan in (_scaled_plan, _logarithmic_plan))
    torch.testing.assert_close(one[:-1], other[:-1], rtol=0, atol=1e-12)
    assert (one[-1] == 0).all(), "a measure without points moves nothing"
    torch.testing.assert_close(one[:-1].sum(1), shares[1][:-1], rtol=0, atol=1e-12)


def test_it_stops_where_nothing_changes_and_not_before():
    cost, a, b = measures()
    counted = []
    for iterations in (1, 2, 4000):
        with Numbers() as numbers:
            counted.append(sinkhorn_cost(cost, a, b, epsilon=0.3, iterations=iterations))
    torch.testing.assert_close(
        counted[2][:-1], sinkhorn_cost(cost, a, b, epsilon=0.3, iterations=300)[:-1], rtol=0, atol=1e-13
    )
    assert numbers.calls["aten.clamp.default"] < 2 * 200, "far fewer than 4000 times"
    assert float((counted[0] - counted[2])[:-1].abs().max()) > 1e-6
    assert float((counted[1] - counted[2])[:-1].abs().max()) > 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_far_above_epsilon_do_not_underflow(dtype):
    """exp(-C/ε) is 0 in the given precision, then in float64 too: the cost stays that of the assignment."""
    cost, a, b = measures(points=6)
    for spread in (50.0, 500.0):
        got = sinkhorn_cost((spread * cost).to(dtype), a, b, epsilon=1.0, iterations=500)
        exact = sinkhorn_cost(spread * cost, a, b, epsilon=1.0, iterations=500)
        assert got[:-1].isfinite().all()
        torch.testing.assert_close(got[:-1].double(), exact[:-1], rtol=1e-4 if dtype == torch.float32 else 0, atol=1e-9)


class Numbers(TorchDispatchMode):
    """Counts calls by operation, and the numbers that exponentials and logarithms of them make."""

    def __init__(self):
        super().__init__()
        self.calls, self.exponentials = {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        out = function(*arguments, **(keywords or {}))
        self.calls[str(function)] = self.calls.get(str(function), 0) + 1
        if str(function).split(".")[1] in ("exp", "exp_", "logsumexp"):
            self.exponentials += arguments[0].numel()
        return out


def test_a_transport_takes_one_exponential_a_pair_of_points_whatever_the_iterations():
    hidden = torch.randn(4, 40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spans = spans_of(torch.tensor([40, 33, 40, 7]), width=10, stride=5)
    right = torch.tensor([True, True, False, False])
    found = []
    for iterations in (1, 50):
        with Numbers() as numbers:
            found.append(
                nearest_opposite(
                    hidden, spans, torch.zeros(4, dtype=torch.int64), right, ~right,
                    scale_B=torch.ones(4, dtype=torch.float64), epsilon=1.0, iterations=iterations,
                )
            )  # fmt: skip
        assert numbers.exponentials == 2 * 2 * 7 * 7 * 10 * 10, "four pairs of answers, seven spans each"
    assert not torch.equal(*found)


@pytest.mark.parametrize("epsilon", [1.0, 0.05])
def test_the_nearest_opposite_is_the_least_of_all_pairs_one_by_one(epsilon):
    """Answers of every length, two groups, one answer that nobody judged; against a loop over pairs of spans."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 23, 3, generator=generator, dtype=torch.float64)
    length = torch.tensor([23, 1, 9, 16, 10, 0, 22])
    hidden[torch.arange(23)[None] >= length[:, None]] = torch.nan
    group = torch.tensor([0, 0, 0, 1, 1, 1, 0])
    right = torch.tensor([True, False, True, False, True, True, False])
    wrong = torch.tensor([False, True, False, True, False, False, False])
    spans = spans_of(length, width=6, stride=4)
    scale = torch.tensor([2.0, 2.0, 2.0, 0.5, 0.5, 0.5, 2.0], dtype=torch.float64)
    got = nearest_opposite(hidden, spans, group, right, wrong, scale_B=scale, epsilon=epsilon, budget=500)
    for k in range(spans.row_K.numel()):
        least = torch.inf
        for o in range(spans.row_K.numel()):
            i, j = int(spans.row_K[k]), int(spans.row_K[o])
            if group[i] != group[j] or not ((right[i] and wrong[j]) or (wrong[i] and right[j])):
                continue
            ends = [(i, k), (j, o)] if right[i] else [(j, o), (i, k)]  # the right answer is scaled first
            points = [hidden[row, spans.start_K[s] : spans.start_K[s] + spans.size_K[s]] for row, s in ends]
            cost = torch.cdist(*points)[None] / scale[i]
            every = [torch.ones(1, len(x), dtype=torch.bool) for x in points]
            least = min(least, sinkhorn_cost(cost, *every, epsilon=epsilon).item())
        assert got[k].item() == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_are_those_of_differences_in_float64(dtype):
    generator = torch.Generator().manual_seed(2)
    one, other = (torch.randn(2, n, 8, generator=generator, dtype=torch.float64).to(dtype) for n in (5, 7))
    other[:, 3] = one[:, 2]
    got = distances(one, other)
    exact = (one.double()[:, :, None] - other.double()[:, None]).norm(dim=3)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, rtol=1e-7, atol=1e-6 if dtype == torch.float32 else 1e-15)
    assert (exact == 0).sum() == 2
