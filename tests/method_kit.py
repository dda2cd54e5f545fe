"""What the test of a method is made of: rows for the contracts, and cases worked out by hand on one shared batch.

`tests/methods/test_MODULE.py` holds `ROWS` and `CASES`; the contracts collect them from there. The batch has two
problems with two answers each, of 2, 1, 3 and 2 tokens. Rewards 1, 0 | 0, 2. Ratios π/π_old and entropies:

    answer 0   r 1.5  0.9        H 0.3  0.9
    answer 1   r 0.5             H 0.5
    answer 2   r 1.1  0.7  1.0   H 0.8  0.2  0.05
    answer 3   r 1.3  1.15       H 0.1  0.7

Behaviour and current policy have the same entropies. Group-normalised advantages: group 0 has mean 1/2 and unbiased
deviation sqrt(1/2), group 1 mean 1 and deviation sqrt(2), so A = (+A0, -A0 | -A1, +A1). Of a clipped token only the
value counts: with A > 0 a ratio above the bound, with A < 0 one below it.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from core_batches import Learned, Micros, learn, padded, rollouts_of, with_extra
from forkpoint import methods
from forkpoint.credit import Chain
from forkpoint.rollouts import Forward, Rollouts


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method, or a variant of one, and what it declares to the contracts."""

    method: str
    make: Callable[[], Chain]
    micro: bool = False
    """Whether its result depends on how a mini-batch is cut into passes."""
    teaches: bool = True
    """Whether random batches give it a gradient at all."""
    level_teaches: bool = False
    """Whether it may teach from equal rewards, penalties and regularisers aside."""
    bfloat16: float = 1e-4
    """How far, relative to the largest, gradients from recorded bfloat16 may lie from those of the same numbers in
    float64. More than rounding of the loss only where differences of recorded numbers enter."""


def row(method: str, make: Callable[[], Chain] | None = None, **arguments: Any) -> Row:
    """Return a row: the method with these arguments, or the chain that `make` returns."""
    declared = {k: arguments.pop(k) for k in ("micro", "teaches", "level_teaches", "bfloat16") if k in arguments}
    return Row(method=method, make=make or (lambda: methods.METHODS[method](**arguments)), **declared)


def collected(name: str) -> dict[str, Any]:
    """Return the entries of a dict of this name in every file of `tests/methods`."""
    folder = Path(__file__).parent / "methods"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("test_*.py")):
        for key, value in getattr(importlib.import_module(path.stem), name, {}).items():
            assert key not in found, f"{key!r} stands in {name} of two files"
            found[key] = value
    return found


RATIO = [[1.5, 0.9], [0.5], [1.1, 0.7, 1.0], [1.3, 1.15]]
ENTROPY = [[0.3, 0.9], [0.5], [0.8, 0.2, 0.05], [0.1, 0.7]]
OLD = [[-1.0, -2.0], [-0.5], [-1.5, -0.3, -0.7], [-0.9, -1.1]]
NEW = [[o + math.log(r) for o, r in zip(*rows, strict=True)] for rows in zip(OLD, RATIO, strict=True)]
REF = [[n + 0.1 for n in answer] for answer in NEW]
LENGTH = [2, 1, 3, 2]
REWARD = [1.0, 0.0, 0.0, 2.0]

A0 = 0.5 / (math.sqrt(0.5) + 1e-6)
A1 = 1.0 / (math.sqrt(2.0) + 1e-6)
GROUP = [A0, -A0, -A1, A1]
ALL = ((1, 1), (1,), (1, 1, 1), (1, 1))

# Clipped value and slope of r A, as multiples of |A| with the sign of the loss; high is 1.2 or DAPO's 1.28.
PPO = [[-1.2, -0.9], [0.8], [1.1, 0.8, 1.0], [-1.2, -1.15]]
HIGHER = [[-1.28, -0.9], [0.8], [1.1, 0.8, 1.0], [-1.28, -1.15]]
SLOPE = [[0.0, -0.9], [0.0], [1.1, 0.0, 1.0], [0.0, -1.15]]
FREE = [[-1.5, -0.9], [0.5], [1.1, 0.7, 1.0], [-1.3, -1.15]]
"""Without any clip: value and slope."""
BY_ANSWER = [A0 / 8, A0 / 4, A1 / 12, A1 / 8]
"""|A| / (4 answers * their tokens)."""
BY_TOKEN = [A0 / 8, A0 / 8, A1 / 8, A1 / 8]
"""|A| / 8 tokens."""

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a chain must do to the shared batch."""

    make: Callable[[], Chain]
    advantage: Sequence[float] | Rows
    """One number an answer, or one a token."""
    loss: Rows | float
    """coefficient * token loss, or the whole loss."""
    gradient: Rows
    """Its derivative by log π."""
    keep: Rows = ALL
    weight: Rows = ALL
    entropy_gradient: float | Rows = 0.0
    """Its derivative by the current entropy: one number for every token, or one a token."""
    micros: Micros | None = None
    change: Callable[[Rollouts, Forward], tuple[Rollouts, Forward]] = lambda rollouts, forward: (rollouts, forward)
    """Another batch for this case."""


def case(make: Callable[[], Chain], advantage: Any, loss: Any, gradient: Any, **others: Any) -> Case:
    """Return a case; see `Case` for the fields."""
    return Case(make=make, advantage=advantage, loss=loss, gradient=gradient, **others)


def times(factors: Sequence[float], rows: Rows) -> list[list[float]]:
    """Return rows with one factor each."""
    return [[factor * x for x in answer] for factor, answer in zip(factors, rows, strict=True)]


def plus(*tables: Rows) -> list[list[float]]:
    """Return the sum of tables, token by token."""
    return [[sum(x) for x in zip(*answers, strict=True)] for answers in zip(*tables, strict=True)]


def batch() -> tuple[Rollouts, Forward]:
    """Return the shared batch and the current policy on it."""
    rollouts = rollouts_of(OLD, groups=[0, 0, 1, 1], reward=REWARD, entropy=ENTROPY, ref=REF)
    return with_extra(rollouts, Forward(logp_BT=padded(NEW), entropy_BT=padded(ENTROPY)), seed=0)


def same(got: Any, wanted: Any) -> None:
    """Assert equality to 1e-12."""
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def check(expected: Case) -> Learned:
    """Assert that the case holds; returns what was learned, for more."""
    rollouts, forward = expected.change(*batch())
    got = learn(expected.make(), rollouts, forward, None if expected.micros is None else [expected.micros])
    first = expected.advantage[0]
    rows = expected.advantage if not isinstance(first, int | float) else [
        [x] * n for x, n in zip(expected.advantage, LENGTH, strict=True)
    ]  # fmt: skip
    same(got.credit.advantage_BT, padded(rows))
    same(got.credit.weight_BT * rollouts.mask_BT, padded(expected.weight))
    assert torch.equal(got.credit.keep_BT, padded(expected.keep) > 0)
    value = expected.loss if isinstance(expected.loss, int | float) else sum(map(sum, expected.loss))
    assert got.value == pytest.approx(value, abs=1e-12)
    same(got.logp_gradient_BT, padded(expected.gradient))
    slope = expected.entropy_gradient
    slope_BT = slope * rollouts.mask_BT.double() if isinstance(slope, int | float) else padded(slope)
    same(got.entropy_gradient_BT, slope_BT)
    return got
