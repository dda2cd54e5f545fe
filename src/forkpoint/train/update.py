"""The update: from credited rollouts to new weights."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit.link import Chain, State, run
from forkpoint.errors import TrainingError
from forkpoint.loss import coefficients, policy_loss
from forkpoint.model import HeadKind, trainable
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
    head: HeadKind = "fused"
    """`fused` or `plain`."""
    packed: bool = False
    """Whether passes run without padding; see `forkpoint.train.packed.can_pack`."""


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
    totals: defaultdict[str, float] = defaultdict(float)
    updates = 0
    for epoch in range(settings.epochs):
        minis = mini_batches(rollouts.group_B, settings.mini_prompts, settings.seed, "mini", step, epoch)
        micros = [
            micro_batches(length_B, mini, settings.micro_tokens, settings.seed, "micro", step, epoch, index)
            for index, mini in enumerate(minis)
        ]
        batching = batching_of(rollouts.rows, minis, micros)
        for index in range(len(minis)):
            if learning_rates is not None:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rates[updates]
            optimizer.zero_grad(set_to_none=True)
            here = _Mini(
                model=model,
                chain=chain,
                states=states,
                rollouts=rollouts,
                credit=credit,
                batching=batching,
                cuts=micros[index],
                others=[cut for k, cuts in enumerate(micros) if k != index for cut in cuts],
                settings=settings,
                rng=key(settings.seed, "credit", step, epoch, index),
            )
            parts: list[tuple[Tensor, Credit]] = []
            for part in _passes(here, totals):
                loss = policy_loss(chain, part.forward, part.rollouts, part.credit, part.coefficient_BT)
                if loss.value.requires_grad:
                    loss.value.backward()
                for name, value in loss.sums.items():
                    totals[name] += value
                totals["loss"] += float(loss.value.detach())
                parts.append((part.rows, part.credit))
                states = part.states
            totals["grad_norm"] += _apply(model, optimizer, settings.grad_clip, step)
            recorded = _record(recorded, parts)
            updates += 1
    return Updated(credit=recorded, states=states, updates=updates, metrics=_metrics(totals, updates, rollouts, states))


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One forward pass with gradient, ready for the loss."""

    rows: Tensor
    forward: Forward
    rollouts: Rollouts
    credit: Credit
    coefficient_BT: Tensor
    states: list[State]


@dataclass(frozen=True, kw_only=True)
class _Mini:
    """One mini-batch and everything its passes look at."""

    model: Any
    chain: Chain
    states: list[State]
    rollouts: Rollouts
    credit: Credit
    """After the rollout stage, of all rows."""
    batching: Batching
    cuts: list[Tensor]
    """Rows of each micro-batch of this mini-batch."""
    others: list[Tensor]
    """Rows of the micro-batches of the other mini-batches."""
    settings: UpdateSettings
    rng: int

    def forward(self, rows: Tensor) -> Forward:
        """Return the current policy on every token of some rows."""
        return self._run(rows, learns_B=self.learns_B()[rows])

    def forward_known(self, rows: Tensor, credit: Credit, elsewhere: Forward | None) -> Forward:
        """Return the current policy where `credit` says that a token learns, and what is known of the others.

        That is `elsewhere`, a pass over all tokens; without one it is the behaviour policy's, and `scored_BT` says
        where the current policy was asked.
        """
        rollouts = self.rollouts.select(rows, trim=False)
        needs_BT = learning_tokens(self.chain, credit, rollouts.mask_BT)
        found = self._run(rows, needs_BT=needs_BT)
        logp_BT, entropy_BT = (
            (rollouts.logp_BT, rollouts.entropy_BT) if elsewhere is None else (elsewhere.logp_BT, elsewhere.entropy_BT)
        )
        return Forward(
            logp_BT=torch.where(needs_BT, found.logp_BT, logp_BT),
            entropy_BT=torch.where(needs_BT, found.entropy_BT, entropy_BT),
            scored_BT=needs_BT if elsewhere is None else None,
            extra=found.extra,
        )

    def _run(self, rows: Tensor, *, learns_B: Tensor | None = None, needs_BT: Tensor | None = None) -> Forward:
        return forward_rows(
            self.model,
            self.rollouts.select(rows, trim=False),
            temperature=self.settings.temperature,
            entropy_gradient="entropy_gradient" in self.chain.needs and torch.is_grad_enabled(),
            learns_B=learns_B,
            needs_BT=needs_BT,
            head=self.settings.head,
            packed=self.settings.packed,
            hidden="forward_hidden" in self.chain.needs,
            nucleus="forward_nucleus_entropy" in self.chain.needs,
        )

    def learns_B(self) -> Tensor:
        """Return which rows can have a gradient at all: an answer without advantage or penalty has none."""
        credit = self.credit
        if self.chain.adds_late or self.chain.regularisers or credit.penalties or credit.entropy_terms:
            return torch.ones_like(self.rollouts.group_B, dtype=torch.bool)
        return (credit.keep_BT & (credit.advantage_BT * credit.weight_BT != 0)).any(1)

    def update_stage(self, rows: Tensor, forward: Forward | None) -> tuple[Credit, list[State]]:
        return run(
            self.chain,
            self.credit.select(rows),
            self.rollouts.select(rows, trim=False),
            self.states,
            when="update",
            forward=forward,
            batching=self.batching.select(rows),
            rng=self.rng,
        )


