"""Columns that come from a program of the user's: found, run and checked."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forkpoint.errors import InputError, TrainingError
from forkpoint.rollouts import Rollouts

Program = Callable[[Rollouts, Any], Mapping[str, Tensor]]
"""`(rollouts, tokenizer) -> {name: (B,), (B, T) or (B, T, H)}`."""


def load_program(place: str) -> Program:
    """Return the function that `path/to/file.py:function` names. The file is run, as an import runs it.

    Raises:
        InputError: there is no such file or function, or the file cannot be run.
    """
    path, _, name = place.rpartition(":")
    if not Path(path).is_file():
        raise InputError(f"columns.program = {place!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"forkpoint_columns_{Path(path).stem}", path)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - the name ends in .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"columns.program: {path} cannot be run: {type(error).__name__}: {error}") from error
    program: Program | None = getattr(module, name, None)
    if program is None or not callable(program):
        raise InputError(f"columns.program: {path} has no function {name!r}")
    return program


def program_file(place: str) -> dict[str, str]:
    """Return path and sha256 of the program's file, for the record."""
    path = place.rpartition(":")[0]
    return {"path": path, "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def program_columns(program: Program, rollouts: Rollouts, tokenizer: Any) -> dict[str, Tensor]:
    """Return what the program gives, checked and on the rollouts' device.

    Raises:
        TrainingError: the program failed, or gave no table of tensors with a value a row.
    """
    try:
        found = program(rollouts, tokenizer)
    except Exception as error:
        raise TrainingError(f"columns.program failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise TrainingError(f"columns.program must return a dict of tensors by name, not {type(found).__name__}")
    B, T = rollouts.mask_BT.shape
    for name, column in found.items():
        if not isinstance(column, Tensor):
            raise TrainingError(f"columns.program: {name!r} is a {type(column).__name__} and must be a tensor")
        shape = tuple(column.shape)
        if not (shape == (B,) or (len(shape) in (2, 3) and shape[:2] == (B, T))):
            raise TrainingError(
                f"columns.program: {name!r} has shape {shape} and must have ({B},), one value an answer, or "
                f"({B}, {T}), one a token"
            )
    return {name: torch.as_tensor(column, device=rollouts.ids_BT.device).detach() for name, column in found.items()}
