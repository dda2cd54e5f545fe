"""A run directory as something to study: its task, its newest checkpoint, and all of them one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forkpoint.analyze.rundata import read_run
from forkpoint.analyze.studies.endings import Convention, convention
from forkpoint.analyze.studies.subject import Subject, with_changes
from forkpoint.errors import InputError
from forkpoint.rollouts import Prompt
from forkpoint.tasks.task import Task
from forkpoint.train.checkpoint import load_checkpoint, restore_model
from forkpoint.train.explain import explain
from forkpoint.train.manifest import is_sound, published
from forkpoint.train.schema import Recipe
from forkpoint.train.setup import Policy, encode, load_policy, make_sampling, make_task


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One model of a run's history."""

    step: int
    """Finished training steps; 0 is the model it started from."""
    load: Callable[[], Any]
    """Returns the model. Moments after 0 share one, so load the next when done with the last."""


def recipe_of(run_dir: Path) -> Recipe:
    """Return the recipe of a run.

    Raises:
        InputError: it is no run directory, or recipe.json is missing or damaged.
    """
    run = read_run(run_dir)
    table = run.recipe.get("recipe")
    if not isinstance(table, dict):
        said = next((note for note in run.notes if "recipe.json" in note), "recipe.json has no recipe.")
        raise InputError(f"{run_dir} cannot say what its model and task are: {said}")
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise InputError(explain(error, run_dir / "recipe.json")) from None


def subject_of_run(
    run_dir: Path,
    *,
    problems: int | None = None,
    group: int | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    template: str | None = None,
    seed: int | None = None,
) -> Subject:
    """Return a run's newest checkpoint that is intact, with its held-out problems, or training ones without any.

    Args:
        run_dir: a directory that `forkpoint train` wrote.
        problems: how many; None takes as many as its evaluations.
        group: answers to each problem; None takes as many as its evaluations.
        max_tokens: longest answer; None and the following take what the recipe says.
        temperature: of the answers; None takes that of its rollouts.
        template: of the prompts.
        seed: of the draws.

    Raises:
        InputError: the run has no intact checkpoint, or its model or task cannot be used any more.
    """
    recipe = recipe_of(run_dir)
    count = recipe.eval.problems if problems is None else problems
    if template is not None:
        recipe = recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"template": template})})
    if recipe.task.name.startswith("countdown"):
        recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"problems": count})})
    folders = published(run_dir / "checkpoints")
    if not folders:
        raise InputError(f"{run_dir} holds no checkpoint: train with checkpoint.every up to its number of steps")
    sound = next((folder for folder in reversed(folders) if is_sound(folder)), None)
    if sound is None:
        raise InputError(f"none of the {len(folders)} checkpoints of {run_dir} is intact")
    notes = [] if sound == folders[-1] else [f"{folders[-1].name} is damaged, so the model is that of {sound.name}."]
    policy, task = _policy(recipe, sound), make_task(recipe)
    restore_model(policy.model, load_checkpoint(sound))
    asked = _problems(task, recipe, count)
    encoded = encode(recipe, policy, asked)
    kept = [place for place, ids in enumerate(encoded) if ids]
    table = recipe.decode
    sampling = make_sampling(recipe, policy, temperature=table.temperature, top_p=table.top_p, top_k=table.top_k)
    return Subject(
        name=f"{run_dir.name}, {sound.name}",
        model=policy.model.eval(),
        tokenizer=policy.tokenizer,
        prompts=tuple(asked[place] for place in kept),
        encoded=tuple(encoded[place] for place in kept),
        sampling=with_changes(sampling, max_tokens=max_tokens, temperature=temperature),
        group=recipe.eval.samples if group is None else group,
        seed=recipe.seed if seed is None else seed,
        dtype=policy.dtype,
        judge=task.judge,
        convention=_convention(recipe),
        notes=tuple(notes),
    )


def moments(run_dir: Path, subject: Subject) -> list[Moment]:
    """Return the model a run started from and its checkpoints, those that should be there and are not included.

    Args:
        run_dir: the run.
        subject: from `subject_of_run`; its model is what every checkpoint is read into, so that one is in memory.
    """
    recipe = recipe_of(run_dir)
    folder = run_dir / "checkpoints"
    there = {int(path.name.rpartition("-")[2]): path for path in published(folder)}
    newest = max(there)
    every = recipe.checkpoint.every
    due = sorted({*range(every, newest + 1, every), newest})[-recipe.checkpoint.keep :]

    def start() -> Any:
        return load_policy(recipe).model.eval()

    def restored(path: Path) -> Any:
        restore_model(subject.model, load_checkpoint(path))
        return subject.model

    def reader(step: int) -> Callable[[], Any]:
        path = there.get(step, folder / f"step-{step:05d}")
        return lambda: restored(path)

    found = [] if 0 in there else [Moment(step=0, load=start)]
    return found + [Moment(step=step, load=reader(step)) for step in sorted({*there, *due})]


def _policy(recipe: Recipe, checkpoint: Path) -> Policy:
    """Return the recipe's model; where its directory is gone the checkpoint, which is a model directory, instead."""
    try:
        return load_policy(recipe)
    except InputError:
        if recipe.model.lora is not None:
            raise
        model = recipe.model.model_copy(update={"path": str(checkpoint), "revision": None})
        return load_policy(recipe.model_copy(update={"model": model}))


def _problems(task: Task, recipe: Recipe, count: int) -> list[Prompt]:
    if task.heldout:
        return list(task.heldout[:count])
    drawn = (task.train_prompt(recipe.seed, position) for position in range(count))
    return list({prompt.id: prompt for prompt in drawn}.values())


def _convention(recipe: Recipe) -> Convention:
    table = recipe.task
    if table.name.startswith("countdown"):
        return convention("countdown")
    if table.name == "arithmetic-sequence" or table.verifier == "sequence":
        return convention("whole")
    return convention(table.extraction)


def closed(subject: Subject) -> None:
    """End what a verifier holds, such as worker processes."""
    close = getattr(subject.judge, "close", None)
    if close is not None:
        close()


def described(subject: Subject) -> dict[str, Any]:
    """Return what was studied, for the numbers of a page."""
    sampling = dataclasses.asdict(dataclasses.replace(subject.sampling, stop_text=None))
    kept: Sequence[str] = ("max_tokens", "temperature", "top_p", "top_k")
    return {
        "model": subject.name,
        "problems": len(subject.prompts),
        "answers_each": subject.group,
        "seed": subject.seed,
        **{name: sampling[name] for name in kept},
    }
