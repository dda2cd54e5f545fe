"""Recipes: TOML files with dotted overrides, checked and resolved into one frozen value.

The models themselves are in `forkpoint.train.schema`; this module reads, overrides, explains errors and
turns the `[credit]` part into a chain.
"""

from __future__ import annotations

import inspect
import re
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from forkpoint.credit import LINKS, Chain, Link, chain
from forkpoint.credit.schedules import is_schedule, schedule_of, scheduled_chain
from forkpoint.errors import InputError, did_you_mean
from forkpoint.methods import all_methods
from forkpoint.train.explain import explain
from forkpoint.train.schema import MethodTable, Recipe

__all__ = ["Recipe", "credit_chain", "load_recipe", "parse_override", "resolved"]


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    methods: Mapping[str, Callable[..., Chain]] | None = None,
    links: Mapping[str, Callable[..., Link]] = LINKS,
) -> Recipe:
    """Read a recipe, apply `key=value` overrides, check everything and make local paths absolute.

    Args:
        path: a TOML file.
        overrides: `dotted.name=value`; the value is read as TOML and taken as text where it is not. A number
            in the name indexes the `[[credit]]` tables: `credit.2.share=0.1`.
        methods: named methods by name; None takes those that ship and those of installed packages.
        links: links by name.

    Returns:
        The recipe, whose credit is known to build a chain.

    Raises:
        InputError: a file, key, value or path cannot be used; up to five mistakes, a line each.
    """
    path = Path(path)
    table = _read_toml(path)
    for text in overrides:
        _override(table, text, path)
    try:
        recipe = Recipe.model_validate(table)
    except ValidationError as error:
        raise InputError(explain(error, path)) from None
    recipe = _localise(recipe, path)
    built = credit_chain(recipe, methods=methods, links=links)
    lonely = next((link.name for link in built.links if link.scope == "group"), None)
    if lonely and recipe.train.group < 2:
        raise InputError(f"link {lonely!r} compares the answers to one prompt: train.group must be at least 2")
    return recipe


def credit_chain(
    recipe: Recipe,
    *,
    methods: Mapping[str, Callable[..., Chain]] | None = None,
    links: Mapping[str, Callable[..., Link]] = LINKS,
) -> Chain:
    """Return the chain that the recipe's `[credit]` describes.

    Raises:
        InputError: an unknown method, link or argument (the message names the nearest valid one), or a value
            that the function refuses.
    """
    credit = recipe.credit
    if isinstance(credit, MethodTable):
        return _call("method", credit.method, credit.arguments, all_methods() if methods is None else methods)
    return chain(*(_call("link", table.link, table.arguments, links) for table in credit))


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON-ready tables with every default written out."""
    return recipe.model_dump(mode="json")


def parse_override(text: str) -> tuple[list[str], Any]:
    """Return the name parts and the value of one `dotted.name=value`.

    >>> parse_override("train.lr=1e-4"), parse_override("credit.method=grpo")
    ((['train', 'lr'], 0.0001), (['credit', 'method'], 'grpo'))

    Raises:
        InputError: there is no `=` or a part of the name is empty.
    """
    name, equals, value = text.partition("=")
    parts = [part.strip() for part in name.split(".")]
    if not equals or not all(parts):
        raise InputError(f"override {text!r} must read name=value, for example train.lr=1e-4")
    try:
        found = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return parts, value
    return parts, found["value"] if len(found) == 1 else value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        near = (
            [other.name for other in path.parent.glob("*.toml") if other.name != "pyproject.toml"]
            if path.parent.is_dir()
            else []
        )
        hint = f": {did_you_mean(path.name, near)}" if near else ""
        raise InputError(f"recipe {path} does not exist{hint}") from None
    except IsADirectoryError:
        raise InputError(f"recipe {path} is a directory: name a .toml file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"recipe {path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = f"line {place[1]}, column {place[2]}" if place else "the last line"
        reason = re.sub(r" \(at .*\)$", "", str(error))
        raise InputError(f"recipe {path} is not valid TOML: {where}: {reason}") from None


def _override(table: dict[str, Any], text: str, path: Path) -> None:
    """Write one override into the raw table."""
    parts, value = parse_override(text)
    if parts == ["credit", "method"]:
        _check_swap(table.get("credit"), value, path)
    node: Any = table
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                place = ".".join(parts[:depth])
                raise InputError(f"override {text!r}: {place} is a list of {len(node)} tables, numbered from 0")
            if last:
                node[int(part)] = value
            else:
                node = node[int(part)]
        elif not isinstance(node, dict):
            raise InputError(f"override {text!r}: {'.'.join(parts[:depth])} is a value and holds no {part!r}")
        elif last:
            node[part] = value
        else:
            node = node.setdefault(part, {})


def _check_swap(credit: Any, method: Any, path: Path) -> None:
    """Refuse to give one method's arguments to another; they may share a name and not a meaning."""
    remedy = f"write credit='{{method=\"{method}\"}}' to replace the whole table"
    if isinstance(credit, list):
        raise InputError(f"credit.method={method}: {path} spells out a chain of links; {remedy}")
    if not isinstance(credit, dict) or credit.get("method") == method:
        return
    inherited = [name for name in credit if name != "method"]
    if inherited:
        raise InputError(
            f"credit.method={method}: {path} has method {credit.get('method')!r} with its own "
            f"{', '.join(inherited)}, which {method!r} would inherit; {remedy}"
        )


