"""The embedded engine: decode -> verify -> credit -> update, one process, one device."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit.link import Chain, init, run
from forkpoint.decode.decoder import Sampling
from forkpoint.errors import TrainingError
from forkpoint.model import precision
from forkpoint.rollouts import Rollouts, blank_credit
from forkpoint.seeds import key
from forkpoint.tasks.prompts import token_text
from forkpoint.train.collect import CollectSettings, entropy_metrics
from forkpoint.train.columns_program import program_file
from forkpoint.train.console import make_console
from forkpoint.train.gather import gathered, own_part, referenced, with_columns
from forkpoint.train.measure import evaluate_policy
from forkpoint.train.needs import check_chain, columns_needed
from forkpoint.train.offline import Offline, check_same, load_offline
from forkpoint.train.progress import (
    Progress,
    Run,
    logged_evaluation,
    restored_progress,
    save_progress,
    save_rollouts,
)
from forkpoint.train.recipe import credit_chain, resolved
from forkpoint.train.runlog import (
    append_metrics,
    changed_settings,
    open_run,
    write_evals,
    write_recipe_json,
)
from forkpoint.train.schema import Recipe
from forkpoint.train.setup import (
    Policy,
    column_context,
    load_policy,
    make_optimizer,
    make_reference,
    make_sampling,
    make_task,
    with_engine,
)
from forkpoint.train.trackers import make_tracker
from forkpoint.train.update import UpdateSettings, learn


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run ended with."""

    run_dir: Path
    steps: int
    before: dict[str, float] | None
    """Metrics of the evaluation before the first step, where there was one."""
    after: dict[str, float] | None
    """Metrics of the last evaluation."""


def train(
    recipe: Recipe, *, run_dir: Path, resume: bool = False, fresh: bool = False, offline: Path | None = None
) -> TrainResult:
    """Train by a recipe and leave a run directory behind.

    Every draw is keyed by seed, step and problem, and everything else that changes is in the checkpoint, so a
    run that was killed and resumed ends with the same weights, bit for bit on CPU with the same thread count, as
    one left alone.

    Args:
        recipe: from `forkpoint.train.recipe.load_recipe`.
        run_dir: where the run writes.
        resume: go on from the newest checkpoint, or from the start where there is none.
        fresh: move a run that is already there aside.
        offline: recorded answers to learn from in place of sampled ones, see `forkpoint.train.offline`.

    Returns:
        `TrainResult`.

    Raises:
        InputError: something in the recipe cannot be used; nothing has been trained.
        TrainingError: the run had to stop; everything written so far is intact.
    """
    chain = credit_chain(recipe)
    check_chain(recipe, chain, sampled=offline is None)
    # A mistake in the recipe must not move an old run aside, so the run directory is opened last.
    policy = with_engine(recipe, load_policy(recipe), None if offline else chain)
    task = make_task(recipe)
    columns = column_context(recipe, policy)
    recorded = None
    if offline is not None:
        recorded = load_offline(offline, recipe, policy, task.judge, columns=columns, needs=columns_needed(chain))
    if resume:
        check_same(run_dir, recorded)
    about = _about(recipe, recorded)
    sampling = _training_sampling(recipe, policy)
    reference = make_reference(recipe, policy, chain)
    optimizer = make_optimizer(recipe, policy.model)
    checkpoint_path = open_run(run_dir, "resume" if resume else "fresh" if fresh else "new")
    console = make_console(recipe.train.steps)
    here = Run(
        recipe=recipe,
        run_dir=run_dir,
        policy=policy,
        task=task,
        chain=chain,
        reference=reference,
        optimizer=optimizer,
        sampling=sampling,
        columns=columns,
        console=console,
        trackers=make_tracker(recipe.log.trackers, run_dir=run_dir, recipe=about, report=console.note),
        offline=recorded,
    )
    if recorded is not None:
        console.note(recorded.note)
    protections = getattr(task.judge, "protections", None)
    if protections is not None:
        console.note(protections())
    progress = Progress(states=init(chain))
    if checkpoint_path is None:
        write_recipe_json(
            run_dir,
            recipe=about,
            chain=chain.describe(),
            device=f"{policy.device.type}, {policy.threads} threads, {policy.dtype}",
            seed=recipe.seed,
        )
    else:
        progress = restored_progress(here, checkpoint_path)
    try:
        return _train(here, progress, resumed=checkpoint_path is not None)
    finally:
        here.console.close()
        here.trackers.finish()
        close = getattr(task.judge, "close", None)
        if close is not None:
            close()


