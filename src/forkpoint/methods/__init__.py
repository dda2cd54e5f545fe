"""Named methods: one short file a paper, one function that returns a chain.

A method is a public function of a module beside this one, defined there, whose return annotation is `Chain`; a new
file is found without an entry anywhere. All its arguments are keywords with the paper's values as defaults; an
argument without a default is a number the source does not give, for which 1.0 must be legal. Its docstring holds, in
paragraphs of their own:

- a summary of one line, then the equation as an indented block;
- `Reduces to: …`, under which argument it is which other method;
- `Confidence: verified — why` or `Confidence: inspired — what is not from the source`;
- `Deviations: …` where implementations differ, or this one from its source;
- `Args:` with ranges and units, and `Source:` with the arXiv id first and equation numbers.

`describe` reads these. Every method also has `recipes/methods/NAME.toml`, `docs/methods/NAME.md` (written by
`python -m forkpoint.catalogue`), and in `tests/methods/test_MODULE.py` rows for the contracts and cases worked out by
hand. Type checkers follow `from forkpoint.methods.dapo import dapo`; `forkpoint.methods.dapo` is the function too.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from forkpoint.credit import Chain
from forkpoint.discovery import functions_returning
from forkpoint.errors import InputError, did_you_mean

METHODS: dict[str, Callable[..., Chain]] = functions_returning("Chain", __name__, __path__)
"""The methods that ship, by name."""
globals().update(METHODS)  # the function, not its module, where both have one name


def __getattr__(name: str) -> Any:
    raise AttributeError(f"there is no method {name!r}: {did_you_mean(name, METHODS)}")


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
    return [describe_method(name, method) for name, method in all_methods().items()]


def describe_method(name: str, method: Callable[..., Chain]) -> dict[str, Any]:
    """Return the row of one method: what its docstring and its chain with default arguments say."""
    doc = inspect.getdoc(method) or ""
    blocks = [block for block in doc.split("\n\n") if block.strip()]
    equation = next((block for block in blocks if block.startswith("    ")), "")
    source = section(doc, "Source")
    parameters = inspect.signature(method).parameters
    required = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    built = method(**dict.fromkeys(required, 1.0))
    return {
        "name": name,
        "summary": blocks[0].replace("\n", " ") if blocks else "",
        "equation": inspect.cleandoc(equation),
        "paper": " ".join(re.findall(r"\d{4}\.\d{5}", source)[:1]),
        "source": source,
        "reduces": section(doc, "Reduces to"),
        "confidence": section(doc, "Confidence"),
        "deviations": section(doc, "Deviations"),
        "stage": ", ".join(dict.fromkeys(link.stage or "credit" for link in built.links)),
        "needs": sorted(built.needs),
        "arguments": {key: parameter.default for key, parameter in parameters.items() if key not in required},
        "required": required,
        "links": [link.name for link in built.links],
    }


def section(doc: str, title: str) -> str:
    """Return the paragraph of a docstring that begins with `title:`, on one line; empty where there is none.

    >>> section(describe_method.__doc__ or "", "Return"), section("Sum.", "Source")
    ('', '')
    """
    found = re.search(rf"^{re.escape(title)}:(.*?)(?:\n\s*\n|\Z)", inspect.cleandoc(doc), re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


__all__ = ["METHODS", "all_methods", "describe", "describe_method", "method_chain", "section"]
