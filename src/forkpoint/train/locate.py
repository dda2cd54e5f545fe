"""Where a model lies: a folder as it is, a run's newest checkpoint, or a hub name left alone."""

from __future__ import annotations

from pathlib import Path

from forkpoint.errors import InputError
from forkpoint.train.checkpoint import latest_checkpoint


def model_path(name: str | Path) -> str:
    """Return what to load for a model folder, a run directory or a hub name.

    A run directory stands for its newest checkpoint, which is verified byte for byte; everything else is returned as
    it is.

    Raises:
        InputError: a run without a checkpoint, or whose newest one is damaged.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() or (folder / "config.json").is_file():
        return str(name)
    if not any((folder / part).exists() for part in ("checkpoints", "metrics.jsonl", "recipe.json")):
        return str(name)
    newest = latest_checkpoint(folder)
    if newest is None:
        raise InputError(f"run {folder} has no checkpoint yet: let it reach one, or name a model")
    return str(newest)
