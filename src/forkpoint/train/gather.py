"""The batch of a step before it is credited: sampled or recorded, with what the chain reads of it."""

from __future__ import annotations

import contextlib
import dataclasses
import time

import torch

from forkpoint.model import precision
from forkpoint.rollouts import Credit, Rollouts
from forkpoint.train.collect import Collected, CollectSettings, collect, with_reference
from forkpoint.train.columns import filled
from forkpoint.train.columns_explore import asked_temperature, explored, own_rows
from forkpoint.train.needs import columns_needed
from forkpoint.train.offline import offline_batch
from forkpoint.train.policy import forward_rows
from forkpoint.train.progress import Progress, Run
from forkpoint.train.setup import encode


def gathered(here: Run, progress: Progress, step: int, settings: CollectSettings) -> Collected:
    """Return the verified batch of a step: sampled, with extra rows where a link learns from them, or recorded."""
    recipe, policy = here.recipe, here.policy
    if here.offline is not None:
        return offline_batch(here.offline, recipe, step, policy.device)
    collected = collect(
        policy.model,
        policy.tokenizer,
        here.task,
        lambda prompts: encode(recipe, policy, prompts),
        here.sampling,
        settings,
        step=step,
        position=progress.position,
        version=progress.updates,
        progress=here.console.progress,
        engine=policy.engine,
    )
    if "explore" not in here.chain.needs:
        return collected
    rollouts, metrics = explored(
        policy.model,
        policy.tokenizer,
        here.task.judge,
        collected.rollouts,
        here.sampling,
        settings,
        share=recipe.columns.explore_share,
        temperature=asked_temperature(here.chain, progress.states),
        step=step,
        version=progress.updates,
        progress=here.console.progress,
        engine=policy.engine,
    )
    return dataclasses.replace(collected, rollouts=rollouts, metrics=collected.metrics | metrics)


def referenced(here: Run, rollouts: Rollouts) -> tuple[Rollouts, float]:
    """Add the reference model's log-probs where a link needs them; returns the seconds that took."""
    if "ref_logp" not in here.chain.needs:
        return rollouts, 0.0
    began = time.perf_counter()
    reference = here.reference or here.policy
    adapters = contextlib.nullcontext() if here.reference else reference.model.disable_adapter()
    with torch.no_grad(), precision(reference.device, reference.dtype), adapters:
        ref = forward_rows(
            reference.model,
            rollouts,
            temperature=here.sampling.temperature,
            head=reference.head,
            packed=reference.packed,
        ).logp_BT
    return with_reference(rollouts, ref), time.perf_counter() - began


def with_columns(here: Run, rollouts: Rollouts) -> tuple[Rollouts, dict[str, float]]:
    """Add the columns that the chain reads; returns the seconds that took, and nothing where it reads none."""
    needs = columns_needed(here.chain) - rollouts.extra.keys()
    if not needs:
        return rollouts, {}
    began = time.perf_counter()
    rollouts = filled(rollouts, needs, here.columns)
    return rollouts, {"time/columns": time.perf_counter() - began}


def own_part(rollouts: Rollouts, credit: Credit) -> tuple[Rollouts, Credit]:
    """Return the rows sampled at the policy's own temperature, which alone say what its entropy is."""
    if "explore" not in rollouts.extra:
        return rollouts, credit
    rows = own_rows(rollouts)
    return rollouts.select(rows, trim=False), credit.select(rows)
