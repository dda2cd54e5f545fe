"""Mini-batches, micro-batches and length buckets."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forkpoint.train.batches import batching_of, length_buckets, micro_batches, mini_batches


def test_mini_batches_keep_groups_whole():
    group_B = torch.tensor([0, 1, 2, 3, 4] * 3)
    minis = mini_batches(group_B, 2, "k", 1)
    assert [mini.numel() for mini in minis] == [6, 6, 3]
    assert sorted(torch.cat(minis).tolist()) == list(range(15))
    for mini in minis:
        groups = group_B[mini]
        assert all(int((groups == g).sum()) == 3 for g in groups.unique())
    assert [m.tolist() for m in minis] == [m.tolist() for m in mini_batches(group_B, 2, "k", 1)]
    assert any([m.tolist() for m in minis] != [m.tolist() for m in mini_batches(group_B, 2, "k", k)] for k in (2, 3, 4))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_micro_batches_fit_the_budget_and_lose_nothing(lengths, budget):
    length_B = torch.tensor(lengths)
    rows = torch.arange(len(lengths))
    cuts = micro_batches(length_B, rows, budget, "k")
    assert sorted(torch.cat(cuts).tolist()) == rows.tolist()
    assert all(cut.numel() == 1 or int(length_B[cut].sum()) <= budget for cut in cuts)


def cost(lengths, buckets, overhead):
    return sum(len(b) * max(lengths[i] for i in b) + overhead for b in buckets)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(0, 40))
def test_buckets_cost_no_more_than_any_other_cut(lengths, overhead):
    buckets = length_buckets(lengths, overhead)
    assert sorted(itertools.chain(*buckets)) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    best = min(
        cost(lengths, [order[a:b] for a, b in itertools.pairwise((0, *cut, len(order)))], overhead)
        for size in range(len(order))
        for cut in itertools.combinations(range(1, len(order)), size)
    )
    assert cost(lengths, buckets, overhead) == best


def test_padding_is_small_on_lengths_like_those_of_answers():
    lengths = [14] * 120 + [28] * 60 + [42] * 40 + [56] * 20 + [110] * 16
    buckets = length_buckets(lengths)
    padded = sum(len(b) * max(lengths[i] for i in b) for b in buckets)
    assert padded < 1.1 * sum(lengths)
    assert padded < 0.4 * len(lengths) * max(lengths)


def test_batching_numbers_micro_batches_across_minis():
    minis = [torch.tensor([0, 2]), torch.tensor([1, 3])]
    micros = [[torch.tensor([0]), torch.tensor([2])], [torch.tensor([3, 1])]]
    batching = batching_of(4, minis, micros)
    assert batching.mini_B.tolist() == [0, 1, 0, 1]
    assert batching.micro_B.tolist() == [0, 2, 1, 2]


def test_one_long_row_is_a_pass_of_its_own():
    cuts = micro_batches(torch.tensor([100, 3]), torch.tensor([0, 1]), 10, "k")
    assert sorted(cut.numel() for cut in cuts) == [1, 1]


@pytest.mark.parametrize("lengths", [[5], [5, 5, 5]])
def test_equal_lengths_are_one_bucket(lengths):
    assert len(length_buckets(lengths)) == 1
