"""What `compare` is given: `[NAME=]PATH[:FIELD][,PATH...]` for every system, as graded answers by benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from forkpoint.analyze.result_rows import Fields
from forkpoint.analyze.results import name_of, read_result
from forkpoint.errors import InputError
from forkpoint.evaluate.compare import System
from forkpoint.evaluate.graded import Graded

_RUN = ("recipe.json", "metrics.jsonl", "rollouts", "evals")
_DATA = (".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One argument, taken apart."""

    name: str | None
    paths: tuple[Path, ...]
    """One a training seed."""
    value: str | None
    """Field with the verdict."""


def parse_source(text: str) -> Source:
    """Return the parts of `[NAME=]PATH[:FIELD][,PATH...]`; what exists as a path is one, whatever it contains.

    >>> parse_source("large=a.jsonl,b.jsonl:is_correct")
    Source(name='large', paths=(PosixPath('a.jsonl'), PosixPath('b.jsonl')), value='is_correct')
    """
    name, value = None, None
    if not Path(text).exists() and "=" in text:
        name, _, text = text.partition("=")
    if not Path(text).exists():
        before, colon, after = text.rpartition(":")
        if colon and "/" not in after:
            text, value = before, after
    paths = [text] if Path(text).exists() else text.split(",")
    if not all(paths) or name == "":
        raise InputError("an empty name or path: write NAME=PATH, several training seeds as PATH,PATH")
    return Source(name=name, paths=tuple(map(Path, paths)), value=value)


def read_systems(arguments: Sequence[str], fields: Fields) -> tuple[dict[str, list[System]], list[str]]:
    """Read every system.

    A folder of .jsonl or .parquet files that is no run holds a benchmark a file, matched by file name.

    Args:
        arguments: See `parse_source`; two or more.
        fields: Names of fields, for all of them.

    Returns:
        The systems by benchmark, in order, and what was left out, one sentence each.

    Raises:
        InputError: For fewer than two systems, one that cannot be read, or systems without a common benchmark.
    """
    sources = [parse_source(text) for text in arguments]
    if len(sources) < 2:
        raise InputError("there is only one evaluation: name two or more to compare")
    names = _names(sources)
    read = [_benchmarks(source, name, fields) for source, name in zip(sources, names, strict=True)]
    if all(len(found) == 1 for found in read):
        read = [{"": next(iter(found.values()))} for found in read]
    common = [name for name in read[0] if all(name in found for found in read)]
    if not common:
        held = "; ".join(f"{name}: {', '.join(found)}" for name, found in zip(names, read, strict=True))
        raise InputError(f"the systems have no benchmark in common ({held}): give their files the same names")
    notes = [
        f"{name} alone has {', '.join(left)}, which is left out."
        for name, found in zip(names, read, strict=True)
        if (left := [benchmark for benchmark in found if benchmark not in common])
    ]
    systems = {
        benchmark: [System(name=name, results=tuple(found[benchmark])) for name, found in zip(names, read, strict=True)]
        for benchmark in common
    }
    return systems, notes


def _names(sources: Sequence[Source]) -> list[str]:
    """Return a name for every system: the given one, the file's, or the path where two share one."""
    shared = [source.name or name_of(source.paths[0]) for source in sources]
    plain = [source.name or source.value or name for source, name in zip(sources, shared, strict=True)]
    whole = [source.name or ",".join(map(str, source.paths)) for source in sources]
    for names in (shared, plain, whole):
        if len(set(names)) == len(names):
            return names
    return [f"{name} #{place}" for place, name in enumerate(whole, start=1)]


def _benchmarks(source: Source, name: str, fields: Fields) -> Mapping[str, list[Graded]]:
    wanted = replace(fields, value=source.value) if source.value else fields
    files = [_files(path) for path in source.paths]
    if all(len(one) == 1 for one in files):
        single = [next(iter(one.items())) for one in files]
        return {single[0][0]: [read_result(file, name=name, fields=wanted) for _, file in single]}
    partly = {benchmark for one in files for benchmark in one if not all(benchmark in other for other in files)}
    if partly:
        raise InputError(
            f"{name}: not every training seed has {', '.join(sorted(partly))}: evaluate all of them on the same files"
        )
    return {
        benchmark: [read_result(one[benchmark], name=name, fields=wanted) for one in files] for benchmark in files[0]
    }


def _files(path: Path) -> dict[str, Path]:
    if not path.is_dir() or any((path / name).exists() for name in _RUN):
        return {name_of(path): path}
    files = {file.stem: file for file in sorted(path.iterdir()) if file.suffix in _DATA}
    if not files:
        raise InputError(f"{path} is neither a run directory nor holds .jsonl or .parquet files of graded answers")
    return files
