"""What a run would do, told before it does anything: the resolved recipe, its chain and its size."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from forkpoint.errors import InputError
from forkpoint.train.estimate import Estimate, estimate, read_model_config
from forkpoint.train.needs import check_chain
from forkpoint.train.recipe import credit_chain, resolved
from forkpoint.train.schema import Recipe


def plan(recipe: Recipe) -> dict[str, Any]:
    """Return a JSON-ready account of a run: `recipe`, `chain`, `estimate` and `note`.

    `note` says why the estimate has no bytes, or is None.

    Raises:
        InputError: the run would be refused because its chain needs what nothing fills.
    """
    chain = credit_chain(recipe)
    check_chain(recipe, chain)
    note = None
    try:
        config = read_model_config(recipe)
    except InputError as error:
        config, note = None, f"no estimate of memory: {error}"
    return {
        "recipe": resolved(recipe),
        "chain": chain.describe(),
        "estimate": dataclasses.asdict(estimate(recipe, config)),
        "note": note,
    }


def render(account: Mapping[str, Any]) -> str:
    """Return a plan as TOML: the resolved recipe, with chain and estimate as comments, so it loads again."""
    lines = [to_toml(account["recipe"]).rstrip(), "", "# chain, in the order in which it runs"]
    for row in account["chain"]:
        arguments = ", ".join(f"{name} = {json.dumps(value)}" for name, value in row["arguments"].items())
        scope = f", scope {row['scope']}" if row["scope"] else ""
        needs = f", needs {', '.join(row['needs'])}" if row["needs"] else ""
        lines.append(f"#   {row['link']}({arguments})  in every {row['when']}{scope}{needs}")
    lines += ["", "# estimate, not a measurement (forkpoint.train.estimate has the formulas)"]
    lines += [f"#   {label:<20} {value:>15}" for label, value in Estimate(**account["estimate"]).rows()]
    if account["note"]:
        lines.append(f"#   {account['note']}")
    return "\n".join(lines) + "\n"


def to_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """Return JSON-like tables as TOML; what is None is left out, as TOML has no null.

    >>> print(to_toml({"name": "x", "model": {"path": "p", "revision": None}}), end="")
    name = "x"
    <BLANKLINE>
    [model]
    path = "p"
    """
    lines = [f"{key} = {_value(value)}" for key, value in table.items() if _is_plain(value)]
    for key, value in table.items():
        if isinstance(value, Mapping) and any(item is not None for item in value.values()):
            lines += ["", f"[{prefix}{key}]", to_toml(value, f"{prefix}{key}.").rstrip()]
        elif _is_tables(value):
            for row in value:
                lines += ["", f"[[{prefix}{key}]]", to_toml(row, f"{prefix}{key}.").rstrip()]
    return "\n".join(lines) + "\n"


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping) and not _is_tables(value)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value) if isinstance(value, bool) else repr(value)
