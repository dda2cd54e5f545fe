"""Scopes, exact counts, ties, quantiles and the order of tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forkpoint.errors import InputError
from forkpoint.scope import (
    SCOPES,
    Batching,
    exact_count,
    one_batch,
    quantile,
    rank_key,
    segment_sum,
    segments,
    token_order,
    top_count,
)


def test_segments_of_every_scope():
    group_B = torch.tensor([4, 4, 9, 9, 4])
    batching = Batching(mini_B=torch.tensor([1, 1, 0, 0, 1]), micro_B=torch.tensor([2, 3, 0, 0, 3]))
    expected = {
        "sequence": [0, 1, 2, 3, 4],
        "group": [0, 0, 1, 1, 0],
        "micro": [1, 2, 0, 0, 2],
        "mini": [1, 1, 0, 0, 1],
        "rollout": [0, 0, 0, 0, 0],
    }
    assert set(expected) == set(SCOPES)
    for scope, rows in expected.items():
        assert segments(scope, group_B=group_B, batching=batching).tolist() == rows


def test_segments_of_no_rows():
    for scope in SCOPES:
        empty = segments(scope, group_B=torch.zeros(0, dtype=torch.int64), batching=one_batch(0))
        assert empty.shape == (0,)
        assert segment_sum(torch.zeros(0), empty).shape == (0,)


def test_unknown_scope_names_the_nearest():
    with pytest.raises(InputError, match="unknown scope 'rolout': did you mean 'rollout'"):
        segments("rolout", group_B=torch.zeros(1, dtype=torch.int64), batching=one_batch(1))


def test_batching_selects_rows():
    batching = Batching(mini_B=torch.tensor([0, 1, 1]), micro_B=torch.tensor([0, 1, 2])).select(torch.tensor([2, 0]))
    assert (batching.mini_B.tolist(), batching.micro_B.tolist()) == ([1, 0], [2, 0])


def test_segment_sum():
    got = segment_sum(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 2, 0, 2]))
    assert got.tolist() == [5.0, 0.0, 10.0]


@pytest.mark.parametrize(
    ("share", "total", "count"),
    [
        (0.2, 0, 0),
        (0.2, 1, 1),
        (0.2, 4, 1),
        (0.2, 5, 1),
        (0.2, 6, 2),
        (0.2, 10, 2),
        (0.2, 11, 3),
        (0.1, 30, 3),  # 0.1 * 30 is 3.0000000000000004
        (0.07, 100, 7),  # 7.000000000000001
        (1 - 0.8, 5, 1),  # 0.19999999999999996
        (0.001, 10, 1),
        (1.0, 7, 7),
        (0.999, 7, 7),
        (1 / 3, 9, 3),
        (0.2, 2**25, 6710887),
    ],
)
def test_exact_count(share, total, count):
    assert exact_count(share, total) == count


@given(thousandths=st.integers(1, 1000), total=st.integers(1, 10**6))
def test_exact_count_is_the_ceiling_of_the_decimal_share(thousandths, total):
    assert exact_count(thousandths / 1000, total) == max(1, -(-thousandths * total // 1000))


QS = (0.0, 0.1, 0.2, 1 - 0.9, 1 - 0.2, 0.3, 0.5, 0.8, 0.95, 0.999, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantile_is_torch_quantile_bit_for_bit(dtype):
    generator = torch.Generator().manual_seed(0)
    for size in [*range(1, 130), 1000, 9999, 300_001]:
        values = torch.randn(size, generator=generator, dtype=dtype)
        if size % 2:
            values = (values * 4).round() / 4  # many ties
        for q in QS:
            assert torch.equal(quantile(values, q), torch.quantile(values, q)), (size, q)


def test_quantile_by_hand():
    values = torch.tensor([4.0, 1.0, 3.0, 2.0], dtype=torch.float64)
    # Rank 0.3 * 3 = 0.9 lies nine tenths of the way from 1 to 2.
    assert float(quantile(values, 0.3)) == pytest.approx(1.9, abs=1e-12)
    assert quantile(values, 0.0) == 1
    assert quantile(values, 1.0) == 4


def test_quantile_of_more_values_than_torch_takes():
    """The highest rank is 2^24 + 1, which float32 would round to 2^24: the second largest value."""
    values = torch.zeros(2**24 + 2)
    values[5], values[77] = 2.0, 1.0
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(values, 1.0)
    assert quantile(values, 1.0) == 2
    assert quantile(values, 0.0) == 0


def test_token_order_is_uniform():
    order = token_order(("a", "b", "c", "d"), torch.arange(4), torch.zeros(4, dtype=torch.int64), 25_000, 5)
    assert order.dtype == torch.int64
    assert int(order.min()) >= 0
    assert int(order.max()) < 1 << 53
    assert order.unique().numel() == order.numel()
    u = order.double() / (1 << 53)
    # Kolmogorov-Smirnov at n = 100,000: 1.95 / sqrt(n) is exceeded once in a thousand.
    n = u.numel()
    distance = (u.flatten().sort().values - (torch.arange(n) + 0.5) / n).abs().max() + 0.5 / n
    assert float(distance) < 1.95 / math.sqrt(n)
    # Neighbours in position, and the same positions of different problems, are uncorrelated.
    centred = u - 0.5
    assert abs(float((centred[:, 1:] * centred[:, :-1]).mean() * 12)) < 4 / math.sqrt(n)
    assert abs(float((centred[0] * centred[1]).mean() * 12)) < 4 / math.sqrt(n / 4)
    # Low bits are as good as high bits.
    assert abs(float((order & 1).double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("salt", [0, 1, -7, 2**63 - 1, 2**70])
def test_token_order_depends_on_the_token_alone(salt):
    ids = ("a", "b", "c")
    group_B, sample_B = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 5])
    order = token_order(ids, group_B, sample_B, 6, salt)
    rows = torch.tensor([3, 1, 0])
    assert torch.equal(token_order(ids, group_B[rows], sample_B[rows], 6, salt), order[rows])
    assert torch.equal(token_order(ids, group_B, sample_B, 9, salt)[:, :6], order)
    renumbered = token_order(("c", "a", "b"), torch.tensor([1, 1, 2, 0]), sample_B, 6, salt)
    assert torch.equal(renumbered, order)


def test_token_order_depends_on_problem_sample_position_and_salt():
    zero = torch.zeros(1, dtype=torch.int64)
    base = token_order(("a",), zero, zero, 4, 0)
    assert not torch.isin(token_order(("b",), zero, zero, 4, 0), base).any()
    assert not torch.isin(token_order(("a",), zero, zero + 1, 4, 0), base).any()
    assert not torch.isin(token_order(("a",), zero, zero, 4, 1), base).any()


def naive_top(value, mask, counts, segment, order):
    """Take tokens one at a time: the largest value first, among equals the smallest order."""
    chosen = [[False] * len(row) for row in value]
    for s, count in enumerate(counts):
        tokens = [
            (-value[i][t], order[i][t], i, t)
            for i in range(len(value))
            for t in range(len(value[i]))
            if mask[i][t] and segment[i] == s
        ]
        for _, _, i, t in sorted(tokens)[:count]:
            chosen[i][t] = True
    return chosen


@st.composite
def selections(draw):
    B, T, S = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    grid = lambda cell: st.lists(st.lists(cell, min_size=T, max_size=T), min_size=B, max_size=B)  # noqa: E731
    value = draw(grid(st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, 7.0])))
    order = draw(st.permutations(range(B * T)))
    return (
        value,
        draw(grid(st.booleans())),
        draw(st.lists(st.integers(0, B * T), min_size=S, max_size=S)),
        draw(st.lists(st.integers(0, S - 1), min_size=B, max_size=B)),
        [list(order[i * T : (i + 1) * T]) for i in range(B)],
    )


@settings(deadline=None, max_examples=150)
@given(selections())
def test_top_count_equals_a_naive_loop(selection):
    value, mask, counts, segment, order = selection
    got = top_count(
        torch.tensor(value, dtype=torch.float64),
        torch.tensor(mask),
        torch.tensor(counts),
        torch.tensor(segment),
        torch.tensor(order),
    )
    assert got.tolist() == naive_top(value, mask, counts, segment, order)


def test_top_count_ignores_what_is_masked_out():
    value = torch.tensor([[float("nan"), 1.0, float("inf")]])
    mask = torch.tensor([[False, True, False]])
    got = top_count(value, mask, torch.tensor([2]), torch.tensor([0]), torch.zeros(1, 3, dtype=torch.int64))
    assert got.tolist() == [[False, True, False]]


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=2, max_size=30))
def test_rank_keys_have_the_order_of_their_floats(values):
    for dtype in (torch.float32, torch.float64):
        value = torch.tensor(values, dtype=dtype)
        key = rank_key(value)
        for compare in (torch.lt, torch.eq):
            assert compare(key[:, None], key).equal(compare(value[:, None], value))
