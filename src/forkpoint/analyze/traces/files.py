"""Which files a path holds, and their rows one at a time, each with its number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forkpoint.analyze.rundata import table_rows
from forkpoint.analyze.traces.parquet import open_parquet
from forkpoint.analyze.traces.records import BadRecordError
from forkpoint.errors import InputError

_WHOLE = 1 << 28
"""Bytes up to which a file that does not start with a line of JSON is tried as one JSON value."""
_BOM = b"\xef\xbb\xbf"
CAN_READ = (
    "a run directory, a trace, TRL's completions, verl's rollout dump, OpenAI or vLLM responses with log-probs, "
    "JSONL or parquet with tokens and log-probs, or a model directory with prompts"
)


def data_files(path: Path) -> list[Path]:
    """Return the data files of a folder in the order of the numbers in their names, or the file itself."""
    if not path.is_dir():
        return [path]
    if not any(path.glob("*.parquet")) and any((path / "completions").glob("*.parquet")):
        path = path / "completions"  # TRL's output_dir
    found = [p for p in path.iterdir() if p.suffix in (".parquet", ".jsonl", ".json") and not p.name.startswith(".")]
    if (path / "config.json").is_file():
        raise InputError(f"{path} is a model directory: give prompts too, so that it can be sampled")
    if not found:
        raise InputError(f"{path} holds no .parquet, .jsonl or .json file: give {CAN_READ}")
    if len({p.suffix == ".parquet" for p in found}) > 1:
        raise InputError(f"{path} holds both parquet and JSON files: give one of them, or a folder of one kind")
    return sorted(found, key=lambda p: ([int(n) for n in re.findall(r"\d+", p.stem)], p.name))


def is_parquet(file: Path) -> bool:
    """Return whether a file starts like parquet, whatever its name."""
    try:
        with file.open("rb") as opened:
            return opened.read(4) == b"PAR1"
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check the path") from error


def json_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, value) of JSONL, a JSON list or one JSON object; a `BadRecordError` for what is no JSON."""
    with file.open("rb") as opened:
        first = next((line for line in opened if line.removeprefix(_BOM).strip()), b"").removeprefix(_BOM).lstrip()
        opened.seek(0)
        broken = isinstance(_parsed(first), BadRecordError) and file.stat().st_size <= _WHOLE
        content = _parsed(opened.read().removeprefix(_BOM)) if first.startswith(b"[") or broken else None
        if content is not None and not isinstance(content, BadRecordError):
            yield from enumerate(content if isinstance(content, list) else [content], start=1)
            return
        opened.seek(0)
        for number, line in enumerate(opened, start=1):
            if line.strip():
                yield number, _parsed(line.removeprefix(_BOM) if number == 1 else line)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return BadRecordError("it is not valid JSON")


def parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, row as a dict)."""
    import pyarrow as pa

    number = 1
    with open_parquet(file) as opened:
        try:
            for part in opened.iter_batches(batch_size=1024):
                for row in table_rows(pa.Table.from_batches([part]), range(part.num_rows)):
                    yield number, row
                    number += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} is damaged near row {number}: copy it again") from error
