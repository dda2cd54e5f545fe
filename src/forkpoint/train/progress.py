"""What a run holds, what of it changes, and how that is saved and found again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit.link import Chain, State
from forkpoint.decode.decoder import Sampling
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Rollouts
from forkpoint.tasks.prompts import token_text
from forkpoint.tasks.task import Task
from forkpoint.train.checkpoint import load_checkpoint, restore_model, restore_optimizer, save_checkpoint
from forkpoint.train.columns import Context
from forkpoint.train.columns_explore import own_rows
from forkpoint.train.console import Console
from forkpoint.train.offline import Offline
from forkpoint.train.runlog import read_metrics, write_rollouts
from forkpoint.train.schema import Recipe
from forkpoint.train.setup import Policy
from forkpoint.train.trackers import Tracker


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that stays the same during a run."""

    recipe: Recipe
    run_dir: Path
    policy: Policy
    task: Task
    chain: Chain
    reference: Policy | None
    optimizer: torch.optim.Optimizer
    sampling: Sampling
    columns: Context
    console: Console
    trackers: Tracker
    offline: Offline | None = None
    """Recorded answers that take the place of sampled ones."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Everything that changes, apart from weights and optimiser; saved in every checkpoint."""

    step: int = 0
    position: int = 0
    updates: int = 0
    states: list[State]


def save_progress(here: Run, progress: Progress) -> None:
    """Write a checkpoint of weights, optimiser, position and credit state."""
    states: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for index, state in enumerate(progress.states):
        states.append({name: value for name, value in state.items() if not isinstance(value, Tensor)})
        tensors |= {f"{index}/{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    save_checkpoint(
        here.run_dir,
        progress.step,
        model=here.policy.model,
        tokenizer=here.policy.tokenizer,
        optimizer=here.optimizer,
        state={
            "position": progress.position,
            "updates": progress.updates,
            "credit": states,
            "chain": here.chain.describe(),
        },
        tensors=tensors,
        keep=here.recipe.checkpoint.keep,
    )


def restored_progress(here: Run, path: Path) -> Progress:
    """Put weights and optimiser back and return where the run was."""
    checkpoint = load_checkpoint(path)
    if checkpoint.state.get("chain") != here.chain.describe():
        raise InputError(
            f"checkpoint {path} was made with another credit chain than this recipe's: resume with the recipe the "
            "run was started with, or start it under another name"
        )
    restore_model(here.policy.model, checkpoint)
    restore_optimizer(here.optimizer, here.policy.model, checkpoint)
    states: list[dict[str, Any]] = [dict(state) for state in checkpoint.state["credit"]]
    for name, value in checkpoint.tensors.items():
        index, _, field = name.partition("/")
        states[int(index)][field] = value.to(here.policy.device)
    return Progress(
        step=checkpoint.step,
        position=checkpoint.state["position"],
        updates=checkpoint.state["updates"],
        states=list(states),
    )


def save_rollouts(here: Run, step: int, rollouts: Rollouts, credit: Credit) -> None:
    """Write the rollout file of a step: what was sampled, and how much every token was credited.

    Rows that were sampled at another temperature have a file of their own, in `explored`.
    """
    if "explore" not in rollouts.extra:
        _write(here, step, rollouts, credit, "rollouts")
        return
    own = own_rows(rollouts)
    others = rollouts.extra["explore"].nonzero().squeeze(1)
    for rows, folder in ((own, "rollouts"), (others, "explored")):
        _write(here, step, rollouts.select(rows, trim=False), credit.select(rows), folder)


def _write(here: Run, step: int, rollouts: Rollouts, credit: Credit, folder: str) -> None:
    write_rollouts(
        here.run_dir,
        step,
        rollouts,
        token_text=token_text(here.policy.tokenizer),
        advantage_BT=credit.advantage_BT,
        credit_BT=torch.where(credit.keep_BT, credit.advantage_BT * credit.weight_BT, 0.0),
        kept_BT=credit.keep_BT & (credit.weight_BT != 0),
        folder=folder,
    )


def logged_evaluation(run_dir: Path, step: int) -> dict[str, float] | None:
    """Return the evaluation a run has logged for a step, if any."""
    found = [row for row in read_metrics(run_dir) if row.get("step") == step and "eval/accuracy" in row]
    return found[-1] if found else None
