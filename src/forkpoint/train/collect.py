"""One rollout batch: draw problems, sample answers, verify them, and replace groups that teach nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import EMBEDDED, Engine, joined, of_prompts, sample_rollouts
from forkpoint.errors import TrainingError
from forkpoint.model import HeadKind, precision
from forkpoint.rollouts import Prompt, Rollouts
from forkpoint.tasks.task import Task
from forkpoint.train.rescore import rescored
from forkpoint.verify.reward import rewarded, useful_groups


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """How a rollout batch is filled."""

    prompts: int
    group: int
    dynamic_sampling: bool = True
    max_rounds: int = 10
    overlong_buffer: int = 0
    overlong_factor: float = 1.0
    dtype: str = "float32"
    seed: int = 0
    rescore: bool = True
    """Whether entropies that the engine does not give come from one more forward pass."""
    head: HeadKind = "fused"
    """Which lm-head that pass uses."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """A full rollout batch and what it took."""

    rollouts: Rollouts
    position: int
    """Where the next batch goes on in the task's stream of problems."""
    metrics: dict[str, float]
    note: str | None = None
    """What the user should know, if anything."""


def collect(
    model: Any,
    tokenizer: Any,
    task: Task,
    encode: Callable[[Sequence[Prompt]], list[list[int]]],
    sampling: Sampling,
    settings: CollectSettings,
    *,
    step: int,
    position: int,
    version: int,
    progress: Callable[[int, int], None] | None = None,
    engine: Engine = EMBEDDED,
) -> Collected:
    """Return a verified rollout batch.

    With dynamic sampling, groups whose answers all earn the same are replaced by fresh problems, round after
    round, until the batch is full (DAPO, arXiv 2503.14476 sec. 3.2).

    Args:
        model: the policy.
        tokenizer: turns ids into text.
        task: problems and verifier.
        encode: problems to token ids; an empty list leaves a problem out.
        sampling: how tokens are drawn.
        settings: sizes and limits.
        step: number of the batch; keys the draws together with `settings.seed`.
        position: where the batch begins in the task's stream.
        version: optimiser updates the policy has seen.
        progress: called with (finished, total) answers of a round.
        engine: what decodes; one that holds a copy of the weights gets them first.

    Returns:
        `Collected`. At the cap on rounds the batch may be smaller, and `note` says so.

    Raises:
        TrainingError: no group was useful at the cap, or no answer could be judged.
    """
    parts: list[Rollouts] = []
    spent = {"decode": 0.0, "verify": 0.0}
    useful = groups = tokens = rounds = 0
    every: list[Rollouts] = []
    copied: dict[str, float] = {}
    if engine.refresh is not None:
        began = time.perf_counter()
        engine.refresh(model)
        copied["time/refresh"] = time.perf_counter() - began
    while useful < settings.prompts and rounds < settings.max_rounds:
        prompts, encoded, position = _next_problems(task, encode, settings, position, settings.prompts - useful)
        began = time.perf_counter()
        with precision(next(model.parameters()).device, settings.dtype):
            rollouts = sample_rollouts(
                model, tokenizer, prompts, encoded, sampling, group=settings.group,
                stream=(settings.seed, "train", step, rounds), version=version, progress=progress,
                engine=engine,
            )  # fmt: skip
        spent["decode"] += time.perf_counter() - began
        began = time.perf_counter()
        rollouts = rewarded(
            rollouts, task.judge,
            overlong_buffer=settings.overlong_buffer, overlong_factor=settings.overlong_factor,
        )  # fmt: skip
        spent["verify"] += time.perf_counter() - began
        rounds += 1
        groups += len(prompts)
        tokens += int(rollouts.mask_BT.sum())
        every.append(rollouts)
        keep = useful_groups(rollouts) if settings.dynamic_sampling else list(range(len(prompts)))
        useful += len(keep)
        if keep:
            parts.append(of_prompts(rollouts, keep))
        if not settings.dynamic_sampling:
            break
    if not parts:
        raise TrainingError(_degenerate(joined(every), rounds, groups))
    seen = joined(every)
    batch = joined(parts)
    if settings.rescore and batch.entropy_kind == "lower-bound":
        began = time.perf_counter()
        batch, copied["decode/mismatch"] = rescored(
            model, batch, temperature=sampling.temperature, dtype=settings.dtype, head=settings.head
        )
        copied["time/rescore"] = time.perf_counter() - began
    note = None
    if useful < settings.prompts:
        note = (
            f"step {step}: only {useful} of {settings.prompts} groups were useful after {rounds} rounds "
            f"({groups} problems): the update learns from those; raise train.max_rounds or train.group, "
            "or choose problems of another difficulty"
        )
    return Collected(
        rollouts=batch,
        position=position,
        metrics={
            **_reward_metrics(seen),
            "groups/useful": len(useful_groups(seen)) / groups,
            "groups/resampled": float(groups - settings.prompts if settings.dynamic_sampling else 0),
            "groups/rounds": float(rounds),
            "tokens/decoded": float(tokens),
            "time/decode": spent["decode"],
            "time/verify": spent["verify"],
            **copied,
        },
        note=note,
    )


