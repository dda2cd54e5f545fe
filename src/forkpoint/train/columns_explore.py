"""Rows sampled again at another temperature, so that learning from them moves the entropy (arXiv 2510.08141)."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit.link import Chain, Link, State
from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import EMBEDDED, Engine, joined, sample_rollouts
from forkpoint.model import precision
from forkpoint.rollouts import Rollouts
from forkpoint.tasks.task import Judge
from forkpoint.train.collect import CollectSettings
from forkpoint.train.rescore import scored
from forkpoint.verify.reward import rewarded

CONTROLLER = "temperature_control"
"""The link whose state says at which temperature extra rows are sampled."""


def controls_temperature(link: Link) -> bool:
    """Return whether the link's state says a temperature, also where its numbers are scheduled."""
    return link.name in (CONTROLLER, f"scheduled({CONTROLLER})")


def asked_temperature(chain: Chain, states: Sequence[State]) -> float:
    """Return the temperature that the chain's controller asks for."""
    state = next(state for link, state in zip(chain.links, states, strict=True) if controls_temperature(link))
    return float(state.get("inner", state)["temperature"])


def explored(
    model: Any,
    tokenizer: Any,
    judge: Judge,
    rollouts: Rollouts,
    sampling: Sampling,
    settings: CollectSettings,
    *,
    share: float,
    temperature: float,
    step: int,
    version: int,
    progress: Callable[[int, int], None] | None = None,
    engine: Engine = EMBEDDED,
) -> tuple[Rollouts, dict[str, float]]:
    """Return the batch with answers of the policy at another temperature behind it, which `explore` marks.

    The first problems of the batch are sampled again, as many answers each. Recorded log-probs and entropies are
    those at the policy's own temperature, from a scoring pass.

    Args:
        model: the policy.
        tokenizer: turns ids into text.
        judge: the task's verifier.
        rollouts: the verified batch.
        sampling: how its tokens were drawn.
        settings: of the batch.
        share: in (0, 1], of its problems; at least one.
        temperature: > 0, of the extra rows.
        step: number of the batch; keys the draws together with `settings.seed`.
        version: optimiser updates the policy has seen.
        progress: called with (finished, total) extra answers.
        engine: what decodes; it has been given the weights.

    Returns:
        The rollouts, the policy's own rows first, and metrics of the extra ones.
    """
    began = time.perf_counter()
    prompts = rollouts.prompts[: max(1, math.floor(share * len(rollouts.prompts)))]
    with precision(rollouts.ids_BT.device, settings.dtype):
        more = sample_rollouts(
            model, tokenizer, prompts, [_prompt_ids(rollouts, index) for index in range(len(prompts))],
            dataclasses.replace(sampling, temperature=temperature), group=settings.group,
            stream=(settings.seed, "explore", step), version=version, progress=progress, engine=engine,
        )  # fmt: skip
    more = rewarded(more, judge, overlong_buffer=settings.overlong_buffer, overlong_factor=settings.overlong_factor)
    logp_BT, entropy_BT = scored(
        model, more, temperature=sampling.temperature, dtype=settings.dtype, head=settings.head
    )
    more = dataclasses.replace(
        more,
        logp_BT=logp_BT,
        entropy_BT=entropy_BT,
        entropy_kind=rollouts.entropy_kind,
        sample_B=more.sample_B + settings.group,
        reward_parts=_same_parts(more, rollouts),
    )
    metrics = {
        "explore/temperature": temperature,
        "explore/right": sum(verdict == "right" for verdict in more.verdicts) / more.rows,
        "tokens/explored": float(more.mask_BT.sum()),
        "time/explore": time.perf_counter() - began,
    }
    return _behind(rollouts, more), metrics


def own_rows(rollouts: Rollouts) -> Tensor:
    """Return the rows sampled at the policy's own temperature, int64."""
    explore_B = rollouts.extra.get("explore")
    if explore_B is None:
        return torch.arange(rollouts.rows, device=rollouts.group_B.device)
    return (~explore_B.bool()).nonzero().squeeze(1)


def _prompt_ids(rollouts: Rollouts, index: int) -> list[int]:
    row = int((rollouts.group_B == index).nonzero()[0])
    return rollouts.prompt_BS[row, : int(rollouts.prompt_length_B[row])].tolist()


def _same_parts(more: Rollouts, like: Rollouts) -> dict[str, Tensor]:
    """Return the parts of the reward under the names of another batch; what a batch lacks is 0."""
    assert more.reward_B is not None  # noqa: S101 - set by `rewarded`
    nothing_B = torch.zeros_like(more.reward_B)
    return {name: more.reward_parts.get(name, nothing_B) for name in like.reward_parts}


def _behind(rollouts: Rollouts, more: Rollouts) -> Rollouts:
    """Return two batches of the same problems as one, and which rows are of the second."""
    both = joined([rollouts, more])
    explore_B = torch.arange(both.rows, device=both.group_B.device) >= rollouts.rows
    return dataclasses.replace(
        both,
        prompts=rollouts.prompts,
        group_B=torch.cat([rollouts.group_B, more.group_B]),
        extra={"explore": explore_B},
    )
