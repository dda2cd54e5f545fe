"""What the engine that sampled could not give: one more forward pass of the training model over its answers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from forkpoint.model import HeadKind, precision
from forkpoint.rollouts import Rollouts
from forkpoint.train.policy import forward_rows, row_lengths

PASS_TOKENS = 16384
"""Most tokens, prompt and answer, in one forward pass."""


@torch.no_grad()
def scored(
    model: Any, rollouts: Rollouts, *, temperature: float, dtype: str = "float32", head: HeadKind = "fused"
) -> tuple[Tensor, Tensor]:
    """Return log-prob and entropy of every recorded token under the model that trains, (B, T) each, in nats.

    Args:
        model: the policy, with the weights that sampled.
        rollouts: the rows.
        temperature: divides the logits; 0 counts as 1.
        dtype: of the products.
        head: which lm-head.

    Raises:
        TrainingError: the logits of a token are not finite.
    """
    logp_BT, entropy_BT = torch.zeros_like(rollouts.logp_BT), torch.zeros_like(rollouts.entropy_BT)
    with evaluating(model), precision(rollouts.ids_BT.device, dtype):
        for rows in passes(row_lengths(rollouts).tolist()):
            index = torch.tensor(rows, device=rollouts.ids_BT.device)
            part = rollouts.select(index, trim=False)
            forward = forward_rows(model, part, temperature=temperature or 1.0, head=head)
            entropy_BT[index] = forward.entropy_BT.to(entropy_BT)
            logp_BT[index] = forward.logp_BT.to(logp_BT)
    return logp_BT, entropy_BT


def rescored(
    model: Any, rollouts: Rollouts, *, temperature: float, dtype: str = "float32", head: HeadKind = "fused"
) -> tuple[Rollouts, float]:
    """Return the rollouts with entropies of the model that trains, and how far its log-probs are from the recorded.

    The recorded log-probs stay those of the engine that sampled: it is the behaviour policy, and importance ratios
    are against it.

    Args:
        model: the policy, with the weights that sampled.
        rollouts: rows whose entropies are not known.
        temperature: they were sampled at; 0 is measured at 1.
        dtype: of the products.
        head: which lm-head.

    Returns:
        Rollouts of kind `rescored`, and the mean |log p - recorded log p| over their tokens, in nats. Rounding
        leaves it small; weights that differ do not.

    Raises:
        TrainingError: the logits of a token are not finite.
    """
    logp_BT, entropy_BT = scored(model, rollouts, temperature=temperature, dtype=dtype, head=head)
    gap_N = (logp_BT - rollouts.logp_BT)[rollouts.mask_BT].abs()
    return dataclasses.replace(rollouts, entropy_BT=entropy_BT, entropy_kind="rescored"), float(gap_N.mean())


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Run the model without dropout, and put its mode back."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def passes(lengths: list[int]) -> list[list[int]]:
    """Cut rows 0, 1, ... into runs of neighbours of at most `PASS_TOKENS`, one row at least."""
    passes: list[list[int]] = [[]]
    total = 0
    for row, length in enumerate(lengths):
        if passes[-1] and total + length > PASS_TOKENS:
            passes.append([])
            total = 0
        passes[-1].append(row)
        total += length
    return passes
