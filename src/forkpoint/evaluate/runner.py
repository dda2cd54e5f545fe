"""Sample a benchmark, judge answers as they come, write them down, sum up; what was stopped goes on from there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkpoint.environment import versions
from forkpoint.errors import InputError, TrainingError
from forkpoint.evaluate import store
from forkpoint.evaluate.benchmark import Benchmark, Drawing, Place, Problems
from forkpoint.evaluate.judges import close, equality, extraction, make_judge, surroundings, unreadable
from forkpoint.evaluate.metrics import Metrics, summarise
from forkpoint.evaluate.sources import Answerer, Drawn, Request, requests
from forkpoint.evaluate.spec import EvalSpec, canonical, differences, digest, read_spec
from forkpoint.evaluate.stats import Estimate
from forkpoint.rollouts import Verdict
from forkpoint.tasks.task import Judge
from forkpoint.train.files import only_writer, output_path

SHARD = 256
"""Answers that are judged and written at a time: what a killed process loses, and all the texts that are held."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One benchmark, evaluated."""

    benchmark: str
    title: str
    model: str
    folder: Path
    table: Path
    """What every answer was worth, for `compare`."""
    answers: int
    drawn: int
    """Of them in this call; the others were there."""
    metrics: Metrics
    spec: EvalSpec
    unreadable: tuple[tuple[str, str], ...]
    """Problems whose reference cannot be judged, with the reason."""
    notes: tuple[str, ...]


def evaluate(
    answerer: Answerer,
    benchmark: Benchmark,
    problems: Problems,
    out: Path,
    *,
    drawing: Drawing | None = None,
    seed: int = 0,
    place: Place | None = None,
    fresh: bool = False,
    judge: Judge | None = None,
    level: float = 0.95,
    progress: Progress | None = None,
) -> Result:
    """Answer every problem as often as asked, and return what the answers are worth.

    Answers are judged and written `SHARD` at a time under `OUT/<benchmark>/`. Called again with the same conditions it
    draws only what is missing; more samples than before are a continuation too, since every draw depends on seed,
    problem and sample number alone.

    Args:
        answerer: what answers.
        benchmark: whose verifier judges.
        problems: what is asked.
        out: folder of evaluations.
        drawing: samples and how they are drawn; the benchmark's own where not given.
        seed: of the draws.
        place: where the instruction stands, for the record.
        fresh: move an earlier evaluation aside.
        judge: verifier in place of the benchmark's.
        level: coverage of the intervals.
        progress: called with (finished, total) answers.

    Raises:
        InputError: another evaluation lies in the folder, whose conditions are named where they differ; another
            process is writing there; or the table would replace the problems' own file.
        TrainingError: the source stopped answering; what was answered is written.
    """
    draw = drawing or benchmark.sampling
    folder = out / benchmark.name
    verifier = judge or make_judge(benchmark)
    spec = spec_of_run(answerer, benchmark, problems, draw, seed, place)
    output_path(folder.with_name(f"{folder.name}.parquet"), [problems.dataset])
    try:
        with only_writer(folder):
            if fresh:
                store.move_aside(folder)
            done = _continued(folder, answerer.name, spec)
            bad = tuple(unreadable(problems.prompts, verifier))
            store.write_json(folder / "spec.json", json.loads(canonical(spec)))
            store.write_json(folder / "model.json", {"model": answerer.name, "benchmark": benchmark.name})
            unread = frozenset(dict(bad))
            new = _draw(answerer, benchmark, problems, draw, seed, verifier, folder, done, progress, unread)
            return _summed_up(answerer, benchmark, problems, spec, verifier, folder, len(done) + new, new, bad, level)
    finally:
        if judge is None:
            close(verifier)


def spec_of_run(
    answerer: Answerer,
    benchmark: Benchmark,
    problems: Problems,
    drawing: Drawing,
    seed: int,
    place: Place | None = None,
) -> EvalSpec:
    """Return everything that moves the score of an evaluation."""
    installed = versions()
    settings = {"name": benchmark.verifier.name, **benchmark.verifier.settings}
    used = [f"{name} {installed.get(name)}" for name in ("forkpoint", "math-verify")]
    told = benchmark.prompt.instruction if (place or benchmark.prompt.place) != "none" else ""
    return EvalSpec(
        dataset=benchmark.name,
        dataset_version=problems.version,
        dataset_hash=problems.hash,
        problems=len(problems.prompts),
        prompt_template=json.dumps({"problem": benchmark.prompt.template, "model": answerer.template}),
        instruction=told or None,
        instruction_place=(place or benchmark.prompt.place) if told else "none",
        samples=drawing.samples,
        decoding={
            "temperature": drawing.temperature, "top_p": drawing.top_p, "max_tokens": drawing.max_tokens,
        },
        seeds=(seed,),
        engine=answerer.engine,
        engine_version=answerer.engine_version,
        dtype=answerer.dtype,
        parallelism=answerer.parallelism,
        verifier=json.dumps(settings, sort_keys=True),
        verifier_version=", ".join(filter(None, [*used, surroundings(benchmark)])),
    )  # fmt: skip


