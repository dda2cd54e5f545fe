"""Finding functions by what they return, so that a new one needs no entry in any list."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any


def functions_returning(result: str, package: str, paths: Iterable[str], skip: Iterable[str] = ()) -> dict[str, Any]:
    """Return the public functions of a package's modules whose return annotation is `result`, by name.

    A function belongs to the module that defines it: imported names, names with a leading underscore and modules
    with one are left out.

    Args:
        result: the annotation as written, for example `Chain`.
        package: dotted name of the package.
        paths: its `__path__`.
        skip: modules that are not looked at.

    Raises:
        ImportError: two modules define the same name.
    """
    found: dict[str, Callable[..., Any]] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(paths)):
        if module.startswith("_") or module in skip:
            continue
        place = importlib.import_module(f"{package}.{module}")
        for name, function in vars(place).items():
            mine = inspect.isfunction(function) and function.__module__ == place.__name__
            if not mine or name.startswith("_") or function.__annotations__.get("return") != result:
                continue
            if name in found:
                raise ImportError(f"{found[name].__module__} and {place.__name__} both define {name!r}: rename one")
            found[name] = function
    return found
