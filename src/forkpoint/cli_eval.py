"""`forkpoint eval`: arguments to the library, results to lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forkpoint.cli_eval_text import bar, benchmarks_text, result_text, slug
from forkpoint.cli_text import accuracy_text, grade_summary, grade_text, json_text
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from forkpoint.evaluate.benchmark import Benchmark, Drawing, Problems
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
        str | None, typer.Option("--verifier", help="Who judges --data or --completions: math, choice, string, ...")
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
        str | None,
        typer.Option("--template", rich_help_panel=_HERE, help="auto (default), none, chat, or text with {question}."),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", rich_help_panel=_HERE, help="What decodes: embedded or vllm.")
    ] = "embedded",
    slots: Annotated[
        int | None, typer.Option("--slots", rich_help_panel=_HERE, help="Answers decoded at once; 64 if not given.")
    ] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", rich_help_panel=_HERE, help="auto if not given.")] = None,
    device: Annotated[str | None, typer.Option("--device", rich_help_panel=_HERE, help="auto if not given.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", rich_help_panel=_SERVER, help="The server's name of it.")
    ] = None,
    api: Annotated[
        str | None, typer.Option("--api", rich_help_panel=_SERVER, help="chat (the default) or completions.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", rich_help_panel=_SERVER, help="Requests under way at once; 16 if not given."),
    ] = None,
    top_logprobs: Annotated[
        int | None,
        typer.Option("--top-logprobs", rich_help_panel=_SERVER, help="Likely tokens to ask for; 0 if not given."),
    ] = None,
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
        str | None, typer.Option("--gold-extraction", rich_help_panel=_RECORDED, help="Where a reference has it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on benchmarks or on a recipe's held-out problems, or grade recorded completions.

    forkpoint eval runs/demo --benchmark countdown

    forkpoint eval Qwen/Qwen3-0.6B --benchmark aime24 --benchmark math500 --data problems/

    forkpoint eval Qwen/Qwen3-0.6B --benchmark aime24 --engine vllm

    forkpoint eval http://localhost:8000/v1 --data mine.jsonl --question question --answer answer

    forkpoint eval recipes/demo.toml model.path=runs/demo/checkpoints/step-00010

    forkpoint eval --completions answers.jsonl --answer gt --completion response
    """
    if listed:
        from forkpoint.evaluate.benchmark import described

        rows = described()
        typer.echo(json_text(rows) if as_json else benchmarks_text(rows))
        return
    here = {"template": template, "slots": slots, "dtype": dtype, "device": device}
    served = {"model": model, "api": api, "concurrency": concurrency, "top_logprobs": top_logprobs}
    given = {"samples": samples, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    if completions is not None:
        idle = {"--benchmark": benchmark, "--data": data, "--limit": limit, "--place": place, **given}
        _idle(idle | here | served, "changes nothing about recorded completions")
        if target is not None:
            raise InputError(f"give either {target} or --completions, not both")
        if answer is None or completion is None:
            raise InputError("--completions needs --answer and --completion: the fields to read")
        from forkpoint.evaluate.grade import grade_file

        graded = grade_file(
            completions, answer=answer, completion=completion, question=question, recorded=recorded, id=id, out=out,
            fresh=fresh, extraction=extraction, gold_extraction=gold_extraction, verifier=verifier or "math",
        )  # fmt: skip
        typer.echo(json_text(grade_summary(graded)) if as_json else grade_text(grade_summary(graded)))
        return
    _idle({"--completion": completion, "--recorded": recorded}, "names a field of a file given with --completions")
    if target is None:
        raise InputError("name a recipe, or a file of recorded answers with --completions, or a model with --benchmark")
    if not benchmark and data is None:
        if engine != "embedded":
            raise InputError(f"a recipe says what decodes: give decode.engine={engine} in place of --engine")
        _evaluate_recipe(target, overrides or [], as_json=as_json)
        return
    if overrides:
        raise InputError(f"{overrides[0]!r} changes a recipe, and a benchmark is not one: use the options of `eval`")
    planned = _planned(benchmark or [], data, given, question, answer, id, verifier, limit, place)
    answerer = _answerer(target, planned, engine, here, served)
    from forkpoint.evaluate import runner

    results = []
    for one, problems, drawing in planned:
        source = answerer(drawing)
        with bar(one.name) as progress:
            found = runner.evaluate(
                source, one, problems, out or Path("evals") / slug(source.name), drawing=drawing, seed=seed,
                place=place, fresh=fresh, progress=progress,  # type: ignore[arg-type]
            )  # fmt: skip
        results.append(found)
        if not as_json:
            typer.echo(result_text(results[-1]))
    if as_json:
        typer.echo(json_text([runner.summary(result) for result in results]))


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


def _idle(options: Mapping[str, Any], why: str) -> None:
    """Refuse an option that would change nothing."""
    for name, value in options.items():
        if value is not None:
            option = name if name.startswith("--") else "--" + name.replace("_", "-")
            raise InputError(f"{option} {why}: leave it out")


def _answerer(
    target: str,
    planned: Sequence[tuple[Benchmark, Problems, Drawing]],
    engine: str,
    here: Mapping[str, Any],
    served: Mapping[str, Any],
) -> Callable[[Drawing], Answerer]:
    """Return what answers, after refusing settings of the other kind of source; None is a setting's own default."""
    from forkpoint.evaluate.endpoint import EndpointSettings, is_url, open_endpoint
    from forkpoint.evaluate.sources import LocalSettings, open_local

    if engine not in ("embedded", "vllm"):
        raise InputError(f"--engine {engine!r} is none of embedded, vllm")
    if not is_url(target):
        _idle(served, f"is for a server, and {target} is none")
        local = LocalSettings(**{name: value for name, value in here.items() if value is not None})
        if engine == "embedded":
            return open_local(target, local)
        from forkpoint.evaluate.with_vllm import open_with_vllm

        return open_with_vllm(target, [(problems.prompts, drawing) for _, problems, drawing in planned], local)
    if engine != "embedded":
        raise InputError(f"--engine says what decodes a model here, and {target} is a server: leave it out")
    _idle(here, f"is for a model decoded here, and {target} is a server")
    if served["api"] not in (None, "chat", "completions"):
        raise InputError(f"--api {served['api']!r} is none of chat, completions")
    return open_endpoint(target, EndpointSettings(**{name: one for name, one in served.items() if one is not None}))


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
