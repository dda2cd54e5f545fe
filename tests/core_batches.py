"""Batches for the tests of the core, and a stand-in for the trainer that needs no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forkpoint.credit import Chain, init, run
from forkpoint.loss import coefficients, policy_loss
from forkpoint.rollouts import Credit, Forward, Prompt, Rollouts, blank_credit
from forkpoint.scope import Batching

Micros = Sequence[Sequence[int]]
"""The rows of every micro-batch of one mini-batch."""


def padded(rows: Sequence[Sequence[float]], *, T: int | None = None, dtype=torch.float64, fill=0.0) -> Tensor:
    """Return rows of different lengths as one right-padded tensor."""
    T = max(map(len, rows)) if T is None else T
    return torch.tensor([[*row, *[fill] * (T - len(row))] for row in rows], dtype=dtype).reshape(len(rows), T)


def rollouts_of(
    logp: Sequence[Sequence[float]],
    *,
    groups: Sequence[int],
    reward: Sequence[float] | None = None,
    entropy: Sequence[Sequence[float]] | None = None,
    ref: Sequence[Sequence[float]] | None = None,
    judged: Sequence[bool] | None = None,
    max_tokens: int | None = 5,
    dtype: torch.dtype = torch.float64,
) -> Rollouts:
    """Return rollouts with the given recorded values; row lengths are those of `logp`."""
    B, T = len(logp), max([len(row) for row in logp], default=0)
    groups = list(groups)
    mask_BT = torch.tensor([[t < len(row) for t in range(T)] for row in logp], dtype=torch.bool).reshape(B, T)
    return Rollouts(
        prompts=tuple(Prompt(id=f"problem-{p}", text="") for p in range(max(groups, default=-1) + 1)),
        prompt_BS=torch.ones(B, 2, dtype=torch.int64),
        prompt_length_B=torch.full((B,), 2),
        ids_BT=torch.where(mask_BT, 3, 0),
        mask_BT=mask_BT,
        group_B=torch.tensor(groups, dtype=torch.int64),
        sample_B=torch.tensor([groups[:i].count(g) for i, g in enumerate(groups)], dtype=torch.int64),
        logp_BT=padded(logp, T=T, dtype=dtype),
        entropy_BT=padded(entropy if entropy is not None else [[1.0] * len(r) for r in logp], T=T, dtype=dtype),
        finish=("stop",) * B,
        text=("",) * B,
        reward_B=None if reward is None else torch.tensor(reward, dtype=dtype),
        judged_B=None if judged is None else torch.tensor(judged),
        ref_logp_BT=None if ref is None else padded(ref, T=T, dtype=dtype),
        max_tokens=max_tokens,
    )


def random_rollouts(
    seed: int = 0,
    *,
    lengths: Sequence[int] = (5, 2, 3, 1, 6, 4, 2, 3),
    groups: Sequence[int] = (0, 0, 0, 0, 1, 1, 1, 1),
    levels: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Rollouts, Forward]:
    """Return random rollouts and the forward of a policy that has moved away from the behaviour policy.

    With `levels` the entropies take that many values only, so that many are equal.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.rand(len(lengths), max(lengths, default=0), generator=generator, dtype=torch.float64)

    def entropies() -> Tensor:
        return draw() if levels is None else (draw() * levels).floor() / levels

    def rows(value_BT: Tensor) -> list[list[float]]:
        return [row[:n] for row, n in zip(value_BT.tolist(), lengths, strict=True)]

    recorded_BT = -3 * draw() - 0.01
    rollouts = rollouts_of(
        rows(recorded_BT),
        groups=groups,
        entropy=rows(entropies()),
        reward=torch.randint(0, 3, (len(lengths),), generator=generator).tolist(),
        ref=rows(recorded_BT + 0.6 * draw() - 0.3),
        max_tokens=7,
        dtype=dtype,
    )
    forward = Forward(
        logp_BT=torch.where(rollouts.mask_BT, recorded_BT + 0.8 * draw() - 0.4, 0.0).to(dtype),
        entropy_BT=torch.where(rollouts.mask_BT, entropies(), 0.0).to(dtype),
    )
    return with_extra(rollouts, forward, seed=seed)


