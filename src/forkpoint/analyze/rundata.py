"""Reading a run directory: the contract between training and everything that looks at a run.

A run may have been killed at any moment, so every file may be missing or short. What cannot be read is
left out and said in `RunData.notes`; only a path that is no run directory at all is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.errors import InputError

if TYPE_CHECKING:
    from pyarrow import DataType, Table

SCHEMA = 1
"""The version of the run directory this module reads (`schema` in recipe.json)."""

_EVALUATION_KEYS = ("eval", "step", "time")  # a line with nothing but these says nothing of training
_STEP_FILE = re.compile(r"step-(\d+)\.parquet")


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Everything small in a run directory, and where the large files are."""

    path: Path
    """The run directory, absolute."""
    recipe: dict[str, Any]
    """recipe.json: `recipe`, `chain`, `versions`, `commit`, `device`, `seed`, `schema`; or empty."""
    metrics: list[dict[str, Any]]
    """One dict a training step, ascending in `step`."""
    evaluations: list[dict[str, Any]]
    """One dict an evaluation, ascending in `step`."""
    rollout_files: tuple[Path, ...]
    """rollouts/step-*.parquet, ascending in step."""
    eval_files: tuple[Path, ...]
    """evals/step-*.parquet, ascending in step."""
    notes: tuple[str, ...] = ()
    """What was missing, short or unreadable, one sentence each."""


def read_run(run_dir: Path) -> RunData:
    """Read a run directory, leaving out what is missing or broken and saying so.

    Args:
        run_dir: A folder with any of recipe.json, metrics.jsonl, rollouts/ and evals/.

    Returns:
        The recipe, the metric lines and the parquet files found. Where a step was written twice (a run
        resumed from an earlier checkpoint) the later line counts.

    Raises:
        InputError: `run_dir` is not a directory, or nothing in it belongs to a run.
    """
    path = Path(run_dir).absolute()
    if not path.is_dir():
        raise InputError(f"{run_dir} is not a directory: give the folder of a run, which holds metrics.jsonl")
    if not any((path / name).exists() for name in ("recipe.json", "metrics.jsonl", "rollouts", "evals")):
        raise InputError(
            f"{run_dir} is not a run directory: it has no recipe.json, metrics.jsonl, rollouts/ or evals/; "
            "give the folder that `forkpoint train` wrote"
        )
    notes: list[str] = []
    records = _read_lines(path / "metrics.jsonl", notes)
    evaluations = [r for r in records if any(key.startswith("eval/") for key in r)]
    metrics = [r for r in records if any(key.split("/")[0] not in _EVALUATION_KEYS for key in r)]
    if any(key.startswith("entropy_lower_bound/") for record in metrics for key in record):
        notes.append(
            "Entropies here are lower bounds: the answers were decoded by vLLM without decode.rescore, so curves, "
            "histogram and token colours show less entropy than there was."
        )
    return RunData(
        path=path,
        recipe=_read_recipe(path / "recipe.json", notes),
        metrics=_latest(metrics, "training step", notes),
        evaluations=_latest(evaluations, "evaluation", notes),
        rollout_files=_step_files(path / "rollouts", notes),
        eval_files=_step_files(path / "evals", notes),
        notes=tuple(notes),
    )


def step_of(path: Path) -> int:
    """Return the step in the name of a rollout or evaluation file.

    >>> step_of(Path("rollouts/step-00012.parquet"))
    12
    """
    match = _STEP_FILE.fullmatch(path.name)
    if match is None:
        raise InputError(f"{path.name} is not named step-<number>.parquet")
    return int(match[1])


