"""The run directory: what a run writes, and how a killed or repeated run finds it again.

    recipe.json                 resolved recipe, expanded chain, versions, commit, device, seed
    metrics.jsonl               one JSON object a line, slash names; NaN and infinity as null
    rollouts/step-00001.parquet evals/step-00000.parquet
    checkpoints/step-00005/

Every file but `metrics.jsonl` appears whole or not at all; a metrics line is on the
disk before the next step.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from forkpoint.environment import commit, versions
from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Rollouts
from forkpoint.train.checkpoint import latest_checkpoint
from forkpoint.train.files import INTACT, atomic_file, disk_errors
from forkpoint.train.tables import (
    EVAL_COLUMNS,
    ROLLOUT_COLUMNS,
    answer_columns,
    extra_columns,
    json_value,
    lists,
    reward_parts,
    write_table,
)

MODES = ("new", "resume", "fresh")
_STEP_FILE = re.compile(r"step-(\d+)\.parquet")
_OURS = {"recipe.json", "metrics.jsonl", "rollouts", "evals", "checkpoints", "report.html"}


def open_run(run_dir: str | os.PathLike[str], mode: Literal["new", "resume", "fresh"] = "new") -> Path | None:
    """Make a run directory ready to be written to.

    Args:
        run_dir: the run's directory.
        mode: `new` refuses a directory that holds anything; `fresh` moves such a run aside to `<name>.1`,
            `<name>.2`, …; `resume` keeps what was logged up to the newest checkpoint and
            drops what came after.

    Returns:
        The checkpoint to continue from, or None to start from step 0.

    Raises:
        InputError: the directory holds a run (`new`) or something else, or its newest checkpoint is damaged.
    """
    run_dir = Path(run_dir)
    if mode not in MODES:
        raise InputError(f"unknown way to open a run {mode!r}; {did_you_mean(mode, MODES)}")
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"{run_dir} is a file; choose another run directory")
    found = {path.name for path in run_dir.iterdir()} if run_dir.is_dir() else set()
    if found and not found & _OURS:
        raise InputError(f"{run_dir} is not empty and holds no run; choose another run directory")
    if found and mode == "new":
        raise InputError(
            f"{run_dir} already holds a run; continue it with --resume, set it aside with --fresh, "
            "or choose another run directory"
        )
    if found and mode == "fresh":
        number = 1
        while (aside := run_dir.with_name(f"{run_dir.name}.{number}")).exists():
            number += 1
        run_dir.rename(aside)
    with disk_errors("the run directory", run_dir.parent, "nothing was changed"):
        run_dir.mkdir(parents=True, exist_ok=True)
    if mode != "resume":
        return None
    checkpoint = latest_checkpoint(run_dir)
    truncate_after(run_dir, int(checkpoint.name.rpartition("-")[2]) if checkpoint else -1)
    return checkpoint


def append_metrics(run_dir: str | os.PathLike[str], metrics: Mapping[str, Any]) -> None:
    """Append one line to `metrics.jsonl` and put it on the disk.

    NaN and infinite numbers are written as null, so that every JSON reader accepts the line and the key is
    kept. `time` (unix seconds) is added where it is missing.

    Raises:
        TrainingError: the disk is full; no part of the line is left behind.
    """
    path = Path(run_dir) / "metrics.jsonl"
    values = {key: json_value(value) for key, value in {"time": time.time(), **metrics}.items()}
    if "step" in values:
        values = {"step": values["step"], **values}
    line = (json.dumps(values, allow_nan=False) + "\n").encode()
    with disk_errors("a line of metrics.jsonl", path.parent, INTACT), path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def truncate_after(run_dir: str | os.PathLike[str], step: int) -> None:
    """Drop everything logged for steps beyond `step`, and a last line that a killed process left unfinished.

    Raises:
        InputError: a line of `metrics.jsonl` other than the last is not JSON.
    """
    run_dir = Path(run_dir)
    log = run_dir / "metrics.jsonl"
    if log.is_file():
        kept = [line for line, number in _numbered(log) if number <= step]
        with (
            disk_errors("metrics.jsonl", run_dir, "the old one is intact"),
            atomic_file(log) as temporary,
        ):
            temporary.write_bytes(b"".join(kept))
    for folder in ("rollouts", "explored", "evals"):
        for path in (run_dir / folder).glob("*.parquet"):
            match = _STEP_FILE.fullmatch(path.name)
            if path.name.startswith(".tmp-") or (match and int(match[1]) > step):
                path.unlink()


def write_rollouts(
    run_dir: str | os.PathLike[str],
    step: int,
    rollouts: Rollouts,
    *,
    token_text: Callable[[int], str],
    advantage_BT: Tensor,
    credit_BT: Tensor,
    kept_BT: Tensor,
    folder: str = "rollouts",
) -> Path:
    """Write `rollouts/step-<step>.parquet`: a row per answer, lists over its tokens.

    Columns of `Rollouts.extra` go by `extra.<name>`; states of several numbers a token are left out.

    Args:
        run_dir: the run's directory.
        step: the training step the answers were sampled for.
        rollouts: B answers with their rewards and verdicts.
        token_text: id to text; called once per different id.
        advantage_BT: float (B, T).
        credit_BT: float (B, T): advantage times weight where kept, else 0.
        kept_BT: bool (B, T): tokens that count in the loss.
        folder: beside `rollouts`, where the answers are others than the policy's own.

    Returns:
        The file's path.

    Raises:
        TrainingError: the disk is full; no half file is left behind.
    """
    columns = answer_columns(step, rollouts, token_text)
    mask_BT = rollouts.mask_BT
    columns |= {
        "group": rollouts.group_B.tolist(),
        "advantage": lists(advantage_BT.float(), mask_BT),
        "credit": lists(credit_BT.float(), mask_BT),
        "kept": lists(kept_BT, mask_BT),
        "reward_parts": reward_parts(rollouts),
        "version": [rollouts.version] * rollouts.rows,
    }
    extra, types = extra_columns(rollouts)
    return write_table(Path(run_dir) / folder / f"step-{step:05d}.parquet", columns | extra, ROLLOUT_COLUMNS | types)


def write_evals(
    run_dir: str | os.PathLike[str], step: int, rollouts: Rollouts, *, token_text: Callable[[int], str]
) -> Path:
    """Write `evals/step-<step>.parquet`: a row per answer to a held-out problem.

    Raises:
        TrainingError: the disk is full; no half file is left behind.
    """
    columns = answer_columns(step, rollouts, token_text)
    return write_table(Path(run_dir) / "evals" / f"step-{step:05d}.parquet", columns, EVAL_COLUMNS)


def write_recipe_json(
    run_dir: str | os.PathLike[str],
    *,
    recipe: Mapping[str, Any],
    chain: Sequence[Any],
    device: str,
    seed: int,
) -> Path:
    """Write `recipe.json`: the resolved recipe and everything needed to know what ran.

    Raises:
        TrainingError: the disk is full.
    """
    path = Path(run_dir) / "recipe.json"
    content = {
        "schema": 1,
        "recipe": recipe,
        "chain": list(chain),
        "versions": {"python": sys.version.split()[0], **versions()},
        "commit": commit(),
        "device": device,
        "seed": seed,
    }
    with disk_errors("recipe.json", path.parent, INTACT), atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def changed_settings(run_dir: str | os.PathLike[str], recipe: Mapping[str, Any]) -> list[str]:
    """Return how a resolved recipe differs from the one the run began with, a text `name: before -> now` a setting.

    Empty where `recipe.json` is gone or cannot be read: then nothing can be said.
    """
    try:
        began = _flat(json.loads((Path(run_dir) / "recipe.json").read_text(encoding="utf-8"))["recipe"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    # One round trip, so that tuples and lists are the same.
    now = _flat(json.loads(json.dumps(recipe)))
    return [
        f"{name}: {json.dumps(began.get(name))} -> {json.dumps(now.get(name))}"
        for name in sorted(began.keys() | now.keys())
        if began.get(name) != now.get(name)
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _numbered(log: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the complete lines of `metrics.jsonl` and their steps."""
    lines = log.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            step = json.loads(line)["step"]
            if not isinstance(step, int) or not line.endswith(b"\n"):
                raise ValueError("no step")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines):
                return
            raise InputError(
                f"{log} line {number} is not a metrics line; remove it, or set the run aside with --fresh"
            ) from error
        yield line, step


def read_metrics(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the complete lines of `metrics.jsonl` in order; empty where there is no log."""
    log = Path(run_dir) / "metrics.jsonl"
    return [json.loads(line) for line, _ in _numbered(log)] if log.is_file() else []