def _next_problems(
    task: Task,
    encode: Callable[[Sequence[Prompt]], list[list[int]]],
    settings: CollectSettings,
    position: int,
    want: int,
) -> tuple[list[Prompt], list[list[int]], int]:
    """Return `want` problems from the stream, those too long left out, and the new position."""
    prompts: list[Prompt] = []
    encoded: list[list[int]] = []
    tried = 0
    while len(prompts) < want:
        drawn = [task.train_prompt(settings.seed, position + k) for k in range(want - len(prompts))]
        position += len(drawn)
        tried += len(drawn)
        for prompt, ids in zip(drawn, encode(drawn), strict=True):
            if ids:
                prompts.append(prompt)
                encoded.append(ids)
        if not prompts and tried >= 1000:
            raise TrainingError(
                f"the first {tried} problems are all longer than prompt.max_tokens: raise it, or check prompt.template"
            )
    return prompts, encoded, position


def _reward_metrics(rollouts: Rollouts) -> dict[str, float]:
    """Return rewards, lengths and entropies of everything sampled, useful or not."""
    reward_B, judged_B = rollouts.reward_B, rollouts.judged_B
    assert reward_B is not None and judged_B is not None  # noqa: S101, PT018 - set by `rewarded`
    judged = reward_B[judged_B]
    length_B = rollouts.mask_BT.sum(1).float()
    return {
        "reward/mean": float(judged.mean()) if judged.numel() else float("nan"),
        "reward/std": float(judged.std()) if judged.numel() > 1 else float("nan"),
        **{
            f"reward/{name}": float(part_B[judged_B].mean()) if judged.numel() else float("nan")
            for name, part_B in rollouts.reward_parts.items()
        },
        "reward/right": sum(verdict == "right" for verdict in rollouts.verdicts) / rollouts.rows,
        "reward/judged": float(judged_B.float().mean()),
        "length/mean": float(length_B.mean()),
        "length/max": float(length_B.max()),
        "length/truncated": sum(finish == "length" for finish in rollouts.finish) / rollouts.rows,
    }


def _degenerate(rollouts: Rollouts, rounds: int, groups: int) -> str:
    judged_B, reward_B = rollouts.judged_B, rollouts.reward_B
    assert judged_B is not None and reward_B is not None  # noqa: S101, PT018 - set by `rewarded`
    if not bool(judged_B.any()):
        return (
            f"none of the {rollouts.rows} answers could be judged: the reference answers are missing or unreadable, "
            "or every verdict missed task.deadline"
        )
    right = sum(verdict == "right" for verdict in rollouts.verdicts)
    kind = "right" if right * 2 > rollouts.rows else "wrong"
    return (
        f"every one of {groups} groups was degenerate after {rounds} rounds (their answers all earned the same, "
        f"mostly {kind}): there is nothing to learn from; choose {'harder' if kind == 'right' else 'easier'} problems, "
        "raise train.group, or set train.dynamic_sampling = false"
    )


def entropy_metrics(rollouts: Rollouts, advantage_BT: torch.Tensor) -> dict[str, float]:
    """Return mean, quantiles and split by advantage sign of the behaviour entropies, in nats.

    Lower bounds are another quantity, so they go by `entropy_lower_bound/` instead of `entropy/`.
    """
    from forkpoint.scope import quantile

    entropy_N = rollouts.entropy_BT[rollouts.mask_BT]
    advantage_N = advantage_BT[rollouts.mask_BT]

    def mean(values: torch.Tensor) -> float:
        return float(values.mean()) if values.numel() else float("nan")

    name = "entropy_lower_bound" if rollouts.entropy_kind == "lower-bound" else "entropy"
    return {
        f"{name}/mean": mean(entropy_N),
        **{f"{name}/p{q}": float(quantile(entropy_N, q / 100)) for q in (50, 80, 95)},
        f"{name}/below_0.01": mean((entropy_N < 0.01).float()),
        f"{name}/positive": mean(entropy_N[advantage_N > 0]),
        f"{name}/negative": mean(entropy_N[advantage_N < 0]),
    }


def with_reference(rollouts: Rollouts, ref_logp_BT: torch.Tensor) -> Rollouts:
    """Return the rollouts with the reference model's log-probs."""
    return dataclasses.replace(rollouts, ref_logp_BT=ref_logp_BT)
