"""Checkpoints: atomic, safetensors and JSON only, verified before they are used.

A checkpoint is a folder `checkpoints/step-00005` that any Hugging Face tool can load as a model, with two
files more: `trainer.safetensors` (optimiser state by parameter name, tensors of the credit chain) and
`trainer.json` (step, data position, generators, hyper-parameters, size and sha256 of every file). Nothing
in it is ever unpickled.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forkpoint.errors import InputError, did_you_mean
from forkpoint.train.files import disk_errors
from forkpoint.train.manifest import is_sound, publish, published, tidy, verify, write_manifest


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run needs to go on, apart from model and optimiser, which are restored in place."""

    path: Path
    step: int
    """Number of finished training steps."""
    state: Mapping[str, Any]
    """JSON values: data position, number of updates, state of the credit chain."""
    tensors: Mapping[str, Tensor]
    """Tensors of the credit chain's state."""
    optimizer: Mapping[str, Any]
    """Hyper-parameters of every parameter group, its parameter names, and state that is no tensor."""


def save_checkpoint(
    run_dir: str | os.PathLike[str],
    step: int,
    *,
    model: nn.Module,
    tokenizer: Any,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    keep: int,
) -> Path:
    """Write `checkpoints/step-<step>` and remove all but the newest `keep` checkpoints.

    Everything is written and synced in a hidden folder which is then renamed, so a process killed at any
    moment leaves either the whole checkpoint or none of it.

    Args:
        run_dir: the run's directory.
        step: number of finished training steps, >= 0.
        model: anything with `save_pretrained`; a peft model saves its adapter alone.
        tokenizer: saved beside the model; None saves none.
        optimizer: its parameters must be parameters of `model`.
        state: JSON values.
        tensors: state that is a tensor, by name.
        keep: how many checkpoints to keep, >= 1; the one just written is never removed.

    Returns:
        The folder of the new checkpoint.

    Raises:
        TrainingError: the disk is full or not writable; older checkpoints are untouched.
    """
    folder = Path(run_dir) / "checkpoints"
    target = folder / f"step-{step:05d}"
    temporary = folder / f".tmp-{target.name}"
    older = [path.name for path in published(folder) if path.name != target.name]
    intact = f"{older[-1]} and everything written before it are intact" if older else "the run's log is intact"
    with disk_errors(f"checkpoint {target.name}", folder, intact):
        folder.mkdir(parents=True, exist_ok=True)
        tidy(folder)
        try:
            temporary.mkdir()
            _write_model(model, tokenizer, temporary)
            _write_trainer(temporary, step, model, optimizer, state, tensors)
            publish(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    others = [path for path in published(folder) if path != target]
    for path in others[: max(len(others) - max(keep, 1) + 1, 0)]:
        shutil.rmtree(path, ignore_errors=True)
    return target


def latest_checkpoint(run_dir: str | os.PathLike[str]) -> Path | None:
    """Return the newest checkpoint of a run, verified byte for byte, or None where there is none.

    Raises:
        InputError: the newest one is damaged or foreign. An older one is named but never taken silently.
    """
    candidates = published(Path(run_dir) / "checkpoints")
    if not candidates:
        return None
    newest = candidates[-1]
    try:
        verify(newest)
    except InputError as error:
        older = next((path for path in reversed(candidates[:-1]) if is_sound(path)), None)
        remedy = (
            f"delete {newest} to resume from {older.name}, which is intact"
            if older
            else "no older checkpoint is intact, so the run has to be started afresh"
        )
        raise InputError(f"{error}; {remedy}") from error
    return newest


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Verify a checkpoint and read everything but model and optimiser state.

    Raises:
        InputError: it does not exist, is damaged, or was not written by forkpoint.
    """
    from safetensors import safe_open

    path = Path(path)
    trainer = verify(path)
    prefix = "tensors/"
    with safe_open(path / "trainer.safetensors", framework="pt") as file:
        tensors = {
            name.removeprefix(prefix): file.get_tensor(name).clone()
            for name in file.keys()  # noqa: SIM118 (not a mapping)
            if name.startswith(prefix)
        }
    return Checkpoint(
        path=path,
        step=trainer["step"],
        state=trainer["state"],
        tensors=tensors,
        optimizer=trainer["optimizer"],
    )


def restore_model(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into a model, bit for bit.

    Raises:
        InputError: the checkpoint has other parameters, other shapes or another dtype.
    """
    from safetensors.torch import load_file

    saved: dict[str, Tensor] = {}
    for file in sorted(checkpoint.path.glob("*.safetensors")):
        if file.name != "trainer.safetensors":
            saved.update(load_file(file))
    current = _weights(model)
    present = {value.data_ptr() for name, value in current.items() if name in saved}
    missing = [n for n, v in current.items() if n not in saved and v.data_ptr() not in present and v.numel()]
    unknown = [name for name in saved if name not in current]
    if missing or unknown:
        name = (missing or unknown)[0]
        holder, others = ("the checkpoint", saved) if missing else ("the model", current)
        raise InputError(
            f"checkpoint {checkpoint.path} belongs to another model: {holder} has no parameter {name!r} "
            f"({did_you_mean(name, others)}); resume with the model the run was started with"
        )
    for name, value in saved.items():
        _check_like(checkpoint.path, name, value, current[name])
    with torch.no_grad():
        for name, value in saved.items():
            current[name].copy_(value)


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's optimiser state and hyper-parameters back, in place.

    Raises:
        InputError: the checkpoint's optimiser had other parameters or groups.
    """
    from safetensors import safe_open

    saved = checkpoint.optimizer
    names = _parameter_names(model)
    groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    if saved["class"] != type(optimizer).__name__ or [g["names"] for g in saved["groups"]] != groups:
        there = f"{saved['class']} over {sum(len(g['names']) for g in saved['groups'])} parameters"
        here = f"{type(optimizer).__name__} over {sum(map(len, groups))}"
        raise InputError(
            f"checkpoint {checkpoint.path} belongs to another optimiser ({there}; here {here}); "
            "resume with the recipe the run was started with"
        )
    optimizer.state.clear()
    for group, kept in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update({k: _like(group.get(k), v) for k, v in kept["options"].items()})
    owners = {
        names[id(p)]: (p, bool(group.get("capturable") or group.get("fused")))
        for group in optimizer.param_groups
        for p in group["params"]
    }
    with safe_open(checkpoint.path / "trainer.safetensors", framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            kind, _, rest = key.partition("/")
            if kind != "optimizer":
                continue
            name, _, field = rest.rpartition("/")
            parameter, counts_on_device = owners[name]
            value = file.get_tensor(key)
            # AdamW counts its steps on the CPU unless it is fused or captured in a graph.
            device = parameter.device if value.ndim or counts_on_device else torch.device("cpu")
            optimizer.state[parameter][field] = value.to(device, copy=True)
    for name, fields in saved["values"].items():
        optimizer.state[owners[name][0]].update(fields)


def _write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    if _is_peft(model):
        # "auto" would ask the hub for the base model's vocabulary size.
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _write_trainer(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    from safetensors.torch import save_file

    names = _parameter_names(model)
    stored = {f"tensors/{name}": value for name, value in tensors.items()}
    values: dict[str, dict[str, Any]] = {}
    for parameter, fields in optimizer.state.items():
        for field, value in fields.items():
            if isinstance(value, Tensor):
                stored[f"optimizer/{names[id(parameter)]}/{field}"] = value
            else:
                values.setdefault(names[id(parameter)], {})[field] = value
    save_file({k: v.detach().cpu().contiguous() for k, v in stored.items()}, folder / "trainer.safetensors")
    groups = [
        {
            "names": [names[id(p)] for p in group["params"]],
            "options": {k: _plain(v) for k, v in group.items() if k != "params"},
        }
        for group in optimizer.param_groups
    ]
    content = {
        "step": step,
        "state": dict(state),
        "optimizer": {"class": type(optimizer).__name__, "groups": groups, "values": values},
    }
    write_manifest(folder, content)


def _check_like(path: Path, name: str, saved: Tensor, current: Tensor) -> None:
    there, here = (f"shape {list(value.shape)} and {value.dtype}" for value in (saved, current))
    if there != here:
        raise InputError(
            f"checkpoint {path} belongs to another model: {name!r} has {there} there, {here} here; "
            "resume with the model and dtype the run was started with"
        )


def _is_peft(model: nn.Module) -> bool:
    """Return whether a model is wrapped by peft, without importing it."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors `save_pretrained` writes, by their names on disk, sharing the model's memory."""
    if not _is_peft(model):
        return dict(model.state_dict())
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


def _parameter_names(model: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def _like(current: Any, value: Any) -> Any:
    """Return a value read from JSON in the type the optimiser holds it in."""
    if isinstance(current, Tensor):
        return torch.full_like(current, value)
    return tuple(value) if isinstance(current, tuple) else value
