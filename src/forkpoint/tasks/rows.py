"""Rows of JSONL, JSON, CSV and parquet files and of hub data sets, each with the place it came from.

Files of text may be packed with gzip: `.jsonl.gz`, `.json.gz`, `.csv.gz`.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from forkpoint.errors import InputError, did_you_mean

Row = tuple[str, Any]
"""Where a row stands (`line 7`, `row 7`), counted from 1, and the row."""

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_FILES = (*_SUFFIXES, ".jsonl.gz", ".json.gz", ".csv.gz")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def open_rows(source: str | Path, split: str | None, config: str | None) -> tuple[str, str, Iterable[Row]]:
    """Open a file, a folder of splits or a hub data set; rows are read as they are asked for.

    Returns:
        The source's name for messages, the stem of its problems' ids, and its rows with their places.

    Raises:
        InputError: there is no such source; while reading, a row that is not well-formed, by its place.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = [path / f"{split or 'train'}{suffix}" for suffix in _FILES]
        file = next((candidate for candidate in found if candidate.is_file()), None)
        if file is None:
            stems = [data_stem(p) for p in path.iterdir() if _suffix(p) in _SUFFIXES]
            hint = did_you_mean(split or "train", stems) if stems else "it holds no data file"
            raise InputError(f"{path} has no split {split or 'train'!r}; {hint}")
        path = file
    if path.is_file():
        if _suffix(path) not in _SUFFIXES or path.name.endswith(".parquet.gz"):
            raise InputError(f"{path} is of no kind that can be read; use one of {', '.join(_FILES)}")
        return str(path), data_stem(path), _READERS[_suffix(path)](path)
    if not _HUB_ID.fullmatch(str(source)) or _suffix(path) in _SUFFIXES:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside) if path.parent.is_dir() else f"there is no folder {path.parent}"
        raise InputError(f"there is no data file {path}; {hint}")
    split = split or "train"
    return f"{source} ({split})", f"{source}/{split}", _hub_rows(str(source), split, config)


def data_stem(path: Path) -> str:
    """Return a data file's name without its endings.

    >>> data_stem(Path("data/HumanEval.jsonl.gz"))
    'HumanEval'
    """
    return Path(path.name.removesuffix(".gz")).stem


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, unpacked where its name ends in `.gz`.

    Raises:
        OSError: it cannot be opened.
        InputError: inside the block, where packed bytes are damaged.
    """
    try:
        with cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no whole gzip file ({error}): copy or pack it again") from error


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield f"line {number}", _parse_json(text, f"{path} line {number}")


def _json_rows(path: Path) -> Iterator[Row]:
    with open_bytes(path) as file:
        data = file.read().removeprefix(b"\xef\xbb\xbf").lstrip()
    if not data.startswith(b"["):
        yield from _jsonl_rows(path)
        return
    for number, row in enumerate(_parse_json(data, str(path)), start=1):
        yield f"row {number}", row


def _parse_json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        raise InputError(f"{where} is not valid JSON ({error.msg} at {place})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text (byte {error.start + 1})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is JSON that cannot be read (nested too deep, or a number too long)") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    import csv

    with open_bytes(path) as packed, io.TextIOWrapper(packed, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        while True:
            where = f"line {reader.line_num + 1}"
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InputError(f"{path} {where} is not valid CSV ({error})") from error
            except UnicodeDecodeError as error:
                raise InputError(f"{path} {where} or later is not UTF-8 text") from error
            if header is None:
                header = fields
            elif fields and len(fields) != len(header):
                raise InputError(f"{path} {where} has {len(fields)} fields, the header has {len(header)}")
            elif fields:
                yield where, dict(zip(header, fields, strict=True))


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(batch_size=1024) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file ({str(error).splitlines()[0]})") from error


_READERS = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}


def _hub_rows(source: str, split: str, config: str | None) -> Iterator[Row]:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(
            f"{source!r} is no file here, and reading it from the hub needs another package: "
            "run `pip install datasets`, or download the file and give its path"
        ) from error
    try:
        rows = datasets.load_dataset(source, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{source!r} is no file here and could not be read from the hub ({reason}); "
            "check the id, the split and the network, or download the file and give its path"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row
