"""`forkpoint select` and `merge`: arguments to the library, results to lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkpoint.cli_eval_text import bar
from forkpoint.cli_text import json_text
from forkpoint.errors import InputError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def select(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Problems: a file, a folder of splits, a hub data set.")],
    answers: Annotated[
        Path, typer.Option("--answers", help="Graded answers or a trace: what the problems are judged by.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Rows that are kept: .jsonl, or .parquet of parquet.")],
    id: Annotated[str | None, typer.Option("--id", help="Field that names a problem.")] = None,
    split: Annotated[str | None, typer.Option("--split")] = None,
    config: Annotated[str | None, typer.Option("--config", help="Of a hub data set.")] = None,
    part: Annotated[str | None, typer.Option("--part", help="Of a run: rollouts (the default) or evals.")] = None,
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
    from forkpoint.analyze.traces.sources import is_run
    from forkpoint.selection.choose import Criteria
    from forkpoint.selection.problems import area_of, open_answers
    from forkpoint.selection.select import check_outputs, read_areas
    from forkpoint.selection.select import select as select_rows

    if part not in (None, "rollouts", "evals"):
        raise InputError(f"--part {part!r} is neither rollouts nor evals")
    if part is not None and answers.exists() and not is_run(answers):
        raise InputError(f"--part names a part of a run, and {answers} is none: leave it out")
    if split is not None and Path(data).is_file():
        raise InputError(f"--split names a split of a folder or hub data set, and {data} is one file: leave it out")
    if config is not None and Path(data).exists():
        raise InputError(f"--config is of a hub data set, and {data} lies here: leave it out")
    criteria = Criteria(
        min_pass=min_pass, max_pass=max_pass, mixed=mixed, min_length=min_length, max_length=max_length,
        min_area=min_area, max_area=max_area, top=top, by=by, lowest=lowest,  # type: ignore[arg-type]
    )  # fmt: skip
    if criteria.needs("area") and area_model is None and areas is None:
        raise InputError(
            "selecting by entropy area takes areas: --area-model computes them, --areas reads them from a manifest; "
            "to select without them give bounds, or --top with --by pass or --by length"
        )
    check_outputs(out, [answers, *([areas] if areas is not None else [])])
    known = read_areas(areas) if areas is not None else None
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
        data, out, open_answers(answers, part=part or "rollouts"), criteria,  # type: ignore[arg-type]
        id=id, split=split, config=config, area=area, areas=known,
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

    with bar("tensors") as progress:
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
