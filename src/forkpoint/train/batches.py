"""Cutting rows into mini-batches, micro-batches and length buckets, so that no work is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forkpoint.scope import Batching
from forkpoint.seeds import generator

BUCKET_TOKENS = 128
"""What one more pass costs, in padded tokens: a bucket is split where that saves more padding. Measured on a CPU
with a model of a million parameters; a GPU may want more, which has not been measured."""


def mini_batches(group_B: Tensor, mini_prompts: int, *parts: str | int) -> list[Tensor]:
    """Return the rows of each optimiser update: whole groups, in an order drawn from the key `parts`.

    Args:
        group_B: int64 (B,).
        mini_prompts: groups an update.
        parts: key of the shuffle, for example (seed, "mini", step, epoch).

    Returns:
        int64 row indices, one tensor an update; the last may be smaller.
    """
    groups = torch.unique(group_B)
    groups = groups[torch.from_numpy(generator(*parts).permutation(groups.numel())).to(groups.device)]
    cuts = groups.split(mini_prompts)
    return [torch.cat([(group_B == group).nonzero().squeeze(1) for group in cut]) for cut in cuts]


def micro_batches(length_B: Tensor, rows: Tensor, micro_tokens: int, *parts: str | int) -> list[Tensor]:
    """Return the rows of each forward/backward pass: at most `micro_tokens` tokens, in an order drawn from `parts`.

    Membership is random rather than sorted, so that a statistic of scope `micro` sees short and long answers.

    Args:
        length_B: int64 (B,), tokens of prompt and answer.
        rows: int64, the rows of one mini-batch.
        micro_tokens: most tokens a pass; a single longer row makes a pass of its own.
        parts: key of the shuffle.
    """
    order = rows[torch.from_numpy(generator(*parts).permutation(rows.numel())).to(rows.device)]
    cuts: list[list[int]] = [[]]
    used = 0
    for row, length in zip(order.tolist(), length_B[order].tolist(), strict=True):
        if cuts[-1] and used + length > micro_tokens:
            cuts.append([])
            used = 0
        cuts[-1].append(row)
        used += length
    return [torch.tensor(cut, device=rows.device) for cut in cuts]


def length_buckets(lengths: Sequence[int], bucket_tokens: int = BUCKET_TOKENS) -> list[list[int]]:
    """Return indices of rows grouped by similar length, at the least total cost.

        cost = Σ over buckets of (rows * longest row + bucket_tokens)

    minimised exactly by dynamic programming over the sorted distinct lengths.

    >>> length_buckets([3, 300, 4, 290], bucket_tokens=64)
    [[0, 2], [3, 1]]
    >>> length_buckets([])
    []
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    distinct = sorted(set(lengths))
    count = dict.fromkeys(distinct, 0)
    for length in lengths:
        count[length] += 1
    before = [0]
    for length in distinct:
        before.append(before[-1] + count[length])
    best = [0.0]
    start = [0]
    for end in range(1, len(distinct) + 1):
        longest = distinct[end - 1]
        cost, first = min(
            (best[begin] + (before[end] - before[begin]) * longest + bucket_tokens, begin) for begin in range(end)
        )
        best.append(cost)
        start.append(first)
    cuts, end = [], len(distinct)
    while end > 0:
        cuts.append((before[start[end]], before[end]))
        end = start[end]
    return [order[a:b] for a, b in reversed(cuts)]


def batching_of(rows: int, minis: Sequence[Tensor], micros: Sequence[Sequence[Tensor]]) -> Batching:
    """Return the mini- and micro-batch of every row."""
    mini_B = torch.zeros(rows, dtype=torch.int64)
    micro_B = torch.zeros(rows, dtype=torch.int64)
    number = 0
    for index, (mini, cuts) in enumerate(zip(minis, micros, strict=True)):
        mini_B[mini.cpu()] = index
        for cut in cuts:
            micro_B[cut.cpu()] = number
            number += 1
    device = minis[0].device if len(minis) else torch.device("cpu")
    return Batching(mini_B=mini_B.to(device), micro_B=micro_B.to(device))
