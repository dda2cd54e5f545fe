"""`forkpoint methods`: the catalogue in the terminal, and methods drawn on a recorded batch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forkpoint.cli_text import json_text, methods_text
from forkpoint.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from forkpoint.credit import Chain

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Named = Annotated[str, typer.Argument(metavar="NAME", help="A method; arguments follow a colon: forking:share=0.1")]


def overview(context: typer.Context, as_json: AsJson = False) -> None:
    """List the methods with their papers and equations; show or plot one."""
    if context.invoked_subcommand is None:
        catalogue(as_json)


def catalogue(as_json: AsJson = False) -> None:
    """List the methods with their papers and equations."""
    from forkpoint.methods import describe

    rows = describe()
    typer.echo(json_text(rows) if as_json else methods_text(rows))


def show(name: Named, as_json: AsJson = False) -> None:
    """Print what one method is: equation, defaults, links, source.

    forkpoint methods show steer

    forkpoint methods show steer:low=0.9
    """
    from forkpoint.methods import all_methods, describe_method

    plain, given = parsed(name)
    methods = all_methods()
    if plain not in methods:
        raise InputError(f"unknown method {plain!r}: {did_you_mean(plain, methods)}")
    row = describe_method(plain, methods[plain])
    chain = chain_of(name, plain, dict.fromkeys(row["required"], 1.0) | given).describe()
    open_ = [argument for argument in row["required"] if argument not in given]
    typer.echo(json_text({**row, "chain": chain}) if as_json else method_text(row, chain, open_))


def plot(
    name: Named,
    other: Annotated[str | None, typer.Argument(metavar="[NAME2]", help="A second method to compare with.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="A run directory with recorded rollouts.")] = None,
    step: Annotated[int | None, typer.Option("--step", help="Which step's rollouts; the last.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Who wrote the answers: gives what is not recorded, in one pass.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Model that a KL term of the method pulls towards.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")] = Path("methods.html"),
) -> None:
    """Draw the credit that one or two methods give to a recorded rollout batch: one HTML page.

    forkpoint methods plot forking steer --run runs/demo --out compared.html

    forkpoint methods plot forking:share=0.1 forking:share=0.5 --run runs/demo

    forkpoint methods plot siren lp_reg --run runs/demo --step 1 --model models/countdown
    """
    from forkpoint.analyze.views.methods_page import plot_methods

    if run is None:
        raise InputError("name the run whose answers to credit: --run runs/demo")
    texts = [name, *([other] if other is not None else [])]
    if len(set(texts)) < len(texts):
        raise InputError(f"{name} stands there twice: name two methods, or one with other arguments")
    chains = {}
    for text in texts:
        plain, given = parsed(text)
        chains[text] = chain_of(text, plain, given)
    typer.echo(f"page  {plot_methods(chains, run, out, step=step, model=model, reference=reference)}")


def rocks(
    answers: Annotated[
        list[Path],
        typer.Argument(metavar="ANSWERS...", help="A run or JSONL of the student's own answers; two are kept apart."),
    ],
    student: Annotated[list[str], typer.Option("--student", help="Who wrote them; one for all, or one a set.")],
    teacher: Annotated[str, typer.Option("--teacher", help="Directory or hub name.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the ids, a JSON list.")] = Path("rocks.json"),
    count: Annotated[int, typer.Option("--count", help="Ids to write at most.")] = 100,
    skip: Annotated[int, typer.Option("--skip", help="Most frequent ids that are left out.")] = 5,
    temperature: Annotated[float, typer.Option("--temperature", help="Divides the logits of both models.")] = 1.0,
    template: Annotated[
        str, typer.Option("--template", help="auto, none, chat, boxed, or text with {question}.")
    ] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or auto.")] = "float32",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0 is every core.")] = 0,
    head: Annotated[str, typer.Option("--head", help="fused, or plain: logits as the models compute them.")] = "fused",
    as_json: AsJson = False,
) -> None:
    """Find rock tokens: ids on which a student stays far from its teacher, for `sft --leave-out` and `rock_tokens`.

    forkpoint methods rocks runs/student --student models/student --teacher models/teacher --out rocks.json

    forkpoint sft data.jsonl --model models/student --steps 100 --leave-out rocks.json

    forkpoint train recipes/methods/rock_tokens.toml "credit.ids=$(cat rocks.json)"
    """
    import json

    from forkpoint.train.files import atomic_file, disk_errors
    from forkpoint.train.offline_rocks import RockSettings, find_rocks

    if head not in ("fused", "plain"):
        raise InputError(f"--head {head!r} is neither fused nor plain")
    settings = RockSettings(
        temperature=temperature, template=template, count=count, skip=skip, device=device, dtype=dtype,
        threads=threads, head=head,  # type: ignore[arg-type]
    )  # fmt: skip
    found, tokens, kl, tokenizer = find_rocks(answers, student, teacher, settings)
    with disk_errors(out.name, out.parent, "nothing else was written"), atomic_file(out) as temporary:
        temporary.write_text(json.dumps([rock.id for rock in found]) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json_text({"ids": out, "share_of_tokens": tokens, "share_of_kl": kl, "rocks": found}))
        return
    for line in rocks_text([(rock, tokenizer.decode([rock.id])) for rock in found[:10]]):
        typer.echo(line)
    typer.echo(f"{len(found)} ids: {tokens:.1%} of the tokens, {kl:.1%} of the KL to the teacher")
    typer.echo(f"ids  {out}")


def rocks_text(rocks: Sequence[tuple[Any, str]]) -> list[str]:
    """Return rocks with their texts as lines."""
    from forkpoint.analyze.text import visible

    lines = [f"{'id':>8}  {'times':>8}  {'mean KL':>8}  {'total':>8}  token"] if rocks else []
    return lines + [
        f"{rock.id:>8}  {rock.frequency:>8}  {rock.mean:>8.3f}  {rock.score:>8.3f}  {visible(text)!r}"
        for rock, text in rocks
    ]


def chain_of(text: str, name: str, arguments: Mapping[str, Any]) -> Chain:
    """Return a method's chain, its arguments checked as those of a recipe are.

    Raises:
        InputError: an unknown method or argument, a value it refuses, or an argument without a default is missing.
    """
    from forkpoint.methods import all_methods, describe_method
    from forkpoint.train.recipe import credit_chain
    from forkpoint.train.schema import MethodTable, ModelTable, Recipe, TrainTable

    methods = all_methods()
    required = describe_method(name, methods[name])["required"] if name in methods else []
    missing = [argument for argument in required if argument not in arguments]
    if missing:
        raise InputError(
            f"{name} has no default for {', '.join(missing)}: write "
            f"{text}{',' if ':' in text else ':'}{','.join(f'{argument}=…' for argument in missing)}"
        )
    credit = MethodTable(method=name, **arguments)
    return credit_chain(Recipe(name="shown", model=ModelTable(path="."), train=TrainTable(steps=1), credit=credit))


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of `NAME` or `NAME:key=value,key=value`, values as in TOML.

    >>> parsed("forking:share=0.1,scope=mini,ties='count'")
    ('forking', {'share': 0.1, 'scope': 'mini', 'ties': 'count'})

    Raises:
        InputError: an argument that is not key=value.
    """
    name, _, rest = text.partition(":")
    given: dict[str, Any] = {}
    for part in filter(None, _split(rest)):
        key, sign, value = part.partition("=")
        if not sign or not key.strip() or not value.strip():
            raise InputError(f"{part!r} in {text!r} is no argument: write NAME:key=value,key=value")
        given[key.strip()] = _value(value.strip())
    return name, given