def _call(kind: str, name: str, arguments: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> Any:
    """Call a method or link by name after checking its arguments against its signature."""
    if name not in functions:
        raise InputError(f"unknown {kind} {name!r} in [credit]: {did_you_mean(name, functions)}")
    function = functions[name]
    parameters = inspect.signature(function).parameters
    types = typing.get_type_hints(function)
    moving: dict[str, Any] = {}
    for key, value in arguments.items():
        if key not in parameters:
            # The table's own key may be what was meant: `credit.methud=grpo`.
            hint = did_you_mean(key, [*parameters, kind]) if parameters else "it takes none"
            raise InputError(f"{kind} {name!r} has no argument {key!r}: {hint}")
        moving[key] = schedule_of(value) if is_schedule(value) else value
        at_first = moving[key](0) if callable(moving[key]) else value
        _check_type(f"{kind} {name!r}: {key}", at_first, types.get(key, Any))
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise InputError(f"{kind} {name!r} needs the argument {key!r}: add {key} = … to its [credit] table")
    return scheduled_chain(function, **moving) if any(map(callable, moving.values())) else function(**arguments)


def _check_type(what: str, value: Any, annotation: Any) -> None:
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "literal_error":
            options = re.findall(r"'([^']*)'", first["ctx"]["expected"])
            raise InputError(f"{what} = {value!r} is unknown: {did_you_mean(str(value), options)}") from None
        reason = first["msg"].replace("Input should be", "must be")
        raise InputError(f"{what} = {value!r}: {reason[0].lower()}{reason[1:]}") from None


def _localise(recipe: Recipe, path: Path) -> Recipe:
    """Make paths that exist absolute, and stop at one that looks local and does not exist."""
    bases = _bases(path)
    model = recipe.model.model_copy(update={"path": _find("model.path", recipe.model.path, bases)})
    task = recipe.task.model_copy(
        update={key: _find(f"task.{key}", getattr(recipe.task, key), bases) for key in ("train", "heldout")}
    )
    reference = recipe.reference.model_copy(update={"path": _find("reference.path", recipe.reference.path, bases)})
    columns = recipe.columns
    if columns.program is not None:
        file, _, function = columns.program.rpartition(":")
        columns = columns.model_copy(update={"program": f"{_find('columns.program', file, bases)}:{function}"})
    return recipe.model_copy(update={"model": model, "task": task, "reference": reference, "columns": columns})


def _bases(path: Path) -> list[Path]:
    """Return the folders a relative path may start from: here, then the recipe's repository or folder."""
    folder = path.resolve().parent
    roots = (up for up in (folder, *folder.parents) if (up / "pyproject.toml").exists() or (up / ".git").exists())
    return list(dict.fromkeys((Path.cwd(), next(roots, folder))))


def _find(name: str, value: str | None, bases: Sequence[Path]) -> str | None:
    if value is None:
        return None
    places = [(base / Path(value).expanduser()).resolve() for base in bases]
    for place in dict.fromkeys(places):
        if place.exists():
            return str(place)
    if _looks_local(value, bases):
        looked = " and at ".join(str(place) for place in dict.fromkeys(places))
        raise InputError(f"{name} = {value!r} does not exist; looked at {looked}: correct the path")
    return value


def _looks_local(value: str, bases: Sequence[Path]) -> bool:
    """Return whether a name cannot be meant as `owner/name` on a hub."""
    first, *rest = value.split("/")
    suffixes = (".jsonl", ".json", ".parquet", ".csv", ".safetensors", ".py")
    return (
        value.startswith((".", "/", "~"))
        or "\\" in value
        or len(rest) > 1
        or value.endswith(suffixes)
        or (bool(rest) and any((base / first).is_dir() for base in bases))
    )
