"""Contracts of every method on cost: memory in units of its inputs, and a number of operations that no size changes."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import torch
from method_table import EVERY, ROWS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core_batches import random_rollouts
from forkpoint.credit import credit_of

HIDDEN = {"hidden", "forward_hidden"}


class Counting(TorchDispatchMode):
    """Counts operations, and the most bytes of their results that live at one time."""

    def __init__(self):
        super().__init__()
        self.operations = self.live = self.peak = 0
        self.holders = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.hold(leaf)
        return out

    def hold(self, tensor):
        """A storage lives as long as any tensor that looks at it."""
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if not size:
            return
        if not self.holders.get(key):
            self.live += size
            self.peak = max(self.peak, self.live)
        self.holders[key] = self.holders.get(key, 0) + 1
        weakref.finalize(tensor, self.drop, key, size)

    def drop(self, key, size):
        self.holders[key] -= 1
        if not self.holders[key]:
            self.live -= size


def counted(name, rows, length):
    rollouts, forward = random_rollouts(
        1, lengths=[length] * rows, groups=[i // (rows // 4) for i in range(rows)], dtype=torch.float32
    )
    narrow = {key: x.float() if x.is_floating_point() else x for key, x in rollouts.extra.items()}
    rollouts = dataclasses.replace(rollouts, extra=narrow)
    with Counting() as counts:
        for given in (rollouts, forward):
            for tensor in tensors(given):
                counts.holders[tensor.untyped_storage().data_ptr()] = 1  # inputs are not counted
        credit = credit_of(ROWS[name].make(), rollouts, forward=forward)
    assert credit.advantage_BT.shape == (rows, length)
    return counts


def tensors(given):
    return [x for value in vars(given).values() for x in (value.values() if isinstance(value, dict) else [value])
            if isinstance(x, torch.Tensor)]  # fmt: skip


# Rows and positions are many times as many; operations may depend on the number of groups, which is the same.
@EVERY
def test_memory_is_bounded_and_no_operation_is_repeated_for_every_row_or_token(name):
    """Inputs: ids, mask, and log-prob and entropy of both policies, 25 bytes a token."""
    small, large = counted(name, 8, 16), counted(name, 32, 64)
    assert large.operations <= small.operations + 24
    if not ROWS[name].make().needs & HIDDEN:  # hidden states are larger than anything else a token has
        assert large.peak < 20 * 25 * 32 * 64


def test_the_counter_counts_what_lives():
    with Counting() as counts:
        kept = [torch.zeros(100) for _ in range(5)]
        assert counts.live == 2000
        views = [x[:10] for x in kept]
        del kept
        assert counts.live == 2000
        del views
        gc.collect()
        assert (counts.live, counts.peak, counts.operations) == (0, 2000, 10)