def _split(text: str) -> list[str]:
    """Return the parts between the commas that are not inside brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "[{") - (char in "]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def method_text(row: Mapping[str, Any], chain: list[dict[str, Any]], unset: list[str]) -> str:
    """Return one method as text: what it is, its equation, its arguments and its links."""
    paper = f"arXiv {row['paper']}" if row.get("paper") else "no paper"
    parts = [f"{row['name']}  ({paper}; {row['stage']})\n  {row['summary']}"]
    parts += ["\n".join(f"    {line}" for line in str(row.get("equation") or "").splitlines())]
    for title, key in (
        ("Reduces to", "reduces"), ("Confidence", "confidence"), ("Deviations", "deviations"), ("Source", "source"),
    ):  # fmt: skip
        parts += [f"{title}: {row[key]}"] if row.get(key) else []
    needs = ", ".join(row["needs"])
    parts += [f"Needs: {needs}" if needs else ""]
    lines = [f"  {key}  (no default: the source gives none)" for key in row["required"]]
    lines += [f"  {key} = {value!r}" for key, value in row["arguments"].items()]
    parts += ["Arguments:\n" + "\n".join(lines) if lines else "Arguments: none"]
    links = [
        f"  {link['link']}"
        + f"({', '.join(f'{k}={v!r}' for k, v in link['arguments'].items())})"
        + f"  [{link['when']}{', ' + link['scope'] if link['scope'] else ''}]"
        for link in chain
    ]
    shown = f" with {', '.join(f'{key}=1.0' for key in unset)}" if unset else ""
    parts += [f"Chain{shown}:\n" + "\n".join(links)]
    return "\n\n".join(part for part in parts if part.strip())
