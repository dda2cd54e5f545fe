"""`forkpoint eval`, `select` and `merge`: arguments to the library, results to lines."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forkpoint.cli_text import accuracy_text, grade_summary, grade_text, json_text
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from forkpoint.evaluate.benchmark import Benchmark, Drawing, Problems
    from forkpoint.evaluate.runner import Result
    from forkpoint.evaluate.sources import Answerer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_RECORDED, _DRAWN, _HERE, _SERVER = "Recorded answers", "Sampling", "A model decoded here", "A server"


def evaluate(
    target: Annotated[
        str | None, typer.Argument(metavar="[MODEL|RUN|URL|RECIPE]", help="What to measure; a recipe names it itself.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of a recipe to change.")
    ] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", help="Name or TOML file; several may be given.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="A benchmark's file, a folder of them, or any questions and answers.")
    ] = None,
    verifier: Annotated[
        str | None, typer.Option("--verifier", help="Who judges --data without --benchmark: math, choice, string, ...")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the benchmarks and end.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of evaluations (evals/MODEL); a .parquet with --completions.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an earlier evaluation aside.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", help="Ask only the first so many problems.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", rich_help_panel=_DRAWN, help="Answers a problem.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", rich_help_panel=_DRAWN)] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", rich_help_panel=_DRAWN)] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", rich_help_panel=_DRAWN, help="Longest answer.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", rich_help_panel=_DRAWN)] = 0,
    place: Annotated[
        str | None,
        typer.Option("--place", rich_help_panel=_DRAWN, help="Of the instruction: after, before, system, none."),
    ] = None,
    template: Annotated[
        str, typer.Option("--template", rich_help_panel=_HERE, help="auto, none, chat, or text with {question}.")
    ] = "auto",
    slots: Annotated[int, typer.Option("--slots", rich_help_panel=_HERE, help="Answers decoded at once.")] = 64,
    dtype: Annotated[str, typer.Option("--dtype", rich_help_panel=_HERE)] = "auto",
    device: Annotated[str, typer.Option("--device", rich_help_panel=_HERE)] = "auto",
    model: Annotated[
        str | None, typer.Option("--model", rich_help_panel=_SERVER, help="The server's name of it.")
    ] = None,
    api: Annotated[str, typer.Option("--api", rich_help_panel=_SERVER, help="chat or completions.")] = "chat",
    concurrency: Annotated[
        int, typer.Option("--concurrency", rich_help_panel=_SERVER, help="Requests under way at once.")
    ] = 16,
    top_logprobs: Annotated[
        int, typer.Option("--top-logprobs", rich_help_panel=_SERVER, help="Likely tokens to ask for.")
    ] = 0,
    completions: Annotated[
        Path | None, typer.Option("--completions", rich_help_panel=_RECORDED, help="Grade this JSONL file instead.")
    ] = None,
    answer: Annotated[str | None, typer.Option("--answer", help="Field with the reference answer.")] = None,
    question: Annotated[str | None, typer.Option("--question", help="Field with the problem.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Field that names a problem.")] = None,
    completion: Annotated[
        str | None, typer.Option("--completion", rich_help_panel=_RECORDED, help="Field with the completion(s).")
    ] = None,
    recorded: Annotated[
        str | None, typer.Option("--recorded", rich_help_panel=_RECORDED, help="Field with verdicts to compare with.")
    ] = None,
    extraction: Annotated[
        str, typer.Option("--extraction", rich_help_panel=_RECORDED, help="Where a completion has its answer.")
    ] = "boxed",
    gold_extraction: Annotated[
        str, typer.Option("--gold-extraction", rich_help_panel=_RECORDED, help="Where a reference has it.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a model on benchmarks or on a recipe's held-out problems, or grade recorded completions.

    forkpoint eval runs/demo --benchmark countdown

    forkpoint eval Qwen/Qwen3-0.6B --benchmark aime24 --benchmark math500 --data problems/

    forkpoint eval http://localhost:8000/v1 --data mine.jsonl --question question --answer answer

    forkpoint eval recipes/demo.toml model.path=runs/demo/checkpoints/step-00010

    forkpoint eval --completions answers.jsonl --answer gt --completion response
    """
    if listed:
        from forkpoint.evaluate.benchmark import described

        rows = described()
        typer.echo(json_text(rows) if as_json else benchmarks_text(rows))
        return
    if completions is not None:
        if target is not None:
            raise InputError(f"give either {target} or --completions, not both")
        if answer is None or completion is None:
            raise InputError("--completions needs --answer and --completion: the fields to read")
        from forkpoint.evaluate.grade import grade_file

        graded = grade_file(
            completions, answer=answer, completion=completion, question=question, recorded=recorded, id=id, out=out,
            extraction=extraction, gold_extraction=gold_extraction,
        )  # fmt: skip
        typer.echo(json_text(grade_summary(graded)) if as_json else grade_text(grade_summary(graded)))
        return
    if target is None:
        raise InputError("name a recipe, or a file of recorded answers with --completions, or a model with --benchmark")
    if not benchmark and data is None:
        _evaluate_recipe(target, overrides or [], as_json=as_json)
        return
    if overrides:
        raise InputError(f"{overrides[0]!r} changes a recipe, and a benchmark is not one: use the options of `eval`")
    given = {"samples": samples, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    planned = _planned(benchmark or [], data, given, question, answer, id, verifier, limit, place)
    answerer = _answerer(
        target, model=model, api=api, concurrency=concurrency, top_logprobs=top_logprobs,
        template=template, slots=slots, dtype=dtype, device=device,
    )  # fmt: skip
    from forkpoint.evaluate import runner

    results = []
    for one, problems, drawing in planned:
        source = answerer(drawing)
        with _bar(one.name) as progress:
            found = runner.evaluate(
                source, one, problems, out or Path("evals") / slug(source.name), drawing=drawing, seed=seed,
                place=place, fresh=fresh, progress=progress,  # type: ignore[arg-type]
            )  # fmt: skip
        results.append(found)
        if not as_json:
            typer.echo(result_text(results[-1]))
    if as_json:
        typer.echo(json_text([runner.summary(result) for result in results]))


def result_text(result: Result) -> str:
    """Return one evaluation as lines."""
    from forkpoint.analyze.text import visible

    found = result.metrics.estimates
    powers = {f"{name}@{1 << e}" for name in ("pass", "maj") for e in range(20)} | {f"maj@{result.metrics.answers[0]}"}
    lines = [f"{result.title}  {result.spec.problems} problems, {result.answers} answers of {result.model}"]
    for name, one in found.items():
        if name.partition("@")[0] in ("pass", "maj") and name not in powers:
            continue
        scale, unit = (1, "") if name.startswith(("length", "entropy", "answer entropy")) else (100, " %")
        span = f"  ({scale * one.low:.4g} to {scale * one.high:.4g})" if one.low == one.low else ""
        lines.append(f"  {name:<16} {scale * one.value:.4g}{unit}{span}")
    for name, why in result.unreadable[:10]:
        lines.append(f"  not judged       problem {name}: {why}")
    if len(result.unreadable) > 10:
        lines.append(f"  not judged       … and {len(result.unreadable) - 10} more, listed in summary.json")
    lines += [f"  note: {note}" for note in result.notes]
    return visible("\n".join([*lines, f"  written to {result.table}"]))


def benchmarks_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the benchmarks as a table."""
    width = max(len(row["name"]) for row in rows)
    return "\n".join(
        f"{row['name']:<{width}}  {row['rows']:>5} x {row['samples']:<3} {row['verifier']:<12} {row['title']} "
        f"({row['source']}; {row['licence']})"
        for row in rows
    )


def slug(name: str) -> str:
    """Return a folder name for a model.

    >>> slug("runs/demo/checkpoints/step-00010"), slug("Qwen/Qwen3-0.6B"), slug("models/countdown/")
    ('demo-step-00010', 'Qwen3-0.6B', 'countdown')
    """
    parts = [part for part in Path(name).parts if part != "checkpoints"]
    own = parts[-2:] if parts and re.fullmatch(r"step-\d+", parts[-1]) else parts[-1:]
    return re.sub(r"[^\w.-]+", "-", "-".join(own)) or "model"


def select(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Problems: a file, a folder of splits, a hub data set.")],
    answers: Annotated[
        Path, typer.Option("--answers", help="Graded answers or a trace: what the problems are judged by.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Rows that are kept: .jsonl, or .parquet of parquet.")],
    id: Annotated[str | None, typer.Option("--id", help="Field that names a problem.")] = None,
    split: Annotated[str | None, typer.Option("--split")] = None,
    config: Annotated[str | None, typer.Option("--config", help="Of a hub data set.")] = None,
    part: Annotated[str, typer.Option("--part", help="Of a run: rollouts or evals.")] = "rollouts",
    min_pass: Annotated[float | None, typer.Option("--min-pass", help="Share of right answers.")] = None,
    max_pass: Annotated[float | None, typer.Option("--max-pass")] = None,
    mixed: Annotated[bool, typer.Option("--mixed", help="Only with right and wrong answers.")] = False,
    min_length: Annotated[float | None, typer.Option("--min-length", help="Mean tokens of an answer.")] = None,
    max_length: Annotated[float | None, typer.Option("--max-length")] = None,
    min_area: Annotated[float | None, typer.Option("--min-area", help="Entropy area score, bits.")] = None,
    max_area: Annotated[float | None, typer.Option("--max-area")] = None,
    top: Annotated[int | None, typer.Option("--top", help="Keep this many.")] = None,
    by: Annotated[str, typer.Option("--by", help="What --top orders by: area, pass, length.")] = "area",
    lowest: Annotated[bool, typer.Option("--lowest", help="Keep the lowest, not the highest.")] = False,
    area_model: Annotated[
        str | None, typer.Option("--area-model", help="Model to be trained: computes entropy areas.")
    ] = None,
    areas: Annotated[Path | None, typer.Option("--areas", help="Manifest with entropy areas from before.")] = None,
    stride: Annotated[int, typer.Option("--stride", help="Positions between two forced answers.")] = 1,
    template: Annotated[str, typer.Option("--template", help="How problems are put to --area-model.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Select training problems by pass rate, length and entropy area, with a manifest that says why.

    forkpoint select train.jsonl --answers evals/base/train/answers --out kept.jsonl --mixed

    forkpoint select train.jsonl --answers runs/demo --out kept.jsonl --area-model models/base --top 5000
    """
    from forkpoint.analyze.traces.sources import open_traces
    from forkpoint.selection.choose import Criteria
    from forkpoint.selection.problems import area_of
    from forkpoint.selection.select import read_areas
    from forkpoint.selection.select import select as select_rows

    criteria = Criteria(
        min_pass=min_pass, max_pass=max_pass, mixed=mixed, min_length=min_length, max_length=max_length,
        min_area=min_area, max_area=max_area, top=top, by=by, lowest=lowest,  # type: ignore[arg-type]
    )  # fmt: skip
    if criteria.needs("area") and area_model is None and areas is None:
        raise InputError(
            "selecting by entropy area takes areas: --area-model computes them, --areas reads them from a manifest; "
            "to select without them give bounds, or --top with --by pass or --by length"
        )
    area = None
    if area_model is not None:
        from forkpoint.model import load_model, pick_device
        from forkpoint.tasks.prompts import load_tokenizer
        from forkpoint.train.locate import model_path

        path = model_path(area_model)
        area = area_of(
            load_model(path, dtype="auto", device=pick_device("auto")), load_tokenizer(path), template=template,
            stride=stride,
        )  # fmt: skip
    summary = select_rows(
        data, out, open_traces(answers, part=part), criteria,  # type: ignore[arg-type]
        id=id, split=split, config=config, area=area, areas=read_areas(areas) if areas is not None else None,
    )  # fmt: skip
    if as_json:
        typer.echo(json_text(summary))
        return
    typer.echo(f"kept {summary['kept']} of {summary['rows']} rows: {out}")
    for reason, count in summary["dropped"].items():
        typer.echo(f"  {count} dropped: {reason}")
    typer.echo(f"why, row by row: {out.with_name(out.stem + '.manifest.jsonl')}")


def merge(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Folders or runs whose changes to take.")],
    base: Annotated[str, typer.Option("--base", help="The checkpoint they are taken into; it may be a MODEL.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the samples that give thresholds of large tensors.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Merge checkpoints: the important changes of one are taken over into the other, tensor by tensor.

    forkpoint merge runs/math runs/code --base runs/code --out merged
    """
    from forkpoint.merge.checkpoints import merge as merge_checkpoints

    with _bar("tensors") as progress:
        report = merge_checkpoints(models, base, out, seed=seed, progress=progress)
    if as_json:
        typer.echo(json_text(report))
        return
    fused = [row["from"] for row in report["tensors"].values() if "from" in row]
    total = sum(map(sum, fused)) or 1
    for number, one in enumerate(report["checkpoints"]):
        share = sum(row[number] for row in fused) / total
        typer.echo(f"{100 * share:6.2f} % of the weights from {one['path']}")
        for name, values in one["config_differences"].items():
            typer.echo(f"  its {name} is {values[1]!r}, the base's {values[0]!r} is kept")
    typer.echo(f"written to {out}")


def _planned(
    names: Sequence[str],
    data: Path | None,
    given: dict[str, Any],
    question: str | None,
    answer: str | None,
    id: str | None,
    verifier: str | None,
    limit: int | None,
    place: str | None,
) -> list[tuple[Benchmark, Problems, Drawing]]:
    """Return what is to be evaluated, everything read and checked before a model is loaded."""
    from forkpoint.evaluate.benchmark import PLACES, Drawing, custom_benchmark, load_benchmark, load_problems
    from forkpoint.evaluate.judges import make_judge

    if place not in (None, *PLACES):
        raise InputError(f"--place {place!r} is none of {', '.join(PLACES)}")
    if data is not None and len(names) > 1 and not data.is_dir():
        raise InputError(f"{data} is one file and {len(names)} benchmarks are named: give a folder with a file of each")
    if not names and data is not None:
        fields = {"question": question or "question", "answer": answer or "answer", "id": id}
        benchmarks = [custom_benchmark(data, **fields, verifier=verifier or "math")]  # type: ignore[arg-type]
    elif question or answer or id or verifier:
        raise InputError(
            "a benchmark names its own fields and verifier: leave out --question, --answer, --id and --verifier, or "
            "--benchmark"
        )
    else:
        benchmarks = [load_benchmark(name) for name in names]
    planned = []
    for one in benchmarks:
        make_judge(one)
        changed = {name: value for name, value in given.items() if value is not None}
        drawing = Drawing.checked(one.sampling, changed)
        planned.append((one, load_problems(one, data, limit=limit, place=place), drawing))
    return planned


def _answerer(
    target: str,
    *,
    model: str | None,
    api: str,
    concurrency: int,
    top_logprobs: int,
    template: str,
    slots: int,
    dtype: str,
    device: str,
) -> Callable[[Drawing], Answerer]:
    from forkpoint.evaluate.endpoint import EndpointSettings, is_url, open_endpoint
    from forkpoint.evaluate.sources import LocalSettings, open_local

    if not is_url(target):
        if model is not None:
            raise InputError(f"--model names a model of a server, and {target} is none: leave it out")
        return open_local(target, LocalSettings(template=template, slots=slots, dtype=dtype, device=device))
    if api not in ("chat", "completions"):
        raise InputError(f"--api {api!r} is none of chat, completions")
    settings = EndpointSettings(
        model=model, api=api, concurrency=concurrency, top_logprobs=top_logprobs,  # type: ignore[arg-type]
    )  # fmt: skip
    return open_endpoint(target, settings)


def _evaluate_recipe(target: str, overrides: Sequence[str], *, as_json: bool) -> None:
    from forkpoint.evaluate.benchmark import shipped
    from forkpoint.evaluate.endpoint import is_url

    if is_url(target) or Path(target).is_dir() or not (target.endswith(".toml") or Path(target).exists()):
        raise InputError(
            f"{target} is no recipe: say on what to measure it, with --data or --benchmark ({', '.join(shipped())})"
        )
    from forkpoint.train.measure import evaluate_model
    from forkpoint.train.recipe import load_recipe

    metrics = evaluate_model(load_recipe(target, overrides)).metrics()
    typer.echo(json_text(metrics) if as_json else accuracy_text(metrics))


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows (finished, total) on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda finished, total: bar.update(task, completed=finished, total=total)
