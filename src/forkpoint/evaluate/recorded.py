"""Recorded completions: one problem a line of a JSONL file, packed or not, read one line after the other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from forkpoint.errors import InputError, did_you_mean
from forkpoint.tasks.rows import open_bytes

BLOCK = 1 << 20
"""Bytes hashed at a time."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One line of a file of recorded completions."""

    line: int
    """Line number in the file, from 1."""
    id: str
    """The problem's id; the line number where no such field was named."""
    question: str
    """The problem as text, empty where no such field was named."""
    gold: str
    """The reference answer, as the file has it."""
    completions: tuple[str, ...]
    verdicts: tuple[bool, ...] | None
    """What the file says of each completion, where it does."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The row's fields, for verifiers that read more than the reference; without the completions."""


@dataclass(kw_only=True)
class Place:
    """How far a file was read; it moves as lines are read."""

    line: int = 0
    """Lines read."""
    bytes: int = 0
    """Their bytes, unpacked."""
    hash: Any = field(default_factory=hashlib.sha256)
    """Of these bytes."""

    def copy(self) -> Place:
        """Return the place as it is."""
        return Place(line=self.line, bytes=self.bytes, hash=self.hash.copy())


def place_at(path: Path, line: int, size: int, digest: str) -> Place:
    """Return the place after so many lines of a file.

    Args:
        path: the file.
        line: lines that were read.
        size: their bytes, unpacked.
        digest: SHA-256 of these bytes, in hex.

    Raises:
        InputError: the file no longer begins with these bytes.
    """
    place = Place(line=line, bytes=size)
    left = size
    with _reading(path) as file:
        while left and (block := file.read(min(left, BLOCK))):
            place.hash.update(block)
            left -= len(block)
    if place.hash.hexdigest() != digest:
        raise InputError(
            f"{path} has changed in its first {line} lines since they were graded: give another --out, or --fresh to "
            "grade it anew"
        )
    return place


def read_recorded(
    path: str | Path,
    *,
    answer: str,
    completion: str,
    question: str | None = None,
    recorded: str | None = None,
    id: str | None = None,
    place: Place | None = None,
) -> Iterator[Recorded]:
    """Yield the problems of a JSONL file one after the other; see `forkpoint.evaluate.grade.grade_file` for the fields.

    Args:
        path: the file; packed where its name ends in `.gz`.
        answer: see `grade_file`, as the next four.
        completion: a field.
        question: a field.
        recorded: a field.
        id: a field.
        place: where to begin; it is moved behind every line that is read.

    Raises:
        InputError: While reading, for the first line that does not fit.
    """
    at = place or Place()
    empty = at.line == 0
    with _reading(Path(path)) as file:
        file.seek(at.bytes)
        for raw in file:
            at.line, at.bytes = at.line + 1, at.bytes + len(raw)
            at.hash.update(raw)
            if not raw.strip():
                continue
            empty = False
            yield _row(raw.removeprefix(b"\xef\xbb\xbf"), at.line, f"{path}, line {at.line}",
                       answer, completion, question, recorded, id)  # fmt: skip
    if empty:
        raise InputError(f"{path} has no line to grade: it must hold one JSON object a line")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with open_bytes(path) as file:
            yield file
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the path of a JSONL file") from error


def _row(
    raw: bytes, line: int, where: str, answer: str, completion: str, question: str | None, recorded: str | None,
    id: str | None,
) -> Recorded:  # fmt: skip
    row = _object(raw, where)
    completions = _texts(_field(row, completion, where), completion, where)
    name = _gold(_field(row, id, where), id, where) if id else str(line)
    if not name.strip():
        raise InputError(f"{where}: field {id!r} is empty, but every problem needs an id")
    return Recorded(
        line=line,
        id=name,
        question=_text(_field(row, question, where), question, where) if question else "",
        gold=_gold(_field(row, answer, where), answer, where),
        completions=completions,
        verdicts=_bools(_field(row, recorded, where), recorded, len(completions), where) if recorded else None,
        meta={name: value for name, value in row.items() if name not in (completion, completion.partition(".")[0])},
    )


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(raw)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error}); every line must be one JSON object") from error
    except RecursionError as error:
        raise InputError(f"{where}: JSON nested too deeply to read") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: a JSON {type(row).__name__}, but every line must be one JSON object")
    return row


def _field(value: Any, path: str, where: str) -> Any:
    """Follow a dotted path; a key that holds the whole remaining path comes first, a list is mapped over."""
    if isinstance(value, list):
        return [_field(element, path, where) for element in value]
    if not isinstance(value, dict):
        raise InputError(f"{where}: no field {path!r} inside a {type(value).__name__}; name a field of an object")
    if path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    if head not in value or not dot:
        raise InputError(f"{where}: no field {head!r}; {did_you_mean(head, value)}")
    return _field(value[head], rest, where)


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: field {name!r} is a {type(value).__name__}, but text was expected")
    return value


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    """Return one completion or a list of them as a tuple."""
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise InputError(f"{where}: field {name!r} is an empty list, but at least one completion is needed")
    return tuple(_text(text, name, where) for text in texts)


def _gold(value: Any, name: str, where: str) -> str:
    """Return a reference as text: a string, a number, or a list of these as one answer with commas."""
    if isinstance(value, list):
        return ", ".join(_gold(element, name, where) for element in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(
                f"{where}: field {name!r} is {value}, which is how a missing number is written: give its value, or "
                "leave the line out"
            )
        return str(value)
    return _text(value, name, where)


def _bools(value: Any, name: str, count: int, where: str) -> tuple[bool, ...]:
    """Return the recorded verdicts, one a completion."""
    verdicts = value if isinstance(value, list) else [value]
    if len(verdicts) != count:
        raise InputError(f"{where}: field {name!r} has {len(verdicts)} verdicts for {count} completions")
    for verdict in verdicts:
        if verdict not in (0, 1) or not isinstance(verdict, int | float):
            raise InputError(f"{where}: field {name!r} holds {verdict!r}, but true, false, 1 or 0 was expected")
    return tuple(bool(verdict) for verdict in verdicts)
