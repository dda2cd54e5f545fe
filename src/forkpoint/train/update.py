"""The update: from credited rollouts to new weights."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit.link import Chain, State, run
from forkpoint.errors import TrainingError
from forkpoint.loss import coefficients, policy_loss
from forkpoint.model import trainable
from forkpoint.rollouts import Credit, Forward, Rollouts
from forkpoint.scope import Batching
from forkpoint.seeds import key
from forkpoint.train.batches import batching_of, micro_batches, mini_batches
from forkpoint.train.policy import forward_rows, row_lengths


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """What an update needs to know beyond the chain."""

    mini_prompts: int
    """Groups an optimiser update."""
    micro_tokens: int = 16384
    """Most tokens a forward/backward pass."""
    epochs: int = 1
    """Passes over a rollout batch."""
    grad_clip: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    temperature: float = 1.0
    """Of the behaviour policy."""
    seed: int = 0
    """Of the run."""


@dataclass(frozen=True, kw_only=True)
class Updated:
    """What the updates of one rollout batch left behind."""

    credit: Credit
    """The credit each row had in its last update, for the record."""
    states: list[State]
    updates: int
    """Optimiser updates made."""
    metrics: dict[str, float]


def learn(
    model: Any,
    optimizer: torch.optim.Optimizer,
    chain: Chain,
    states: list[State],
    rollouts: Rollouts,
    credit: Credit,
    settings: UpdateSettings,
    *,
    step: int,
    learning_rates: Sequence[float] | None = None,
) -> Updated:
    """Make one optimiser update a mini-batch from a credited rollout batch.

    The rollout stage of the chain has run. The update stage runs here, over the widest scope any link asks for:

    - no link looks at the current policy: it runs on the recorded values, before any forward pass;
    - the scope fits one forward pass: it runs on that pass, at no extra cost;
    - the scope spans several: every row's forward runs once more without gradient first, and
      `cost/statistics_tokens` says on how many tokens.

    Args:
        model: in training mode, on its device.
        optimizer: over the model's trainable parameters.
        chain: the method.
        states: one state a link.
        rollouts: verified rows.
        credit: after the chain's rollout stage.
        settings: sizes and limits.
        step: number of the rollout batch; with `settings.seed` it keys every shuffle and draw.
        learning_rates: one an update, when a schedule is in force.

    Returns:
        `Updated`.

    Raises:
        TrainingError: logits or gradient are not finite; no update has been made from them.
    """
    length_B = row_lengths(rollouts)
    recorded = credit
    totals: Counter[str] = Counter()
    updates = 0
    for epoch in range(settings.epochs):
        minis = mini_batches(rollouts.group_B, settings.mini_prompts, settings.seed, "mini", step, epoch)
        micros = [
            micro_batches(length_B, mini, settings.micro_tokens, settings.seed, "micro", step, epoch, index)
            for index, mini in enumerate(minis)
        ]
        batching = batching_of(rollouts.rows, minis, micros)
        for index, mini in enumerate(minis):
            if learning_rates is not None:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rates[updates]
            rng = key(settings.seed, "credit", step, epoch, index)
            optimizer.zero_grad(set_to_none=True)
            parts: list[tuple[Tensor, Credit]] = []
            for part in _passes(
                model, chain, states, rollouts, credit, batching, mini, micros, index, rng, settings, totals
            ):
                states = part.states
                loss = policy_loss(chain, part.forward, part.rollouts, part.credit, part.coefficient_BT)
                loss.value.backward()
                totals.update(loss.sums)
                totals["loss"] += float(loss.value.detach())
                parts.append((part.rows, part.credit))
            totals["grad_norm"] += _apply(model, optimizer, settings.grad_clip, step)
            recorded = _record(recorded, parts)
            updates += 1
    return Updated(
        credit=recorded, states=states, updates=updates, metrics=_metrics(totals, updates, rollouts, states)
    )


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One forward pass with gradient, ready for the loss."""

    rows: Tensor
    forward: Forward
    rollouts: Rollouts
    credit: Credit
    coefficient_BT: Tensor
    states: list[State]