def _about(recipe: Recipe, offline: Offline | None) -> dict[str, Any]:
    """Return the resolved recipe with the files it depends on that are neither model nor problems."""
    about = resolved(recipe)
    if offline is not None:
        about["offline"] = offline.about
    if recipe.columns.program is not None:
        about["program"] = program_file(recipe.columns.program)
    return about


def _train(here: Run, progress: Progress, *, resumed: bool) -> TrainResult:
    recipe, last = here.recipe, here.recipe.train.steps
    before = after = None
    if resumed:
        here.console.note(f"resumed after step {progress.step} of {last}")
        for change in changed_settings(here.run_dir, _about(recipe, here.offline)):
            here.console.note(f"another setting than the run began with: {change}")
        before = logged_evaluation(here.run_dir, 0)
    elif recipe.eval.before:
        before = _evaluate(here, 0)
    while progress.step < last:
        progress = _step(here, progress)
        final = progress.step == last
        due = recipe.eval.every and progress.step % recipe.eval.every == 0
        if (final and recipe.eval.after) or (due and not final):
            after = _evaluate(here, progress.step)
        if final or progress.step % recipe.checkpoint.every == 0:
            save_progress(here, progress)
    if after is None:
        after = logged_evaluation(here.run_dir, last)
    return TrainResult(run_dir=here.run_dir, steps=progress.step, before=before, after=after)


def _step(here: Run, progress: Progress) -> Progress:
    """Make one training step: a rollout batch and its updates."""
    recipe, policy, step = here.recipe, here.policy, progress.step + 1
    began, cpu = time.perf_counter(), time.process_time()
    try:
        collected = gathered(here, progress, step, _collect_settings(recipe, policy))
        rollouts, scoring = referenced(here, collected.rollouts)
        rollouts, filling = with_columns(here, rollouts)
    except TrainingError as error:
        raise TrainingError(f"step {step}: {error}; everything up to step {progress.step} is intact") from error
    if collected.note is not None:
        here.console.note(collected.note)
    marked = time.perf_counter()
    credit, states = run(
        here.chain,
        blank_credit(rollouts),
        rollouts,
        progress.states,
        when="rollout",
        rng=key(recipe.seed, "rollout", step),
    )
    credit_seconds = time.perf_counter() - marked
    marked = time.perf_counter()
    # Dropout draws from torch's own generator; keyed by step, it is the same after a resume.
    torch.manual_seed(key(recipe.seed, "dropout", step))
    policy.model.train()
    try:
        with precision(policy.device, policy.dtype):
            updated = learn(
                policy.model,
                here.optimizer,
                here.chain,
                states,
                rollouts,
                credit,
                _update_settings(recipe, policy),
                step=step,
                learning_rates=_learning_rates(recipe, progress.updates),
            )
    except TrainingError as error:
        save_rollouts(here, step, rollouts, credit)
        raise TrainingError(
            f"step {step}: {error}; the batch is in rollouts/step-{step:05d}.parquet and the last checkpoint is intact"
        ) from error
    finally:
        policy.model.eval()
    update_seconds = time.perf_counter() - marked
    own, own_credit = own_part(rollouts, updated.credit)
    metrics = {
        "step": step,
        **collected.metrics,
        **entropy_metrics(own, own_credit.advantage_BT),
        **updated.metrics,
        "credit/threshold": _threshold(own, own_credit.keep_BT & (own_credit.weight_BT != 0)),
        "train/lr": float(here.optimizer.param_groups[0]["lr"]),
        "train/updates": float(progress.updates + updated.updates),
        "time/score": scoring,
        **filling,
        "time/credit": credit_seconds,
        "time/update": update_seconds,
        "time/step": time.perf_counter() - began,
        "time/cpu": time.process_time() - cpu,
    }
    if updated.metrics["cost/statistics_tokens"] and progress.step == 0:
        here.console.note(_cost_note(here.chain, updated.metrics, update_seconds))
    if recipe.log.rollouts_every and step % recipe.log.rollouts_every == 0:
        save_rollouts(here, step, rollouts, updated.credit)
    append_metrics(here.run_dir, metrics)
    here.console.step(metrics)
    here.trackers.log(metrics, step)
    return Progress(
        step=step,
        position=collected.position,
        updates=progress.updates + updated.updates,
        states=updated.states,
    )