def with_extra(rollouts: Rollouts, forward: Forward, *, seed: int) -> tuple[Rollouts, Forward]:
    """Return the same batch with a value for everything that `EXTRA` names, of no meaning beyond its kind."""
    B, T = rollouts.mask_BT.shape
    generator = torch.Generator().manual_seed(seed + 1000)
    number_B = torch.arange(B)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    position_BT = torch.arange(T).expand(B, T)
    length_B = rollouts.mask_BT.sum(1)
    hidden_BTH = draw(B, T, 3) - 0.5
    return dataclasses.replace(
        rollouts,
        extra={
            "hidden": hidden_BTH,
            "cluster": 8 * rollouts.group_B + rollouts.sample_B % 3,
            "error_class": rollouts.sample_B % 2,
            "step": position_BT // 2,
            "planning": position_BT % 3 == 1,
            "thinking": position_BT < (length_B[:, None] + 1) // 2,
            "turn": position_BT // 3,
            "anchor": torch.where(number_B % 4 == 3, -1, length_B - 1),
            "proxy_logp": torch.where(draw(B, T) < 0.2, -torch.inf, rollouts.logp_BT.double() + 0.1 * draw(B, T)),
            "sampler_logp": torch.where(
                position_BT % 7 == 5,
                torch.nan,
                rollouts.logp_BT.double() + 0.2 * (3 * position_BT + number_B[:, None]).sin(),
            ),
            "sampled_flow": -0.3 * draw(B, T),
            "attention_entropy": draw(B, T),
            "collision": draw(B, T),
            "step_reward": torch.where(draw(B, T) < 0.3, torch.nan, draw(B, T)),
            "kind": rollouts.sample_B % 2,
            "explore": rollouts.sample_B % 4 == 3,
        },
    ), dataclasses.replace(
        forward, extra={"hidden": hidden_BTH + 0.1 * draw(B, T, 3), "nucleus_entropy": 0.8 * forward.entropy_BT}
    )


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What one optimiser update would have done."""

    value: float
    logp_gradient_BT: Tensor
    entropy_gradient_BT: Tensor
    credit: Credit


def learn(
    chain: Chain,
    rollouts: Rollouts,
    forward: Forward,
    minis: Sequence[Micros] | None = None,
    *,
    rng: int = 0,
) -> Learned:
    """Return loss and gradient of every row, cut into updates and passes as a trainer would.

    The rollout stage runs once on all rows; then for every mini-batch the update stage and the coefficients
    on the rows its links ask for (`Chain.span`), and one backward pass for every micro-batch.

    Args:
        chain: the method.
        rollouts: all rows.
        forward: the current policy on all rows; it does not change between updates here.
        minis: for every mini-batch its micro-batches, each a list of rows; None means all in one pass.
        rng: key of the update stage.
    """
    minis = [[list(range(rollouts.rows))]] if minis is None else minis
    batching = _batching(rollouts.rows, minis)
    logp_BT = forward.logp_BT.detach().clone().requires_grad_()
    entropy_BT = forward.entropy_BT.detach().clone().requires_grad_()
    forward = dataclasses.replace(forward, logp_BT=logp_BT, entropy_BT=entropy_BT)
    credit, states = run(chain, blank_credit(rollouts), rollouts, init(chain), when="rollout", rng=rng)
    recorded, total = credit, 0.0
    for micros in minis:
        mini = [row for micro in micros for row in micro]
        span = torch.arange(rollouts.rows) if chain.span == "rollout" else _rows(mini)
        wide, states = run(
            chain, credit.select(span), rows_of(rollouts, span), states, when="update",
            forward=forward.select(span), batching=batching.select(span), rng=rng,
        )  # fmt: skip
        coefficient_BT = coefficients(wide, rows_of(rollouts, span), batching.select(span))
        for micro in micros:
            rows = _rows(micro)
            at = torch.tensor([span.tolist().index(row) for row in micro], dtype=torch.int64)
            loss = policy_loss(
                chain, forward.select(rows), rows_of(rollouts, rows), wide.select(at), coefficient_BT[at]
            )
            if loss.value.requires_grad:
                loss.value.backward()
            total += float(loss.value.detach())
        recorded = _write(recorded, wide, span)
    zeros = torch.zeros_like(logp_BT)
    return Learned(
        value=total,
        logp_gradient_BT=zeros if logp_BT.grad is None else logp_BT.grad,
        entropy_gradient_BT=zeros if entropy_BT.grad is None else entropy_BT.grad,
        credit=recorded,
    )


def rows_of(rollouts: Rollouts, rows: Tensor) -> Rollouts:
    """Return the given rows at full width."""
    return rollouts.select(rows, trim=False)


def forward_of(rollouts: Rollouts, value: Tensor | float = 0.0) -> Forward:
    """Return the forward of a policy whose log-probs differ from the recorded ones by `value`."""
    return Forward(logp_BT=rollouts.logp_BT + value, entropy_BT=rollouts.entropy_BT, extra=rollouts.extra)


def _rows(rows: Sequence[int]) -> Tensor:
    return torch.tensor(list(rows), dtype=torch.int64)


def _batching(count: int, minis: Sequence[Micros]) -> Batching:
    mini_B, micro_B = torch.full((count,), -1), torch.full((count,), -1)
    number = 0
    for index, micros in enumerate(minis):
        for micro in micros:
            mini_B[_rows(micro)], micro_B[_rows(micro)] = index, number
            number += 1
    assert (mini_B >= 0).all(), "every row belongs to a mini-batch"
    return Batching(mini_B=mini_B, micro_B=micro_B)


def _write(whole: Credit, part: Credit, rows: Tensor) -> Credit:
    names = ("advantage_BT", "weight_BT", "keep_BT")
    return dataclasses.replace(
        part,
        **{name: getattr(whole, name).index_copy(0, rows, getattr(part, name)) for name in names},
        low_BT=whole.low_BT,
        high_BT=whole.high_BT,
        scaled_low_BT=whole.scaled_low_BT,
        scaled_high_BT=whole.scaled_high_BT,
        unclipped_BT=whole.unclipped_BT,
        penalties=whole.penalties,
        entropy_terms=whole.entropy_terms,
    )