def _passes(
    model: Any,
    chain: Chain,
    states: list[State],
    rollouts: Rollouts,
    credit: Credit,
    batching: Batching,
    mini: Tensor,
    micros: list[list[Tensor]],
    index: int,
    rng: int,
    settings: UpdateSettings,
    totals: Counter[str],
) -> Iterator[_Pass]:
    """Yield the forward passes of one mini-batch, with the credit each of them learns by."""
    gradient = "entropy_gradient" in chain.needs

    def forward(rows: Tensor, *, entropy_gradient: bool = gradient) -> Forward:
        return forward_rows(
            model, rollouts_at(rows), temperature=settings.temperature, entropy_gradient=entropy_gradient
        )

    def rollouts_at(rows: Tensor) -> Rollouts:
        return _rows_of(rollouts, rows)

    def update_stage(rows: Tensor, seen: Forward | None) -> tuple[Credit, list[State]]:
        return run(
            chain,
            credit.select(rows),
            rollouts_at(rows),
            states,
            when="update",
            forward=seen,
            batching=batching.select(rows),
            rng=rng,
        )

    here = micros[index]
    span = torch.cat([cut for cuts in micros for cut in cuts]) if chain.span == "rollout" else torch.cat(here)
    several = len(here) > 1 or chain.span == "rollout" and len(micros) > 1
    narrow = chain.span == "micro" and (not chain.drops or credit.denominator == "micro-token")
    if chain.reads_forward and not (several and not narrow):
        # Statistics of one pass: run the links on it. Counts outside it are known before: nothing is dropped, or
        # each micro-batch has its own.
        fixed_BT = coefficients(credit, rollouts, batching)
        for cut in here:
            seen = forward(cut)
            mine, after = update_stage(cut, seen)
            if len(here) == 1:
                coefficient_BT = coefficients(mine, rollouts_at(cut), batching.select(cut))
            elif credit.denominator == "micro-token":
                alone_BT = coefficients(mine, rollouts_at(cut), batching.select(cut))
                coefficient_BT = alone_BT * (cut.numel() / mini.numel())
            else:
                coefficient_BT = fixed_BT[cut]
            yield _Pass(
                rows=cut,
                forward=seen,
                rollouts=rollouts_at(cut),
                credit=mine,
                coefficient_BT=coefficient_BT,
                states=after,
            )
        return
    seen_before = None
    if chain.reads_forward:
        began = time.perf_counter()
        with torch.no_grad():
            flat = (
                [forward(cut, entropy_gradient=False) for cuts in micros for cut in cuts]
                if chain.span == "rollout"
                else [forward(cut, entropy_gradient=False) for cut in here]
            )
        seen_before = Forward(
            logp_BT=torch.cat([part.logp_BT for part in flat]),
            entropy_BT=torch.cat([part.entropy_BT for part in flat]),
        )
        totals["statistics_tokens"] += int(row_lengths(rollouts)[span].sum())
        totals["statistics_seconds"] += time.perf_counter() - began
    wide, after = update_stage(span, seen_before)
    coefficient_BT = coefficients(wide, rollouts_at(span), batching.select(span))
    place = torch.full((rollouts.rows,), -1, device=span.device).index_put(
        (span,), torch.arange(span.numel(), device=span.device)
    )
    for cut in here:
        at = place[cut]
        yield _Pass(
            rows=cut,
            forward=forward(cut),
            rollouts=rollouts_at(cut),
            credit=wide.select(at),
            coefficient_BT=coefficient_BT[at],
            states=after,
        )


def _rows_of(rollouts: Rollouts, rows: Tensor) -> Rollouts:
    """Return the rows at full width, so that (B, T) values of different cuts fit together."""
    taken = rollouts.select(rows)
    T, S = rollouts.ids_BT.shape[1], rollouts.prompt_BS.shape[1]
    if taken.ids_BT.shape[1] == T and taken.prompt_BS.shape[1] == S:
        return taken

    def wide(value: Tensor | None) -> Tensor | None:
        return None if value is None else torch.nn.functional.pad(value, (0, T - value.shape[1]))

    return dataclasses.replace(
        taken,
        **{
            name: wide(getattr(taken, name))
            for name in ("ids_BT", "mask_BT", "logp_BT", "entropy_BT", "ref_logp_BT")
        },
    )


def _apply(model: Any, optimizer: torch.optim.Optimizer, grad_clip: float, step: int) -> float:
    """Clip and step; refuse a gradient that is not finite."""
    parameters = [parameter for _, parameter in trainable(model)]
    norm = torch.nn.utils.clip_grad_norm_(parameters, grad_clip if grad_clip > 0 else float("inf"))
    if not bool(norm.isfinite()):
        optimizer.zero_grad(set_to_none=True)
        raise TrainingError(
            f"the gradient of step {step} is not finite: the update was not applied; lower train.lr or use float32"
        )
    optimizer.step()
    return float(norm)


def _record(recorded: Credit, parts: list[tuple[Tensor, Credit]]) -> Credit:
    """Write the credit of the passes back into the whole batch, for the rollout files."""
    advantage_BT, weight_BT, keep_BT = (
        recorded.advantage_BT.clone(),
        recorded.weight_BT.clone(),
        recorded.keep_BT.clone(),
    )
    for rows, credit in parts:
        advantage_BT[rows] = credit.advantage_BT
        weight_BT[rows] = credit.weight_BT
        keep_BT[rows] = credit.keep_BT
    return dataclasses.replace(recorded, advantage_BT=advantage_BT, weight_BT=weight_BT, keep_BT=keep_BT)


def _metrics(totals: Counter[str], updates: int, rollouts: Rollouts, states: list[State]) -> dict[str, float]:
    learned = max(totals["learned"], 1)
    snapshots = [state["metrics"] for state in states if "metrics" in state]
    return {
        "loss": totals["loss"] / max(updates, 1),
        "grad_norm": totals["grad_norm"] / max(updates, 1),
        "credit/share": totals["counted"] / max(totals["tokens"], 1),
        "ratio/clipped": (totals["clipped_low"] + totals["clipped_high"]) / learned,
        "ratio/clipped_low": totals["clipped_low"] / learned,
        "ratio/clipped_high": totals["clipped_high"] / learned,
        "kl/behaviour": totals["kl"] / max(totals["tokens"], 1),
        "tokens/response": float(rollouts.mask_BT.sum()),
        "tokens/learned": float(totals["learned"]),
        "cost/statistics_tokens": float(totals["statistics_tokens"]),
        "time/statistics": totals["statistics_seconds"],
        **{name: value for metrics in snapshots for name, value in metrics.items()},
    }
