"""Benchmarks as declarations: where the problems come from, how they are put, who verifies, how often to sample.

A benchmark is a small TOML file; those that ship lie in `benchmarks/` and are known by the name of their file, and
any other is known by its path. Hub names are those of public data sets; what is read from the hub needs `datasets`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Prompt
from forkpoint.tasks.readers import read_prompts
from forkpoint.tasks.rows import data_stem, open_rows

FOLDER = Path(__file__).parent / "benchmarks"
"""The benchmarks that ship."""
Place = Literal["after", "before", "system", "none"]
PLACES: tuple[Place, ...] = ("after", "before", "system", "none")
Count = Annotated[int, Field(ge=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Source(_Table):
    """`[source]`: where the problems are when no file is given."""

    hub: str | None = None
    """Data set on the hub."""
    config: str | None = None
    split: str | None = None
    embedded: Literal["countdown", "countdown-coin"] | None = None
    """Made here: problems that no training stream of that task contains."""


class Layout(_Table):
    """`[[layout]]`: one way in which the rows are written; the first whose fields are all there is taken."""

    question: str = "question"
    answer: str | None = None
    """Field of the reference; none where the verifier needs none."""
    extraction: Literal["none", "gsm8k", "boxed"] = "none"
    """Where the reference stands in that field."""
    id: str | None = None
    """Field that names a problem; file name and row number without it."""
    keep: tuple[str, ...] = Field(default=(), strict=False)
    """Fields that the verifier or the prompt reads."""

    def fields(self) -> tuple[str, ...]:
        """Return every field a row must have."""
        return tuple(name for name in (self.question, self.answer, self.id, *self.keep) if name is not None)


class Asking(_Table):
    """`[prompt]`: what the model is told."""

    template: str = "{question}"
    """`{question}` and `{field}` of the layout's `keep` are filled in."""
    instruction: str = ""
    place: Place = "after"
    """Where the instruction stands: a message of the system, before or after the problem, or nowhere."""


class Verifying(BaseModel):
    """`[verifier]`: who judges, and with which settings."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "math"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class Drawing(_Table):
    """`[sampling]`: how answers are drawn unless the command says otherwise."""

    samples: Count = 1
    temperature: Annotated[float, Field(ge=0, strict=False)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1, strict=False)] = 0.95
    max_tokens: Count = 16384

    @classmethod
    def checked(cls, base: Drawing, changes: Mapping[str, Any]) -> Drawing:
        """Return the settings with some changed.

        Raises:
            InputError: a value is out of range; it is named.
        """
        try:
            return cls.model_validate({**base.model_dump(), **changes})
        except ValidationError as error:
            raise InputError(_mistake(error)) from None


class Benchmark(_Table):
    """One benchmark file."""

    name: str
    """Name of the file."""
    title: str
    licence: str
    paper: str = ""
    """arXiv id."""
    rows: Count | None = None
    """How many problems there are; another number is noted."""
    source: Source = Source()
    layout: tuple[Layout, ...] = Field(default=(Layout(answer="answer"),), strict=False)
    prompt: Asking = Asking()
    verifier: Verifying = Verifying()
    sampling: Drawing = Drawing()


_TABLES: Mapping[str, type[BaseModel]] = {
    "source": Source, "layout": Layout, "prompt": Asking, "sampling": Drawing,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Problems:
    """The problems of a benchmark, as they will be asked."""

    prompts: tuple[Prompt, ...]
    """`text` and `messages` are what the model reads."""
    dataset: str
    """File or hub name."""
    version: str
    """Split and configuration, or the name of the file."""
    hash: str
    """SHA-256 over ids, questions and references as they were read."""
    notes: tuple[str, ...]
    """What a reader of the result has to know."""


def shipped() -> dict[str, Path]:
    """Return the benchmarks that ship: name -> file."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.toml"))}


