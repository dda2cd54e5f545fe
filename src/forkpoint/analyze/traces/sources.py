"""One entry for everything that can be analysed: what a path holds is recognised by its content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forkpoint.analyze.rundata import read_run
from forkpoint.analyze.traces.files import CAN_READ, data_files, is_parquet, json_rows, parquet_rows
from forkpoint.analyze.traces.formats import (
    ALIASES,
    Parser,
    plain_records,
    response_records,
    trl_records,
    verl_records,
)
from forkpoint.analyze.traces.parquet import file_info, open_parquet, read_batches
from forkpoint.analyze.traces.records import BadRecordError, Record, batch_of
from forkpoint.analyze.traces.tokens import with_tokenizer
from forkpoint.analyze.traces.trace import (
    Note,
    TraceBatch,
    TraceEntropyKind,
    TraceInfo,
    Traces,
)
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from forkpoint.analyze.traces.sampling import ModelSettings
    from forkpoint.rollouts import Prompt

BATCH_TOKENS = 1 << 19
"""About how many tokens a batch has."""
_ROW_TOKENS = 256
"""What a response without tokens counts for, so that batches of texts are bounded too."""
Kind = Literal["trl", "verl", "logprobs", "plain"]
_PARSERS: Mapping[Kind, Parser] = {
    "trl": trl_records, "verl": verl_records, "logprobs": response_records, "plain": plain_records,
}  # fmt: skip
_NO_TOKENS = ("tokens", "logp", "entropy", "rank", "top", "credit", "kept", "phase")
_TEXT_ONLY = "It holds texts without tokens: score it with a model (`score_with`) to see entropies."
_BOUND = (
    "Entropies are lower bounds: only the log-probs of the most likely tokens are known, and the rest of the "
    "vocabulary is taken to be as certain as these allow."
)
_UNSAID = (
    "The file does not say whether its entropies are over the full vocabulary, so they are shown as lower bounds: "
    "pass entropy_kind='exact' if they are."
)
_LACKS: Mapping[str, tuple[str, ...]] = {
    "trl": _NO_TOKENS, "verl": (*_NO_TOKENS, "advantage"),
    "logprobs": ("ids", "reward", "verdict", "advantage", "credit", "kept", "phase", "prompt"),
}  # fmt: skip
_NOTES: Mapping[str, tuple[str, ...]] = {
    "trl": (_TEXT_ONLY, "The reward is the plain sum of the reward columns, since weights are not recorded."),
    "verl": (_TEXT_ONLY,), "logprobs": (_BOUND,),
}  # fmt: skip


def open_traces(
    source: str | Path,
    *,
    prompts: Sequence[Prompt] | str | Path | None = None,
    settings: ModelSettings | None = None,
    score_with: str | Path | None = None,
    tokenizer: Any = None,
    columns: Sequence[str] | None = None,
    entropy_kind: TraceEntropyKind | None = None,
    batch_tokens: int = BATCH_TOKENS,
    part: Literal["rollouts", "evals"] = "rollouts",
) -> Traces:
    """Return whatever can be analysed as a stream of batches, with what is known of it.

    Recognised by content: a run directory of ours; a trace file (parquet) or a folder of them; TRL's
    `completions_*.parquet`; verl's `<step>.jsonl` dumps; OpenAI and vLLM response bodies with `logprobs`, as JSON,
    JSONL or lines of a batch file; JSONL or parquet with tokens and log-probs. With `prompts` the source is a
    model, which is sampled.

    Args:
        source: a file, or a folder of files of one kind; with `prompts` a model directory or hub name.
        prompts: problems to sample a model with, or a file of them (`forkpoint.tasks.readers.read_prompts`).
        settings: how a model is loaded and sampled, or loaded to score.
        score_with: model directory or hub name: read the answers with this model, and record its full-vocabulary
            entropies in place of the source's. The way to see entropies of texts without tokens.
        tokenizer: gives texts to ids that come without; ids outside it are noted, and so is one that is not the
            trace's.
        columns: read only these columns of parquet (names of the trace format), which is faster.
        entropy_kind: what entropies are in a file that does not say.
        batch_tokens: about how many tokens a batch has.
        part: of a run directory.

    Raises:
        InputError: nothing is there, it is of no kind that can be read, or it is empty. While reading: no response
            could be used, which says why; a damaged file.
    """
    if prompts is not None:
        from forkpoint.analyze.traces.sampling import open_model
        from forkpoint.tasks.readers import read_prompts

        problems = read_prompts(prompts, answer=None) if isinstance(prompts, str | Path) else prompts
        return open_model(source, problems, settings)
    path = Path(source).expanduser()
    if is_run(path):
        found = _of_run(path, part, columns, batch_tokens)
    elif path.exists():
        found = _of_files(path, columns, entropy_kind, batch_tokens)
    else:
        raise InputError(f"there is no {path}: give {CAN_READ}")
    if score_with is not None:
        return _scored_with(found, score_with, settings)
    return found if tokenizer is None else with_tokenizer(found, tokenizer)


def is_run(path: Path) -> bool:
    """Return whether a path is a directory that training wrote."""
    return path.is_dir() and any((path / name).exists() for name in ("metrics.jsonl", "rollouts", "evals"))


def _of_run(path: Path, part: str, columns: Sequence[str] | None, tokens: int) -> Traces:
    run = read_run(path)
    files = run.rollout_files if part == "rollouts" else run.eval_files
    if not files:
        raise InputError(f"{path} has no {part}/step-*.parquet: train with log.rollouts_every above 0")
    recipe = run.recipe.get("recipe", {})
    decode = recipe.get("decode", {}) if isinstance(recipe, dict) else {}
    model = recipe.get("model", {}) if isinstance(recipe, dict) else {}
    lacks = ("rank", "top", "phase") + (("advantage", "credit", "kept") if part == "evals" else ())
    about = TraceInfo(
        kind="run", name=str(path), lacks=lacks, notes=run.notes,
        model=model.get("path") if isinstance(model, dict) else None,
        temperature=decode.get("temperature") if isinstance(decode, dict) else None,
    )  # fmt: skip
    return _stream(about, lambda: (b for file in files for b in _read_or_noted(file, columns, tokens)))


def _read_or_noted(file: Path, columns: Sequence[str] | None, tokens: int) -> Iterator[TraceBatch]:
    """Yield the batches of one of many files; what is damaged is left out and noted."""
    try:
        yield from read_batches(file, columns=columns, tokens=tokens)
    except InputError as error:
        what = f"a file, or its rest, was left out: {str(error).replace(str(file), file.name)}"
        yield batch_of([], file=file.name, unit="row", notes=[Note(what=what, count=0, first=file.name)])


def _of_files(path: Path, columns: Sequence[str] | None, entropy_kind: TraceEntropyKind | None, tokens: int) -> Traces:
    files = data_files(path)
    if not is_parquet(files[0]):
        return _of_json(path, files, entropy_kind, tokens)
    about = file_info(files[0])
    if about is not None:
        for file in files[1:]:
            if file_info(file) is None:
                raise InputError(
                    f"{file.name} is no trace and {files[0].name} is one: keep the two kinds in two folders"
                )
        return _stream(about, lambda: (b for f in files for b in read_batches(f, columns=columns, tokens=tokens)))
    with open_parquet(files[0]) as opened:
        names = {field.name: field for field in opened.schema_arrow}
    kind = _kind_of({name: [] for name in names}, files[0])
    if kind != "plain":
        return _of_records(path, files, kind, parquet_rows, entropy_kind, tokens)
    chosen = {
        name: next((alias for alias in (name, *aliases) if alias in names), "") for name, aliases in ALIASES.items()
    }
    chosen = {name: column for name, column in chosen.items() if column and name != "top"}
    if not {"logp", "entropy"} & chosen.keys():
        raise InputError(f"{files[0]} has no column 'logp' and no column 'entropy': there is nothing to measure in it")
    about = _plain_info(path, chosen, entropy_kind)
    unsaid = entropy_kind or "lower-bound"

    def batches() -> Iterator[TraceBatch]:
        for file in files:
            yield from read_batches(file, names=chosen, columns=columns, tokens=tokens, entropy_kind=unsaid)

    return _stream(about, batches)


def _of_json(path: Path, files: Sequence[Path], entropy_kind: TraceEntropyKind | None, tokens: int) -> Traces:
    first = next((row for file in files for _, row in json_rows(file) if isinstance(row, dict)), None)
    if first is None:
        raise InputError(f"{path} holds no JSON object, so there is nothing to analyse: give {CAN_READ}")
    return _of_records(path, files, _kind_of(first, files[0]), json_rows, entropy_kind, tokens, first)


def _of_records(
    path: Path,
    files: Sequence[Path],
    kind: Kind,
    rows: Callable[[Path], Iterator[tuple[int, Any]]],
    entropy_kind: TraceEntropyKind | None,
    tokens: int,
    first: Mapping[str, Any] | None = None,
) -> Traces:
    if kind == "plain":
        about = _plain_info(
            path, {n: a for n, names in ALIASES.items() for a in names if a in (first or {})}, entropy_kind
        )
    else:
        model = first.get("model") if kind == "logprobs" and first else None
        name = model if isinstance(model, str) else None
        about = TraceInfo(kind=kind, name=str(path), lacks=_LACKS[kind], notes=_NOTES[kind], model=name)
    parse = _PARSERS[kind]
    return _stream(about, lambda: (b for f in files for b in _record_batches(f, rows(f), parse, entropy_kind, tokens)))


def _plain_info(path: Path, has: Mapping[str, str], entropy_kind: TraceEntropyKind | None) -> TraceInfo:
    notes = () if "entropy_kind" in has or entropy_kind is not None else (_UNSAID,)
    notes = notes if "entropy" in has else (_BOUND,)
    names = ("tokens", "ids", "logp", "entropy", "reward", "verdict", "advantage", "credit", "kept", "phase")
    return TraceInfo(kind="plain", name=str(path), lacks=tuple(name for name in names if name not in has), notes=notes)


def _record_batches(
    file: Path,
    rows: Iterable[tuple[int, Any]],
    parse: Parser,
    entropy_kind: TraceEntropyKind | None,
    tokens: int,
) -> Iterator[TraceBatch]:
    """Yield the responses of one file in batches; a row that cannot be used is left out and noted."""
    unit: Literal["row", "line"] = "row" if is_parquet(file) else "line"
    records: list[Record] = []
    places: list[int] = []
    notes: list[Note] = []
    size = 0
    for place, row in rows:
        try:
            if isinstance(row, BadRecordError):
                raise row
            if not isinstance(row, Mapping):
                raise BadRecordError("it is not a JSON object")
            for record in parse(row):
                records.append(record)
                places.append(place)
                lists = (record.get(name) for name in ("tokens", "ids"))
                size += max(_ROW_TOKENS, *(len(value) for value in lists if isinstance(value, list)), 0)
        except BadRecordError as error:
            notes.append(Note(what=str(error), count=1, first=f"{file.name} {unit} {place}"))
        if size >= tokens:
            yield batch_of(records, file=file.name, places=places, unit=unit, notes=notes, entropy_kind=entropy_kind)
            records, places, notes, size = [], [], [], 0
    if records or notes:
        yield batch_of(records, file=file.name, places=places, unit=unit, notes=notes, entropy_kind=entropy_kind)


def _stream(about: TraceInfo, batches: Callable[[], Iterator[TraceBatch]]) -> Traces:
    """Return traces whose passes end in an error if no response could be used."""

    def guarded() -> Iterator[TraceBatch]:
        responses, reason = 0, ""
        for batch in batches():
            responses += batch.responses
            reason = reason or (str(batch.notes[0]) if batch.notes else "")
            yield batch
        if not responses:
            why = f"none of its responses could be used: {reason}" if reason else "it is empty"
            raise InputError(f"{about.name} holds nothing to analyse; {why}")

    return Traces(about=about, batches=guarded)


def _scored_with(traces: Traces, path: str | Path, settings: ModelSettings | None) -> Traces:
    from forkpoint.analyze.traces.sampling import ModelSettings
    from forkpoint.analyze.traces.scoring import scored_traces
    from forkpoint.model import load_model, pick_device
    from forkpoint.tasks.prompts import load_tokenizer

    how = settings or ModelSettings()
    model = load_model(
        path, dtype=how.dtype, device=pick_device(how.device), revision=how.revision,
        trust_remote_code=how.trust_remote_code,
    )  # fmt: skip
    tokenizer = load_tokenizer(path, revision=how.revision, trust_remote_code=how.trust_remote_code)
    return scored_traces(
        traces, model, tokenizer, temperature=how.temperature or 1.0, top=how.top, attention=how.attention,
        name=str(path),
    )  # fmt: skip


def _kind_of(row: Mapping[str, Any], file: Path) -> Kind:
    """Return what a first row, or the columns of a table, belong to."""
    tokens = any(alias in row for name in ("tokens", "ids") for alias in ALIASES[name])
    if "choices" in row or isinstance(row.get("response"), Mapping):
        return "logprobs"
    if tokens:
        return "plain"
    if {"prompt", "completion", "advantage"} <= row.keys():
        return "trl"
    if {"input", "output", "score"} <= row.keys():
        return "verl"
    shown = ", ".join(sorted(map(str, row))[:12]) or "none"
    raise InputError(f"{file} is of no kind that can be read (its fields: {shown}): give {CAN_READ}")
