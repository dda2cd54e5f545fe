"""What a method reads and a run does not record, taken from the model that wrote the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from forkpoint.credit.link import EXTRA, Chain
from forkpoint.errors import InputError
from forkpoint.rollouts import Rollouts

HELD = frozenset({"reward", "entropy", "forward", "entropy_gradient"})
"""Needs that every recorded batch meets: the current policy is the one that sampled."""


def check_plotted(
    label: str, chain: Chain, rollouts: Rollouts, recipe: Mapping[str, Any], *, model: bool, reference: bool
) -> None:
    """Refuse, before a model is loaded, a method that needs what the batch does not hold and no pass will give.

    Args:
        label: of the method, for the message.
        chain: the method.
        rollouts: the batch.
        recipe: the resolved recipe of the run.
        model: whether the model that wrote the answers is there.
        reference: whether a reference model is there.

    Raises:
        InputError: one sentence with the link, what it needs, and the option that gives it.
    """
    columns = recipe.get("columns")
    phrases = columns.get("planning") if isinstance(columns, Mapping) else None
    for link in chain.links:
        for need in sorted(link.needs - HELD):
            remedy = _remedy(need.removeprefix("forward_"), rollouts, model, reference)
            if need == "planning" and need not in rollouts.extra and not phrases:
                remedy = "the run's recipe lists no phrases in columns.planning, so no token is known to be planning"
            if remedy is not None:
                what = EXTRA.get(need.removeprefix("forward_"), "log-probs of a reference model")
                raise InputError(f"{label}: link {link.name!r} needs {need!r} ({what}): {remedy}")


def _remedy(name: str, rollouts: Rollouts, model: bool, reference: bool) -> str | None:
    from forkpoint.train.columns import FILLED

    if name in rollouts.extra or (name == "ref_logp" and (reference or rollouts.ref_logp_BT is not None)):
        return None
    if name == "ref_logp":
        return "add --reference DIR, the model that its KL term pulls towards"
    if name not in FILLED:
        return "recorded answers do not hold it and no pass of a model gives it, so this method cannot be drawn"
    return None if model else "add --model DIR, the model that wrote the answers; one pass over them gives it"


def completed_by(
    model: str | None,
    rollouts: Rollouts,
    needs: Collection[str],
    recipe: Mapping[str, Any],
    *,
    reference: str | None = None,
) -> tuple[Rollouts, list[str]]:
    """Return the rollouts with the columns that are needed, from one pass of the model over the answers.

    Hidden states and nuclei are those of the policy that sampled, which is the current one in a first update.

    Args:
        model: directory or hub name of the model that wrote the answers; None where no column is needed.
        rollouts: from `rollouts_of_table`, on the CPU.
        needs: of the methods.
        recipe: the resolved recipe of the run, which says how prompts were written and answers end; what it does not
            say is as in a recipe that is silent.
        reference: the model whose log-probs become `ref_logp_BT`; None takes none.

    Returns:
        (rollouts, notes), a note saying how far the model's log-probs are from the recorded ones.

    Raises:
        InputError: a model or its tokenizer cannot be used.
    """
    import torch

    from forkpoint.train.columns import filled
    from forkpoint.train.offline import completed, each_tensor, on_device, prompted
    from forkpoint.train.rescore import scored
    from forkpoint.train.setup import column_context, encode, load_policy

    notes, cpu = [], torch.device("cpu")
    double = rollouts
    rollouts = each_tensor(rollouts, lambda value: value.float() if value.is_floating_point() else value)
    extra: dict[str, Any] = {}
    ref_logp_BT = rollouts.ref_logp_BT
    for path, use in ((model, "model"), (reference, "reference")):
        if path is None:
            continue
        asked = _recipe(recipe, path)
        policy = load_policy(asked)
        with_prompts = prompted(rollouts, encode(asked, policy, rollouts.prompts))
        if use == "reference":
            there = on_device(with_prompts, policy.device)
            ref_logp_BT = scored(
                policy.model, there, temperature=asked.decode.temperature, dtype=policy.dtype, head=policy.head
            )[0].to(cpu)
            continue
        _, told = completed(with_prompts, policy, temperature=asked.decode.temperature)
        notes.append(f"{path}: {told}.")
        names = {need.removeprefix("forward_") for need in needs}
        extra = dict(
            on_device(filled(on_device(with_prompts, policy.device), names, column_context(asked, policy)), cpu).extra
        )
    whole = dataclasses.replace(double, extra={**double.extra, **extra}, ref_logp_BT=ref_logp_BT)
    return each_tensor(whole, lambda value: value.double() if value.is_floating_point() else value), notes


def _recipe(table: Mapping[str, Any], path: str) -> Any:
    """Return a recipe that reads prompts and ends answers as the run did, for another model."""
    from pydantic import ValidationError

    from forkpoint.train.schema import ColumnsTable, DecodeTable, ModelTable, PromptTable, Recipe, TaskTable, TrainTable

    def part(name: str, kind: Any) -> Any:
        try:
            return kind.model_validate(table.get(name) or {})
        except ValidationError:
            return kind()

    prompt = part("prompt", PromptTable)
    return Recipe(
        name="plot", model=ModelTable(path=path), train=TrainTable(steps=1), task=part("task", TaskTable),
        prompt=prompt.model_copy(update={"overlong": "error"}), decode=part("decode", DecodeTable),
        columns=part("columns", ColumnsTable),
    )  # fmt: skip
