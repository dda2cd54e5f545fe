"""Folders that appear whole: a manifest with a hash of every file, and publishing by rename."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forkpoint.errors import InputError
from forkpoint.train.files import fsync_path

SCHEMA = 1
_STEP = re.compile(r"(?:\.old-)?step-(\d+)")


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `trainer.json`: `content` (JSON values), plus size and sha256 of every file beside it."""
    files = {
        str(file.relative_to(folder)): {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    # One round trip, so that the digest is of what will be read back (integer keys become strings).
    manifest = json.loads(json.dumps({"schema": SCHEMA, **content, "files": files}))
    manifest["sha256"] = _digest(manifest)
    (folder / "trainer.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def publish(temporary: Path, target: Path) -> None:
    """Sync a finished folder and give it its name; one of the same name is replaced."""
    for path in sorted(temporary.rglob("*")):
        fsync_path(path)
    fsync_path(temporary)
    old = target.with_name(f".old-{target.name}")
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    fsync_path(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Finish what a killed process left: half-written folders go, a folder moved aside comes back."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".old-step-*"):
        target = path.with_name(path.name.removeprefix(".old-"))
        if target.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.replace(path, target)


def published(folder: Path) -> list[Path]:
    """Return published checkpoints, oldest first; one moved aside counts where it was not replaced yet."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _STEP.fullmatch(path.name)
        if match and path.is_dir():
            found[int(match[1])] = path  # ".old-step-…" sorts before "step-…", which wins
    return [found[step] for step in sorted(found)]


def verify(path: Path) -> dict[str, Any]:
    """Return the content of `trainer.json` after checking every byte of the checkpoint against it.

    Raises:
        InputError: it does not exist, is foreign, or is damaged; the message says which file.
    """
    if not path.is_dir():
        raise InputError(f"there is no checkpoint at {path}")
    file = path / "trainer.json"
    if not file.is_file():
        raise InputError(f"{path} is not a forkpoint checkpoint: it has no trainer.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"checkpoint {path} is corrupt: trainer.json is not readable JSON") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise InputError(f"{path} is not a forkpoint checkpoint of schema {SCHEMA} (trainer.json says {found!r})")
    if content.get("sha256") != _digest(content):
        raise InputError(f"checkpoint {path} is corrupt: trainer.json was altered after it was written")
    for name, expected in content["files"].items():
        for problem in _differences(path / name, expected):
            raise InputError(f"checkpoint {path} is corrupt: {name} {problem}")
    return content


def _differences(file: Path, expected: Mapping[str, Any]) -> Iterator[str]:
    if not file.is_file():
        yield "is missing"
    elif file.stat().st_size != expected["size"]:
        yield f"has {file.stat().st_size} of {expected['size']} bytes"
    elif _sha256(file) != expected["sha256"]:
        yield "differs from its sha256"


def is_sound(path: Path) -> bool:
    """Return whether a checkpoint is there, ours and undamaged."""
    try:
        verify(path)
    except InputError:
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
