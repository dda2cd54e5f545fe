"""What hand cases of advantage methods share: losses of given advantages on the batch of `method_kit`."""

from __future__ import annotations

import torch

from core_batches import learn, random_rollouts
from method_kit import LENGTH

SEQUENCE = [1 / 8, 1 / 4, 1 / 12, 1 / 8]
"""1 / (4 answers * their tokens)."""
TOKEN = [1 / 8] * 4
"""1 / 8 tokens."""
CONSTANT = [1 / 20] * 4
"""1 / (4 answers * the decoder's 5 tokens)."""
SUM = [1 / 4] * 4
"""1 / 4 answers."""


def by_token(advantage):
    """Return one number a token from one number an answer."""
    return [[x] * n for x, n in zip(advantage, LENGTH, strict=True)]


def learned(advantage, table, share):
    """Return share * |A| * table, token by token; `table` has the sign of the loss in it."""
    rows = by_token(advantage) if isinstance(advantage[0], int | float) else advantage
    return [
        [s * abs(a) * x for a, x in zip(answer, clipped, strict=True)]
        for s, answer, clipped in zip(share, rows, table, strict=True)
    ]


def reduces(special, parent, *, change=lambda rollouts, forward: (rollouts, forward), atol=1e-12):
    """Assert that two chains teach the same, on random batches."""
    for seed in range(5):
        rollouts, forward = change(*random_rollouts(seed))
        got, expected = (learn(chain, rollouts, forward) for chain in (special, parent))
        torch.testing.assert_close(torch.tensor(got.value), torch.tensor(expected.value), rtol=0, atol=atol)
        torch.testing.assert_close(got.logp_gradient_BT, expected.logp_gradient_BT, rtol=0, atol=atol)
        assert (expected.logp_gradient_BT != 0).any()