def _continued(folder: Path, model: str, spec: EvalSpec) -> set[tuple[str, int]]:
    """Return the answers that are there, after refusing those of another evaluation."""
    if not (folder / "spec.json").is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder} holds something that is no evaluation: give another --out")
        return set()
    if not store.shards(folder):
        return set()
    before = read_spec(folder / "spec.json")
    try:
        said = json.loads((folder / "model.json").read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        said = model
    # How many answers are under way at once is recorded, and may change: a draw depends on its own request alone.
    other = [str(one) for one in differences(before, spec) if one.field not in ("samples", "parallelism")]
    other += [f"model: {said} against {model}"] if said != model else []
    if (before.samples or 0) > (spec.samples or 0):
        other.append(f"samples: {before.samples} against {spec.samples}")
    if other:
        raise InputError(
            f"{folder} holds an evaluation under other conditions ({'; '.join(other)}): give another --out, or --fresh "
            "to move it aside"
        )
    return store.finished(folder)


@dataclass(frozen=True, kw_only=True)
class _At:
    """How far the drawing is."""

    number: int
    """Of the shard to be written next."""
    new: int = 0
    """Answers written by this call."""
    held: list[tuple[Request, Drawn]] = field(default_factory=list)
    """Answers that are not."""


def _draw(
    answerer: Answerer,
    benchmark: Benchmark,
    problems: Problems,
    drawing: Drawing,
    seed: int,
    judge: Judge,
    folder: Path,
    done: set[tuple[str, int]],
    progress: Progress | None,
    bad: frozenset[str],
) -> int:
    """Draw, judge and write what is missing, and return how many answers that were."""
    total = len(problems.prompts) * drawing.samples
    # One value: whenever an interrupt comes, rows are with their own number, so that what is written already is written
    # again as the same shard, never as another.
    at = _At(number=store.next_shard(folder))

    def keep() -> None:
        nonlocal at
        if at.held:
            store.write_shard(folder, at.number, list(_rows(at.held, benchmark, judge, bad)))
            at = _At(number=at.number + 1, new=at.new + len(at.held))

    wanted = requests(problems.prompts, drawing.samples, seed, done)
    try:
        for pair in answerer.answer(wanted):
            at.held.append(pair)
            if len(at.held) == SHARD:
                keep()
            if progress is not None:
                progress(len(done) + at.new + len(at.held), total)
    except TrainingError as error:
        keep()
        raise TrainingError(
            f"{error}; {len(done) + at.new} of {total} answers to {benchmark.name} are written: give the same command "
            "again to go on"
        ) from error
    except BaseException:
        keep()
        raise
    keep()
    return at.new


def _rows(
    held: list[tuple[Request, Drawn]], benchmark: Benchmark, judge: Judge, bad: frozenset[str]
) -> Iterator[Mapping[str, Any]]:
    texts = [drawn.text for _, drawn in held]
    judgements = judge([request.prompt for request, _ in held], texts)
    extract = extraction(benchmark)
    for (request, drawn), judgement in zip(held, judgements, strict=True):
        answer = extract(drawn.text) if extract is not None else None
        # What has no answer is wrong whatever the reference is; of one that cannot be read it says nothing.
        unjudged = judgement.verdict is Verdict.WRONG and request.prompt.id in bad
        verdict, reward = (Verdict.UNJUDGED, 0.0) if unjudged else (judgement.verdict, judgement.reward)
        yield {
            **dataclasses.asdict(drawn), "prompt_id": request.prompt.id, "sample": request.sample,
            "prompt": request.prompt.text, "answer": request.prompt.answer, "completion": drawn.text,
            "verdict": str(verdict), "reward": reward,
            "extracted": answer[: store.EXTRACTED] if answer is not None else None, "seed": request.stream,
        }  # fmt: skip


def _summed_up(
    answerer: Answerer,
    benchmark: Benchmark,
    problems: Problems,
    spec: EvalSpec,
    judge: Judge,
    folder: Path,
    answers: int,
    new: int,
    bad: tuple[tuple[str, str], ...],
    level: float,
) -> Result:
    """Write the table and the summary of a finished evaluation."""
    extracts = extraction(benchmark) is not None
    notes = (*problems.notes, *filter(None, [surroundings(benchmark)]))
    table = store.write_graded(folder, folder.with_name(f"{folder.name}.parquet"), extracts=extracts)
    store.write_json(folder.with_name(f"{table.name}.spec.json"), json.loads(canonical(spec)))
    metrics = summarise(
        store.read_graded(table, name=answerer.name, equal=equality(benchmark, judge), spec=spec, notes=notes),
        level=level,
    )
    result = Result(
        benchmark=benchmark.name, title=benchmark.title, model=answerer.name, folder=folder, table=table,
        answers=answers, drawn=new, metrics=metrics, spec=spec, unreadable=bad, notes=metrics.notes,
    )  # fmt: skip
    store.write_json(folder / "summary.json", summary(result))
    return result


def summary(result: Result) -> dict[str, Any]:
    """Return a result JSON-ready; NaN becomes null."""
    return {
        "benchmark": result.benchmark, "model": result.model, "problems": result.spec.problems,
        "answers": result.answers, "unjudged": result.metrics.unjudged, "spec": digest(result.spec),
        "unreadable_references": [list(pair) for pair in result.unreadable], "notes": list(result.notes),
        "table": str(result.table), "answers_folder": str(result.folder),
        "metrics": {name: _plain(estimate) for name, estimate in result.metrics.estimates.items()},
    }  # fmt: skip


def _plain(estimate: Estimate) -> dict[str, Any]:
    values = dataclasses.asdict(estimate)
    return {name: None if isinstance(value, float) and value != value else value for name, value in values.items()}
