"""What every study comes to: panels of a page, numbers for programs, lines for people."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forkpoint.analyze.views.page import Panel
from forkpoint.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Study:
    """The outcome of one study, or the reason why there is none."""

    name: str
    """Key among the numbers of `--json`."""
    panels: tuple[Panel, ...]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready."""
    lines: tuple[str, ...] = ()
    """The main results in words."""


def attempted(name: str, title: str, make: Callable[[], Study]) -> Study:
    """Return a study, or its reason in its place where it cannot be made: everything else still comes out."""
    try:
        return make()
    except InputError as error:
        reason = str(error).removesuffix(".")
        panel = Panel(title=title, caption="", absent=f"Not made: {reason}.")
        return Study(name=name, panels=(panel,), numbers={"absent": reason}, lines=(f"{title}: not made: {reason}",))


def noted(study: Study, notes: Sequence[str]) -> Study:
    """Return the study with notes on its first panel."""
    if not notes or not study.panels:
        return study
    first = study.panels[0]
    marked = dataclasses.replace(first, caption=" ".join([first.caption, *notes]).strip())
    return dataclasses.replace(study, panels=(marked, *study.panels[1:]))


def json_ready(value: Any) -> Any:
    """Return dataclasses, arrays and tuples as what JSON has; NaN and infinity become null.

    >>> json_ready({"a": np.array([1.0, float("nan")]), "b": (1, "x")})
    {'a': [1.0, None], 'b': [1, 'x']}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: json_ready(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return json_ready(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def percent(value: float) -> str:
    """Return a share in words.

    >>> percent(0.8667)
    '86.7 %'
    """
    return f"{100 * value:.1f} %"


def percents(value: float, low: float, high: float) -> str:
    """Return a share with its interval in words, without the interval where it is not known.

    >>> percents(0.5, 0.25, 0.75), percents(1.0, math.nan, math.nan)
    ('50.0 % (25.0 to 75.0)', '100.0 %')
    """
    interval = f" ({100 * low:.1f} to {100 * high:.1f})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{percent(value)}{interval}"