def read_rollouts(path: Path, columns: Sequence[str] | None = None) -> Table:
    """Read one rollouts or evals parquet file.

    Args:
        path: A file such as rollouts/step-00001.parquet.
        columns: The columns wanted; all of them if None.

    Returns:
        A `pyarrow.Table` with one row an answer; see `column_tokens` and `table_rows` for its contents.

    Raises:
        InputError: the file cannot be read, or a wanted column is not in it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
            if missing:
                raise InputError(f"{path} has no column {', '.join(missing)}")
            return file.read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as parquet: {reason}") from error


def column_tokens(table: Table, name: str) -> NDArray[np.float64]:
    """Return a list column as one flat array over all tokens of all rows, without nulls and NaN.

    Args:
        table: What `read_rollouts` returned.
        name: A column of lists of numbers, such as `entropy` (nats).

    Returns:
        float64 (tokens,).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(name)
    if not (is_list(column.type) and _is_number(column.type.value_type)):
        raise InputError(f"column {name} holds {column.type}, not a list of numbers for every answer")
    flat = pc.list_flatten(column).drop_null().cast(pa.float64()).to_numpy()
    return flat[~np.isnan(flat)]


def table_rows(table: Table, indices: Iterable[int]) -> list[dict[str, Any]]:
    r"""Return chosen rows as dicts; bytes that are not UTF-8 become visible escapes such as `\xff`."""
    import pyarrow as pa

    chosen = table.take(pa.array(list(indices), type=pa.int64()))
    # A string column may hold any bytes: arrow does not check them when it reads a file.
    fields = [pa.field(f.name, _as_bytes(f.type)) for f in chosen.schema]
    numbers = {field.name for field in fields if _is_number(_innermost(field.type))}
    rows = chosen.cast(pa.schema(fields)).to_pylist()
    return [{name: value if name in numbers else _decoded(value) for name, value in row.items()} for row in rows]


def number(value: object) -> float:
    """Return a JSON value as a float, NaN where it is not a number.

    >>> number(3), number("3"), number(None)
    (3.0, nan, nan)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def series(records: Sequence[dict[str, Any]], name: str) -> NDArray[np.float64]:
    """Return one metric of every record, NaN where it is missing or not finite.

    >>> series([{"step": 1, "loss": 0.5}, {"step": 2}], "loss")
    array([0.5, nan])
    """
    values = np.array([number(record.get(name)) for record in records], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _read_recipe(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        notes.append("recipe.json is missing, so the method, the model and the versions are not known.")
        return {}
    try:
        recipe = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        notes.append("recipe.json is not valid JSON, so the method, the model and the versions are not known.")
        return {}
    if not isinstance(recipe, dict):
        notes.append("recipe.json does not hold an object, so it was ignored.")
        return {}
    if recipe.get("schema", SCHEMA) != SCHEMA:
        notes.append(
            f"recipe.json has schema {recipe['schema']}; this version reads {SCHEMA}, so parts may be missing."
        )
    return recipe


def _read_lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        notes.append("metrics.jsonl is missing, so there are no curves over time.")
        return []
    lines = path.read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    for index, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
        elif index == len(lines):
            notes.append(f"The last line of metrics.jsonl (line {index}) is unfinished and was ignored.")
        else:
            notes.append(f"Line {index} of metrics.jsonl is not a record with a step and was ignored.")
    if not records:
        notes.append("metrics.jsonl holds no complete line yet.")
    return records


def _latest(records: list[dict[str, Any]], kind: str, notes: list[str]) -> list[dict[str, Any]]:
    by_step = {record["step"]: record for record in records}
    twice = len(records) - len(by_step)
    if twice:
        notes.append(f"{twice} {kind} line(s) were written again after a resume; the later line counts.")
    return [by_step[step] for step in sorted(by_step)]


def _step_files(folder: Path, notes: list[str]) -> tuple[Path, ...]:
    files = sorted((p for p in folder.glob("step-*.parquet") if _STEP_FILE.fullmatch(p.name)), key=step_of)
    if not files:
        notes.append(f"There are no {folder.name}/step-*.parquet files.")
    return tuple(files)


def is_list(kind: DataType) -> bool:
    """Return whether an arrow type holds a list for every row."""
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_number(kind: DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _innermost(kind: DataType) -> DataType:
    return _innermost(kind.value_type) if is_list(kind) else kind


def _as_bytes(kind: DataType) -> DataType:
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.large_binary()
    if is_list(kind):
        return pa.large_list(_as_bytes(kind.value_type))
    return kind


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return value
