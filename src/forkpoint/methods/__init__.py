"""Named methods: one short file a paper, one function that returns a chain."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from forkpoint.credit import Chain
from forkpoint.errors import InputError, did_you_mean
from forkpoint.methods.cispo import cispo
from forkpoint.methods.dapo import dapo
from forkpoint.methods.entropy_bonus import entropy_bonus
from forkpoint.methods.forking import forking
from forkpoint.methods.grpo import dr_grpo, grpo
from forkpoint.methods.gspo import gspo
from forkpoint.methods.reinforce_pp import reinforce_pp
from forkpoint.methods.rloo import rloo

METHODS: dict[str, Callable[..., Chain]] = {
    method.__name__: method for method in (grpo, dr_grpo, rloo, reinforce_pp, dapo, gspo, cispo, entropy_bonus, forking)
}
"""The methods that ship, by name."""


def all_methods() -> dict[str, Callable[..., Chain]]:
    """Return the methods that ship and those of installed packages (entry-point group `forkpoint.methods`).

    Raises:
        InputError: a package offers a method under a name that is taken.
    """
    found = dict(METHODS)
    for entry in entry_points(group="forkpoint.methods"):
        if entry.name in found:
            raise InputError(
                f"the package that provides method {entry.name!r} ({entry.value}) uses a name that is taken: "
                "ask its author to rename the entry point"
            )
        found[entry.name] = entry.load()
    return found


def method_chain(name: str, **arguments: Any) -> Chain:
    """Return the chain of a named method.

    Raises:
        InputError: unknown method or argument; the message names the nearest valid one.

    >>> [link.name for link in method_chain("forking", share=0.1).links]
    ['group_advantage', 'clip', 'aggregate', 'top_entropy']
    """
    methods = all_methods()
    if name not in methods:
        raise InputError(f"unknown method {name!r}: {did_you_mean(name, methods)}")
    valid = inspect.signature(methods[name]).parameters
    for argument in arguments:
        if argument not in valid:
            raise InputError(f"method {name!r} has no argument {argument!r}: {did_you_mean(argument, valid)}")
    return methods[name](**arguments)


def describe() -> list[dict[str, Any]]:
    """Return one JSON-ready row a method, read from its docstring and its chain."""
    return [_describe(name, method) for name, method in all_methods().items()]


def _describe(name: str, method: Callable[..., Chain]) -> dict[str, Any]:
    doc = inspect.getdoc(method) or ""
    blocks = [block for block in doc.split("\n\n") if block.strip()]
    equation = next((block for block in blocks if block.startswith("    ")), "")
    source = doc.split("Source:", 1)[1].split("\n\n")[0] if "Source:" in doc else ""
    stages = dict.fromkeys(
        "advantage" if "advantage" in link.name else _STAGES.get(link.name, "credit") for link in method().links
    )
    return {
        "name": name,
        "summary": blocks[0].replace("\n", " ") if blocks else "",
        "equation": inspect.cleandoc(equation),
        "paper": " ".join(re.findall(r"\d{4}\.\d{5}", source)[:1]),
        "source": " ".join(source.split()),
        "stage": ", ".join(stages),
        "needs": sorted(method().needs),
        "arguments": {key: parameter.default for key, parameter in inspect.signature(method).parameters.items()},
        "links": [link.name for link in method().links],
    }


_STAGES = {
    "clip": "clip",
    "dual_clip": "clip",
    "sequence_ratio": "ratio",
    "stop_ratio": "ratio",
    "aggregate": "aggregation",
    "top_entropy": "selection",
    "kl": "penalty",
    "entropy_bonus": "regulariser",
}

__all__ = [
    "METHODS",
    "all_methods",
    "cispo",
    "dapo",
    "describe",
    "dr_grpo",
    "entropy_bonus",
    "forking",
    "grpo",
    "gspo",
    "method_chain",
    "reinforce_pp",
    "rloo",
]
