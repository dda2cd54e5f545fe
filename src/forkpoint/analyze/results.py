"""Reading graded answers: a run directory, or JSONL or parquet with problem ids and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forkpoint.analyze.result_rows import ABSENT, NAMES, Fields, found, problem_id, spread
from forkpoint.analyze.run_spec import run_spec
from forkpoint.analyze.rundata import is_list, read_rollouts, read_run, table_rows
from forkpoint.analyze.traces.files import is_parquet, json_rows
from forkpoint.analyze.traces.parquet import open_parquet
from forkpoint.analyze.traces.records import BadRecordError
from forkpoint.errors import InputError
from forkpoint.evaluate.graded import Graded, equality_classes, graded
from forkpoint.evaluate.spec import EvalSpec, read_spec

if TYPE_CHECKING:
    from pyarrow import Table


_UNREAD = ("tokens", "completion", "advantage", "credit", "kept", "reward_parts")
_TEXTS = ("prompt", "answer")
_PER_TOKEN = ("entropy", "ids", "logp")


def read_result(path: Path, *, name: str | None = None, fields: Fields | None = None) -> Graded:
    """Read one evaluation.

    A run directory gives its last evaluation. A file has one answer a row, or one problem a row with lists over its
    answers; rows of one problem are its answers in order where no sample number is given. The conditions are read
    from `<file>.spec.json` beside it or `<file without suffix>/spec.json`, or from the recipe of a run.

    Args:
        path: A run directory, a JSONL or a parquet file.
        name: What a table calls it; the path's own name if None.
        fields: Names of fields.

    Raises:
        InputError: It cannot be read, is empty, has a row without id or verdict, or a sample twice.
    """
    called = name or name_of(path)
    if path.is_dir():
        run = read_run(path)
        if not run.eval_files:
            raise InputError(
                f"{path} holds no evaluation: evals/ is empty; train with [eval] on, or give graded answers"
            )
        table = _table(run.eval_files[-1])
        notes = [f"{called} is the evaluation {run.eval_files[-1].name}."]
        answers = _table_answers(table.drop_columns([name for name in _TEXTS if name in table.column_names]))
        return _graded(called, answers, fields or Fields(), str(path), run_spec(run, table), notes)
    rows = _table_answers(_table(path)) if is_parquet(path) else _json_answers(path)
    return _graded(called, rows, fields or Fields(), str(path), _beside(path), [])


def name_of(path: Path) -> str:
    """Return what to call an evaluation: the name of a folder, that of a file without its ending.

    >>> name_of(Path("evals/Qwen2.5-Math")), name_of(Path("old.jsonl"))
    ('Qwen2.5-Math', 'old')
    """
    return (path.stem if path.suffix in (".jsonl", ".json", ".parquet") else path.name) or str(path)


def _beside(path: Path) -> EvalSpec | None:
    here = path.with_suffix("")
    for place in (path.with_name(f"{path.name}.spec.json"), path.with_suffix(".spec.json"), here / "spec.json"):
        if place.is_file():
            return read_spec(place)
    return None


def _json_answers(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for number, row in json_rows(path):
            where = f"{path}, row {number}"
            if isinstance(row, BadRecordError):
                raise InputError(f"{where}: {row}; every line must be one JSON object")
            if not isinstance(row, dict):
                raise InputError(f"{where}: a JSON {type(row).__name__}, but every line must be one JSON object")
            yield where, row
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a run directory, JSONL or parquet") from error


def _table(path: Path) -> Table:
    with open_parquet(path) as file:
        names = [name for name in file.schema_arrow.names if name not in _UNREAD]
    return read_rollouts(path, names)


def _table_answers(table: Table) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield rows; lists over tokens are reduced to their length and sum before they become Python."""
    import pyarrow.compute as pc

    extra: dict[str, Any] = {}
    for name in _PER_TOKEN:
        if name in table.column_names and is_list(table.column(name).type):
            column = table.column(name)
            extra.setdefault("length", pc.list_value_length(column))
            if name == "entropy" and _holds_numbers(column.type):
                extra["entropy_sum"] = _sums(column)
            table = table.drop_columns([name])
    for name, column in extra.items():
        if name not in table.column_names:
            table = table.append_column(name, column)
    for start in range(0, len(table), 4096):
        rows = table_rows(table, range(start, min(start + 4096, len(table))))
        yield from ((f"row {start + place}", row) for place, row in enumerate(rows, start=1))


def _holds_numbers(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _sums(column: Any) -> Any:
    """Return the sum of every list of a column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    row = pc.list_parent_indices(column).to_numpy()
    flat = pc.list_flatten(column).cast(pa.float64()).to_numpy()
    return pa.array(np.bincount(row, flat, minlength=len(column)))


def _graded(
    name: str, rows: Iterable[tuple[str, dict[str, Any]]], fields: Fields, path: str, spec: EvalSpec | None,
    notes: list[str],
) -> Graded:  # fmt: skip
    columns: dict[str, list[Any]] = {key: [] for key in NAMES}
    listed: set[str] = set()
    bound = False
    for where, row in rows:
        bound = bound or row.get("entropy_kind") == "lower-bound"
        said = {key: found(row, key, getattr(fields, key, None)) for key in NAMES}
        problem = problem_id(said["problem"], fields, where, row)
        if said["value"] is ABSENT:
            wanted = fields.value or " or ".join(NAMES["value"])
            raise InputError(
                f"{where} has no verdict ({wanted}); its fields are {', '.join(map(str, row))}: name it with --value"
            )
        count = len(said["value"]) if isinstance(said["value"], list) else 1
        if isinstance(said["value"], list):
            if problem in listed:
                raise InputError(f"{where}: problem {problem!r} comes twice, each time with a list of verdicts")
            listed.add(problem)
        for key, values in said.items():
            columns[key] += [problem] * count if key == "problem" else spread(key, values, count, where)
    if not columns["problem"]:
        raise InputError(f"{path} holds no answer: it must have one row an answer, with a problem id and a verdict")
    return _arrays(name, columns, bound=bound, spec=spec, notes=notes)


def _arrays(
    name: str, columns: Mapping[str, list[Any]], *, bound: bool, spec: EvalSpec | None, notes: list[str]
) -> Graded:
    def given(key: str) -> list[Any] | None:
        return columns[key] if any(value is not None for value in columns[key]) else None

    def numbers(key: str) -> list[float] | None:
        found = given(key)
        return None if found is None else [math.nan if value is None else value for value in found]

    sample = given("sample")
    answers = given("answer")
    return graded(
        name,
        columns["problem"],
        columns["value"],
        sample=None if sample is None or None in sample else sample,
        length=numbers("length"),
        truncated=numbers("truncated"),
        format=numbers("format"),
        answer_class=None if answers is None else _classes(columns["problem"], answers),
        score=numbers("score"),
        entropy=numbers("entropy"),
        entropy_bound=bound,
        spec=spec,
        notes=notes,
    )


def _classes(problems: list[str], answers: list[str | None]) -> np.ndarray:
    """Return classes of answers that the verifier of mathematics calls equal."""
    from forkpoint.rollouts import Prompt, Verdict
    from forkpoint.verify.math import math_judge

    with math_judge(extraction="whole", gold_extraction="whole") as judge:

        def equal(first: str, answer: str) -> bool:
            prompt = Prompt(id="", text="", answer=first)
            return judge([prompt], [answer])[0].verdict is Verdict.RIGHT

        return equality_classes(problems, answers, equal)