def load_benchmark(name: str | Path) -> Benchmark:
    """Return a benchmark by its name, or from a TOML file by its path.

    Raises:
        InputError: there is none of that name, or the file says something that is no setting; it is named.
    """
    files = shipped()
    path = files.get(str(name), Path(name))
    if path.suffix != ".toml" or not path.is_file():
        raise InputError(f"there is no benchmark {str(name)!r}: {did_you_mean(str(name), files)}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"benchmark {path} is not valid TOML ({error})") from error
    try:
        return Benchmark.model_validate({**table, "name": path.stem})
    except ValidationError as error:
        raise InputError(f"benchmark {path}: {_mistake(error)}") from None


def custom_benchmark(data: Path, *, question: str, answer: str, id: str | None, verifier: str = "math") -> Benchmark:
    """Return a benchmark for any file with questions and answers, whose answers are asked for in a box."""
    layout = Layout(question=question, answer=answer, id=id)
    return Benchmark(
        name=data_stem(data), title=data.name, licence="not stated", layout=(layout,),
        prompt=load_benchmark("aime24").prompt, verifier=Verifying(name=verifier),
    )  # fmt: skip


def load_problems(
    benchmark: Benchmark, data: str | Path | None = None, *, limit: int | None = None, place: Place | None = None
) -> Problems:
    """Read the problems of a benchmark and put them into words.

    Args:
        benchmark: the declaration.
        data: a file, or a folder that holds `<name>.jsonl` or `<name>/test.jsonl` (or .parquet, .json, .csv); the
            benchmark's own source where not given.
        limit: the first so many problems alone, >= 1.
        place: where the instruction stands, in place of the benchmark's own choice.

    Raises:
        InputError: the data cannot be read or have none of the benchmark's layouts; file and field are named.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} asks no problem: give 1 or more, or leave it out to ask all")
    if benchmark.source.embedded and data is None:
        prompts, dataset, version = _embedded(benchmark, limit), f"forkpoint {benchmark.source.embedded}", "held out"
    else:
        source, split, config = _located(benchmark, data)
        layout = _layout(benchmark, source, split, config)
        prompts = read_prompts(
            source, split=split, config=config, question=layout.question, answer=layout.answer, id=layout.id,
            answer_extraction=layout.extraction, keep=layout.keep, limit=limit,
        )  # fmt: skip
        dataset, version = str(source), "/".join(filter(None, (config, split))) or Path(source).name
    digest = hashlib.sha256()
    for prompt in prompts:
        # Tests of programs and rules of single rows move a score as references do.
        row = [prompt.id, prompt.text, prompt.answer, *([prompt.meta] if prompt.meta else [])]
        digest.update(json.dumps(row, default=str, sort_keys=True).encode() + b"\n")
    notes = []
    if benchmark.rows is not None and len(prompts) != benchmark.rows:
        notes.append(f"{len(prompts)} problems were asked; {benchmark.title} has {benchmark.rows}.")
    return Problems(
        prompts=tuple(_asked(prompt, benchmark.prompt, place or benchmark.prompt.place) for prompt in prompts),
        dataset=dataset,
        version=version,
        hash=digest.hexdigest(),
        notes=tuple(notes),
    )


def _asked(prompt: Prompt, asking: Asking, place: Place) -> Prompt:
    """Return the problem as the model reads it: as one text, and as the messages of a chat."""
    values = {**prompt.meta, "question": prompt.text}
    # One pass, so that braces in a problem are never taken for a field.
    text = re.sub(r"\{(\w+)\}", lambda m: str(values[m[1]]) if m[1] in values else m[0], asking.template)
    told = asking.instruction.strip() if place != "none" else ""
    body = {"after": f"{text}\n\n{told}", "before": f"{told}\n\n{text}"}.get(place, text) if told else text
    messages = [{"role": "user", "content": body}]
    if told and place == "system":
        messages.insert(0, {"role": "system", "content": told})
    whole = "\n\n".join(message["content"] for message in messages)
    return Prompt(id=prompt.id, text=whole, answer=prompt.answer, messages=tuple(messages), meta=prompt.meta)


def _located(benchmark: Benchmark, data: str | Path | None) -> tuple[str | Path, str | None, str | None]:
    """Return source, split and configuration to read."""
    if data is None:
        if benchmark.source.hub is None:
            raise InputError(f"benchmark {benchmark.name} names no source: give its file with --data")
        return benchmark.source.hub, benchmark.source.split, benchmark.source.config
    path = Path(data).expanduser()
    if not path.is_dir():
        return path, None, None
    for candidate in (path / f"{benchmark.name}{end}" for end in (".jsonl", ".parquet", ".json", ".csv", ".jsonl.gz")):
        if candidate.is_file():
            return candidate, None, None
    if (path / benchmark.name).is_dir():
        return path / benchmark.name, "test", None
    beside = [file.stem for file in path.iterdir()]
    raise InputError(f"{path} has no {benchmark.name}.jsonl or .parquet; {did_you_mean(benchmark.name, beside)}")


def _layout(benchmark: Benchmark, source: str | Path, split: str | None, config: str | None) -> Layout:
    name, _, rows = open_rows(source, split, config)
    _, first = next(iter(rows), (None, None))
    if not isinstance(first, Mapping):
        if first is None:
            raise InputError(f"{name} holds no problem: it is empty")
        return benchmark.layout[0]  # the reader names what is wrong with the row
    for layout in benchmark.layout:
        if all(field.partition(".")[0] in first for field in layout.fields()):
            return layout
    missing = next(field for field in benchmark.layout[0].fields() if field.partition(".")[0] not in first)
    raise InputError(
        f"{name} has no field {missing!r}, which benchmark {benchmark.name} reads; {did_you_mean(missing, first)}"
    )


def _embedded(benchmark: Benchmark, limit: int | None) -> tuple[Prompt, ...]:
    from forkpoint.tasks.countdown import countdown_task

    assert benchmark.source.embedded is not None  # noqa: S101 - the caller asked
    count = limit or benchmark.rows or 256
    return countdown_task(benchmark.source.embedded, heldout=count).heldout


def _mistake(error: ValidationError) -> str:
    """Return the first mistake in words."""
    item = error.errors(include_url=False)[0]
    loc = [str(part) for part in item["loc"]]
    place = ".".join(loc)
    if item["type"] == "extra_forbidden":
        owner = _TABLES.get(loc[0], Benchmark) if len(loc) > 1 else Benchmark
        return f"{place} is not a setting; {did_you_mean(loc[-1], set(owner.model_fields) - {'name'})}"
    if item["type"] == "missing":
        return f"{place} is missing"
    return f"{place} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


def described() -> list[dict[str, Any]]:
    """Return what ships, for a listing: name, title, rows, verifier, samples, source, licence."""
    return [
        {
            "name": one.name,
            "title": one.title,
            "rows": one.rows,
            "verifier": one.verifier.name,
            "samples": one.sampling.samples,
            "source": one.source.hub or f"embedded {one.source.embedded}",
            "licence": one.licence,
        }
        for one in map(load_benchmark, shipped())
    ]
