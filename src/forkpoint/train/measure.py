"""Measure the model of a recipe on the held-out problems of its task, without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from forkpoint.evaluate.heldout import Evaluation, evaluate_heldout
from forkpoint.tasks.task import Task
from forkpoint.train.rescore import rescored
from forkpoint.train.schema import Recipe
from forkpoint.train.setup import Policy, encode, load_policy, make_sampling, make_task, with_engine


def evaluate_model(recipe: Recipe, *, progress: Callable[[int, int], None] | None = None) -> Evaluation:
    """Return accuracy, reward and rollouts of a recipe's model under its `[eval]` settings.

    The draws are those of a training run of the same recipe, so the two can be compared problem by problem.

    Args:
        recipe: whose model, task and evaluation settings to use.
        progress: called with (finished, total) answers.

    Raises:
        InputError: model or data cannot be used, or there is no held-out problem.
    """
    policy, task = with_engine(recipe, load_policy(recipe)), make_task(recipe)
    try:
        return evaluate_policy(recipe, policy, task, progress=progress)
    finally:
        close = getattr(task.judge, "close", None)
        if close is not None:
            close()


def evaluate_policy(
    recipe: Recipe, policy: Policy, task: Task, *, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Return the evaluation of a policy that is already loaded. See `evaluate_model`."""
    prompts = task.heldout[: recipe.eval.problems]
    encoded = encode(recipe, policy, prompts)
    if policy.engine.refresh is not None:
        policy.engine.refresh(policy.model)
    found = evaluate_heldout(
        policy.model,
        policy.tokenizer,
        prompts,
        encoded,
        task.judge,
        make_sampling(recipe, policy, temperature=recipe.eval.temperature, top_p=recipe.eval.top_p, top_k=0),
        samples=recipe.eval.samples,
        seed=recipe.seed,
        dtype=policy.dtype,
        progress=progress,
        engine=policy.engine,
    )
    if found.rollouts.entropy_kind == "exact" or not recipe.decode.rescore:
        return found
    rollouts, _ = rescored(
        policy.model, found.rollouts, temperature=recipe.eval.temperature, dtype=policy.dtype, head=policy.head
    )
    return dataclasses.replace(found, rollouts=rollouts)
