"""`forkpoint methods`: the catalogue in the terminal, and methods drawn on a recorded batch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from forkpoint.cli_text import json_text, methods_text
from forkpoint.errors import InputError, did_you_mean

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
    from forkpoint.methods import all_methods, describe_method, method_chain

    plain, given = parsed(name)
    methods = all_methods()
    if plain not in methods:
        raise InputError(f"unknown method {plain!r}: {did_you_mean(plain, methods)}")
    row = describe_method(plain, methods[plain])
    chain = method_chain(plain, **dict.fromkeys(row["required"], 1.0) | given).describe()
    open_ = [argument for argument in row["required"] if argument not in given]
    typer.echo(json_text({**row, "chain": chain}) if as_json else method_text(row, chain, open_))


def plot(
    name: Named,
    other: Annotated[str | None, typer.Argument(metavar="[NAME2]", help="A second method to compare with.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="A run directory with recorded rollouts.")] = None,
    step: Annotated[int | None, typer.Option("--step", help="Which step's rollouts; the last.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")] = Path("methods.html"),
) -> None:
    """Draw the credit that one or two methods give to a recorded rollout batch: one HTML page.

    forkpoint methods plot forking steer --run runs/demo --out compared.html

    forkpoint methods plot forking:share=0.1 forking:share=0.5 --run runs/demo
    """
    from forkpoint.analyze.views.methods_page import plot_methods
    from forkpoint.methods import method_chain

    if run is None:
        raise InputError("name the run whose answers to credit: --run runs/demo")
    texts = [name, *([other] if other is not None else [])]
    if len(set(texts)) < len(texts):
        raise InputError(f"{name} stands there twice: name two methods, or one with other arguments")
    chains = {}
    for text in texts:
        plain, given = parsed(text)
        chains[text] = method_chain(plain, **given)
    typer.echo(f"page  {plot_methods(chains, run, out, step=step)}")


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