def learning_tokens(chain: Chain, credit: Credit, mask_BT: Tensor) -> Tensor:
    """Return the tokens whose log-prob or entropy the loss depends on, bool (B, T), once the credit is final.

    A token without advantage, penalty and entropy term has no gradient; the ratio of a whole answer reads all of it;
    a regulariser may read anything.
    """
    if chain.regularisers:
        return mask_BT
    learns_BT = credit.keep_BT & (credit.advantage_BT * credit.weight_BT != 0)
    for penalty in credit.penalties:
        learns_BT = learns_BT | (credit.keep_BT & (penalty.coefficient_BT != 0))
    for term in credit.entropy_terms:
        slope_BT = term.slope_BT if term.slope_BT.ndim == 2 else term.slope_BT.abs().sum(2)
        learns_BT = learns_BT | (slope_BT != 0)
    if credit.ratio in ("sequence", "mean"):
        learns_BT = learns_BT.any(1, keepdim=True) & mask_BT
    return learns_BT & mask_BT


def _passes(mini: _Mini, totals: defaultdict[str, float]) -> Iterator[_Pass]:
    """Yield the forward passes of one mini-batch, with the credit each of them learns by."""
    chain = mini.chain
    whole = len(mini.cuts) == 1 and not (chain.span == "rollout" and mini.others)
    narrow = chain.span == "micro" and (not chain.drops or mini.credit.denominator == "micro-token")
    if chain.reads_forward and (whole or narrow):
        yield from _credit_on_the_pass(mini)
    else:
        yield from _credit_before_the_passes(mini, totals)


def _credit_on_the_pass(mini: _Mini) -> Iterator[_Pass]:
    """Run the links on the forward pass that learns: all their statistics fit in it.

    What the denominator counts beyond the pass is known before: either the pass is the whole mini-batch, or no
    link drops tokens, or every micro-batch counts for itself.
    """
    before_BT = coefficients(mini.credit, mini.rollouts, mini.batching)
    rows_here = sum(cut.numel() for cut in mini.cuts)
    for cut in mini.cuts:
        forward = mini.forward(cut)
        rollouts = mini.rollouts.select(cut, trim=False)
        credit, states = mini.update_stage(cut, forward)
        alone_BT = coefficients(credit, rollouts, mini.batching.select(cut))
        if len(mini.cuts) == 1:
            coefficient_BT = alone_BT
        elif credit.denominator == "micro-token":
            coefficient_BT = alone_BT * (cut.numel() / rows_here)
        else:
            coefficient_BT = before_BT[cut]
        yield _Pass(
            rows=cut,
            forward=forward,
            rollouts=rollouts,
            credit=credit,
            coefficient_BT=coefficient_BT,
            states=states,
        )


def _credit_before_the_passes(mini: _Mini, totals: defaultdict[str, float]) -> Iterator[_Pass]:
    """Run the links once over the whole span, then learn micro-batch by micro-batch.

    A chain that looks at the current policy needs every row's forward first: one pass without gradient. With the
    credit known, the pass that learns asks for the learning tokens only.
    """
    passes = [*mini.cuts, *mini.others] if mini.chain.span == "rollout" else mini.cuts
    span = torch.cat(passes)
    seen = None
    if mini.chain.reads_forward:
        began = time.perf_counter()
        with torch.no_grad():
            parts = [mini.forward(cut) for cut in passes]
        seen = Forward(
            logp_BT=torch.cat([part.logp_BT for part in parts]),
            entropy_BT=torch.cat([part.entropy_BT for part in parts]),
            extra={name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra},
        )
        totals["statistics_tokens"] += int(row_lengths(mini.rollouts)[span].sum())
        totals["statistics_seconds"] += time.perf_counter() - began
    credit, states = mini.update_stage(span, seen)
    coefficient_BT = coefficients(credit, mini.rollouts.select(span, trim=False), mini.batching.select(span))
    first = 0
    for cut in mini.cuts:
        at = torch.arange(first, first + cut.numel(), device=span.device)
        first += cut.numel()
        yield _Pass(
            rows=cut,
            forward=mini.forward_known(cut, credit.select(at), None if seen is None else seen.select(at)),
            rollouts=mini.rollouts.select(cut, trim=False),
            credit=credit.select(at),
            coefficient_BT=coefficient_BT[at],
            states=states,
        )


def _apply(model: Any, optimizer: torch.optim.Optimizer, grad_clip: float, step: int) -> float:
    """Clip and step; refuse a gradient that is not finite."""
    parameters = [parameter for _, parameter in trainable(model)]
    if all(parameter.grad is None for parameter in parameters):
        # Nothing in this mini-batch can learn. A gradient of zero still lets momentum and decay act, as they would
        # if the backward pass had run.
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
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


def _metrics(
    totals: defaultdict[str, float], updates: int, rollouts: Rollouts, states: list[State]
) -> dict[str, float]:
    learned = max(totals["learned"], 1)
    snapshots = [state["metrics"] for state in states if "metrics" in state]
    return {
        "loss": totals["loss"] / max(updates, 1),
        "grad_norm": totals["grad_norm"] / max(updates, 1),
        "credit/share": totals["counted"] / max(totals["tokens"], 1),
        "ratio/clipped": (totals["clipped_low"] + totals["clipped_high"]) / learned,
        "ratio/clipped_low": totals["clipped_low"] / learned,
        "ratio/clipped_high": totals["clipped_high"] / learned,
        "kl/behaviour": totals["kl"] / max(totals["scored"], 1),
        "tokens/response": float(rollouts.mask_BT.sum()),
        "tokens/learned": float(totals["learned"]),
        "cost/statistics_tokens": float(totals["statistics_tokens"]),
        "time/statistics": totals["statistics_seconds"],
        **{name: value for metrics in snapshots for name, value in metrics.items()},
    }