def _evaluate(here: Run, step: int) -> dict[str, float]:
    """Evaluate on the held-out problems and log the result."""
    recipe, policy = here.recipe, here.policy
    began = time.perf_counter()
    try:
        found = evaluate_policy(recipe, policy, here.task, progress=here.console.progress)
    except TrainingError as error:
        raise TrainingError(f"evaluation after step {step}: {error}") from error
    metrics = {"step": step, **found.metrics(), "time/eval": time.perf_counter() - began}
    write_evals(here.run_dir, step, found.rollouts, token_text=token_text(policy.tokenizer))
    append_metrics(here.run_dir, metrics)
    here.console.evaluation(metrics)
    here.trackers.log(metrics, step)
    return metrics


def _training_sampling(recipe: Recipe, policy: Policy) -> Sampling:
    table = recipe.decode
    return make_sampling(recipe, policy, temperature=table.temperature, top_p=table.top_p, top_k=table.top_k)


def _collect_settings(recipe: Recipe, policy: Policy) -> CollectSettings:
    return CollectSettings(
        prompts=recipe.train.prompts,
        group=recipe.train.group,
        dynamic_sampling=recipe.train.dynamic_sampling,
        max_rounds=recipe.train.max_rounds,
        overlong_buffer=recipe.reward.overlong_buffer,
        overlong_factor=recipe.reward.overlong_factor,
        dtype=policy.dtype,
        seed=recipe.seed,
        rescore=recipe.decode.rescore,
        head=policy.head,
    )


def _update_settings(recipe: Recipe, policy: Policy) -> UpdateSettings:
    return UpdateSettings(
        mini_prompts=recipe.train.mini_prompts,
        micro_tokens=recipe.train.micro_tokens,
        epochs=recipe.train.epochs,
        grad_clip=recipe.train.grad_clip,
        temperature=recipe.decode.temperature,
        seed=recipe.seed,
        head=policy.head,
        packed=policy.packed,
    )


def _learning_rates(recipe: Recipe, done: int) -> list[float]:
    """Return the learning rate of every update of a step: linear warm-up, then constant."""
    table = recipe.train
    count = table.epochs * math.ceil(table.prompts / table.mini_prompts)
    return [table.lr * min(1.0, (done + k + 1) / max(table.warmup, 1)) for k in range(count)]


def _threshold(rollouts: Rollouts, kept_BT: Tensor) -> float:
    """Return the lowest behaviour entropy among the tokens that learned, in nats."""
    if rollouts.entropy_kind == "lower-bound":
        return math.nan
    kept = rollouts.entropy_BT[kept_BT]
    return float(kept.min()) if kept.numel() else math.nan


def _cost_note(chain: Chain, metrics: Mapping[str, float], seconds: float) -> str:
    share = metrics["time/statistics"] / max(seconds, 1e-9)
    return (
        f"the chain ranks tokens over a whole {chain.span}-batch under the current policy: one extra forward pass over "
        f"{int(metrics['cost/statistics_tokens']):,} tokens a step, {share:.0%} of the update's time; "
        "source = 'behaviour' or a larger train.micro_tokens avoids it"
    )
