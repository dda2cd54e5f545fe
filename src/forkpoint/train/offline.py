"""Offline training: recorded answers in the place of sampled ones, and everything else as in any run.

A step's batch is a function of seed and step alone, and what was not recorded is computed with the weights that the
run starts from, so a resumed run is the run it would have been.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forkpoint.decode.rollout import of_prompts
from forkpoint.errors import InputError
from forkpoint.rollouts import Rollouts
from forkpoint.tasks.task import Judge
from forkpoint.train.collect import Collected, _reward_metrics
from forkpoint.train.columns import Context, filled
from forkpoint.train.examples import shuffled
from forkpoint.train.offline_data import read_answers, rollouts_of_rows, with_ids
from forkpoint.train.rescore import scored
from forkpoint.train.schema import Recipe
from forkpoint.train.setup import Policy, encode
from forkpoint.verify.reward import rewarded, useful_groups

PROBE = 16
"""Answers on which recorded log-probs are compared with those of the weights that the run starts from."""


@dataclass(frozen=True, kw_only=True)
class Offline:
    """Recorded answers, ready to be learned from."""

    rollouts: Rollouts
    """Every group that is learned from, on the CPU, with log-probs, entropies and rewards."""
    about: dict[str, Any]
    """Where they are from and what they are, for `recipe.json`."""
    note: str
    """The same for the user, in a sentence."""


def load_offline(
    path: str | Path,
    recipe: Recipe,
    policy: Policy,
    judge: Judge,
    *,
    columns: Context | None = None,
    needs: Collection[str] = (),
) -> Offline:
    """Return recorded answers as the batches of a run.

    Prompts are encoded by the recipe's `[prompt]`. Answers without a reward are judged by the task's verifier.
    Log-probs and entropies that were not recorded, entropies that are only bounds, and columns that a link reads are
    those of the policy as it is at the call, at `decode.temperature`. With `train.dynamic_sampling`, groups whose
    answers all earn the same are left out.

    Args:
        path: see `forkpoint.train.offline_data.read_answers`.
        recipe: prompt, temperature and sizes are read.
        policy: the weights the run starts from.
        judge: the task's verifier.
        columns: what columns are made from; None makes none.
        needs: the columns that are made, see `forkpoint.train.columns.filled`.

    Raises:
        InputError: the answers cannot be used, were sampled in another way than the recipe says, or are fewer than
            one step needs.
    """
    _check_origin(Path(path), recipe)
    rows = with_ids(read_answers(path), policy.tokenizer)
    rollouts = _single(rollouts_of_rows(rows, max_tokens=recipe.decode.max_tokens))
    rollouts = prompted(rollouts, encode(recipe, policy, rollouts.prompts))
    if all(row.get("reward") is None for row in rows):
        table = recipe.reward
        rollouts = rewarded(
            rollouts, judge, overlong_buffer=table.overlong_buffer, overlong_factor=table.overlong_factor
        )
    elif not rollouts.reward_parts and rollouts.reward_B is not None:
        rollouts = dataclasses.replace(rollouts, reward_parts={"answer": rollouts.reward_B})
    everything = len(rollouts.prompts)
    if recipe.train.dynamic_sampling:
        useful = useful_groups(rollouts)
        if not useful:
            raise InputError(
                f"{path}: the answers to every one of {everything:,} problems all earn the same, so there is no "
                "contrast to learn from: record several answers a problem, or set train.dynamic_sampling=false"
            )
        rollouts = of_prompts(rollouts, useful)
    if len(rollouts.prompts) < recipe.train.prompts:
        raise InputError(
            f"train.prompts = {recipe.train.prompts}, and {path} has {len(rollouts.prompts)} problems to learn from "
            f"(of {everything}): lower train.prompts and train.mini_prompts, or record more"
        )
    # What is computed below may round differently elsewhere, so only what was read tells one set from another.
    read = (rollouts.ids_BT, rollouts.group_B, rollouts.reward_B)
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in read if part is not None)).hexdigest()
    rollouts, known = completed(rollouts, policy, temperature=recipe.decode.temperature)
    if columns is not None and needs:
        cpu = torch.device("cpu")
        rollouts = on_device(filled(on_device(rollouts, policy.device), needs, columns), cpu)
    return Offline(
        rollouts=rollouts,
        about={"data": str(path), "answers": rollouts.rows, "problems": len(rollouts.prompts), "sha256": digest},
        note=(
            f"offline: {rollouts.rows:,} answers to {len(rollouts.prompts):,} problems of {path}"
            f"{_left_out(everything - len(rollouts.prompts))}; {known}"
        ),
    )


def offline_batch(offline: Offline, recipe: Recipe, step: int, device: torch.device) -> Collected:
    """Return the batch of a step: `train.prompts` groups, every pass over the data in an order of its own.

    A pass ends where too few groups for a whole batch are left, so no batch holds a group twice.

    Args:
        offline: the recorded answers.
        recipe: `train.prompts` and `seed` are read.
        step: from 1.
        device: where the batch goes.
    """
    size, groups = recipe.train.prompts, len(offline.rollouts.prompts)
    steps = groups // size
    passed, place = divmod(step - 1, steps)
    order = shuffled(range(groups), recipe.seed)
    first = passed * groups + place * size
    rollouts = on_device(of_prompts(offline.rollouts, [order(first + k) for k in range(size)]), device)
    metrics = _reward_metrics(rollouts)
    if not rollouts.verdicts:
        metrics.pop("reward/right")
    return Collected(rollouts=rollouts, position=step * size, metrics={**metrics, "offline/passes": (step - 1) / steps})


def completed(rollouts: Rollouts, policy: Policy, *, temperature: float) -> tuple[Rollouts, str]:
    """Return the rollouts with every log-prob and entropy known, and how, in a few words.

    What is missing, and entropies that are lower bounds, come from one forward pass of the policy.

    Raises:
        TrainingError: the logits of a token are not finite.
    """
    mask_BT = rollouts.mask_BT
    lacks_BT = mask_BT & ~rollouts.logp_BT.isfinite()
    vague_BT = mask_BT & (~rollouts.entropy_BT.isfinite() | (rollouts.entropy_kind == "lower-bound"))
    rows = (lacks_BT | vague_BT).any(1).nonzero().squeeze(1)
    if not rows.numel():
        rows = torch.arange(min(PROBE, rollouts.rows))
    part = on_device(rollouts.select(rows, trim=False), policy.device)
    found = scored(policy.model, part, temperature=temperature, dtype=policy.dtype, head=policy.head)
    found_BT, entropy_BT = torch.full_like(rollouts.logp_BT, torch.nan), rollouts.entropy_BT.clone()
    found_BT[rows] = found[0].cpu()
    entropy_BT[rows] = torch.where(vague_BT[rows], found[1].cpu(), entropy_BT[rows])
    both_BT = mask_BT & ~lacks_BT & found_BT.isfinite()
    gap = float((found_BT - rollouts.logp_BT)[both_BT].abs().mean()) if bool(both_BT.any()) else None
    whole = dataclasses.replace(
        rollouts,
        logp_BT=torch.where(lacks_BT, found_BT, rollouts.logp_BT),
        entropy_BT=entropy_BT,
        entropy_kind="rescored" if bool(vague_BT.any()) else rollouts.entropy_kind,
    )
    return whole, _told(gap, int(both_BT.any(1).sum()), bool(lacks_BT.any()), bool(vague_BT.any()))


def check_same(run_dir: Path, offline: Offline | None) -> None:
    """Raise `InputError` where a run that is resumed did not begin with these answers.

    Nothing can be said where `recipe.json` is gone or cannot be read.
    """
    try:
        began = json.loads((run_dir / "recipe.json").read_text(encoding="utf-8"))["recipe"].get("offline")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    there, here = (value.get("sha256") if value else None for value in (began, offline and offline.about))
    if there != here:
        source = f"the answers of {began.get('data')}" if began else "answers that it sampled"
        raise InputError(
            f"{run_dir} learned from {source}, and this command gives other ones: resume with the same "
            "--offline as before, or start it under another name"
        )


def prompted(rollouts: Rollouts, encoded: Sequence[Sequence[int]]) -> Rollouts:
    """Return the rollouts with the token ids of their prompts, without problems that have none.

    Args:
        rollouts: on the CPU.
        encoded: token ids of every problem, empty where it is to be left out.
    """
    keep = [place for place, ids in enumerate(encoded) if ids]
    if not keep:
        raise InputError("every prompt is longer than prompt.max_tokens: raise it, or check prompt.template")
    rollouts = of_prompts(rollouts, keep) if len(keep) < len(encoded) else rollouts
    encoded = [encoded[place] for place in keep]
    width = max(map(len, encoded))
    padded_PS = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in encoded])
    length_P = torch.tensor([len(ids) for ids in encoded])
    return dataclasses.replace(
        rollouts, prompt_BS=padded_PS[rollouts.group_B], prompt_length_B=length_P[rollouts.group_B]
    )


def _check_origin(path: Path, recipe: Recipe) -> None:
    """Refuse a run that was sampled at another temperature or with another template than the recipe says."""
    try:
        there = json.loads((path / "recipe.json").read_text(encoding="utf-8"))["recipe"]
        found = {(table, key): there[table][key] for table, key in (("decode", "temperature"), ("prompt", "template"))}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    for (table, key), value in found.items():
        here = getattr(getattr(recipe, table), key)
        if value != here:
            raise InputError(
                f"the answers of {path} were sampled with {table}.{key} = {value!r}, and the recipe has {here!r}, so "
                f"their log-probs would be others: add {table}.{key}={value}"
            )


def _told(gap: float | None, rows: int, logp: bool, entropy: bool) -> str:
    what = [name for name, missing in (("log-probs", logp), ("entropies", entropy)) if missing]
    taken = f"{' and '.join(what)} that were not recorded are those of the model the run starts from" if what else ""
    against = (
        f"recorded log-probs differ from that model's by {gap:.2g} nats a token ({rows:,} answers compared; about 0 "
        "where it wrote them with these prompts)"
        if gap is not None
        else ""
    )
    return "; ".join(part for part in (taken, against) if part)


def _left_out(count: int) -> str:
    return f", {count:,} more left out because their answers all earn the same" if count else ""


def _single(rollouts: Rollouts) -> Rollouts:
    """Return the numbers in float32, as an engine gives them."""
    return each_tensor(rollouts, lambda value: value.float() if value.is_floating_point() else value)


def on_device(rollouts: Rollouts, device: torch.device) -> Rollouts:
    """Return the rollouts on a device."""
    return each_tensor(rollouts, lambda value: value.to(device))


def each_tensor(rollouts: Rollouts, change: Callable[[Tensor], Tensor]) -> Rollouts:
    """Return the rollouts with a change made to every tensor they hold."""
    changes: dict[str, Any] = {}
    for part in dataclasses.fields(rollouts):
        value = getattr(rollouts, part.name)
        if isinstance(value, Tensor):
            changes[part.name] = change(value)
        elif part.name in ("reward_parts", "extra"):
            changes[part.name] = {name: change(column) for name, column in value.items()}
    return dataclasses.replace(rollouts, **changes)
