"""Which problems to keep, and why: thresholds first, then the highest or lowest of what is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from forkpoint.errors import InputError
from forkpoint.selection.problems import Measured

By = Literal["area", "pass", "length"]
NAMES: Mapping[By, tuple[str, str]] = {
    "area": ("entropy area", "bits"), "pass": ("pass rate", ""), "length": ("length", "tokens"),
}  # fmt: skip
"""What each quantity is called, and its unit."""
_ORDER: tuple[By, ...] = ("pass", "length", "area")
_UNKNOWN: Mapping[By, str] = {
    "pass": "none of its answers was judged",
    "length": "the tokens of its answers are not known",
    "area": "no entropy area is known: its first answer has no box, or none was computed",
}


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """What a problem must fulfil. Bounds include their ends; None is no bound."""

    min_pass: float | None = None
    max_pass: float | None = None
    mixed: bool = False
    """Only problems with right and wrong answers, the ones a group advantage learns from."""
    min_length: float | None = None
    max_length: float | None = None
    min_area: float | None = None
    max_area: float | None = None
    top: int | None = None
    """How many problems to keep at most."""
    by: By = "area"
    """What `top` orders by."""
    lowest: bool = False
    """Keep the lowest instead of the highest."""

    def __post_init__(self) -> None:
        """Refuse criteria that no problem can fulfil, or that are none."""
        if self.by not in NAMES:
            raise InputError(f"{self.by!r} is nothing to order by: use one of {', '.join(NAMES)}")
        if self.top is not None and self.top < 1:
            raise InputError(f"top {self.top} keeps no problem: use 1 or more")
        for name in NAMES:
            low, high = self.bounds(name)
            for end, bound in (("min", low), ("max", high)):
                if bound is not None and not math.isfinite(bound):
                    raise InputError(f"--{end}-{name} {bound} bounds nothing: give a number, or leave it out")
                if bound is not None and name == "pass" and not 0 <= bound <= 1:
                    raise InputError(f"--{end}-pass {bound:g} is no share of right answers: give 0 to 1")
            if low is not None and high is not None and low > high:
                raise InputError(f"no {NAMES[name][0]} is at least {low:g} and at most {high:g}: swap the two")
        if not self.mixed and self.top is None and not any(any(b is not None for b in self.bounds(n)) for n in NAMES):
            raise InputError("there is nothing to select by: give a bound, or how many to keep at the top")

    def bounds(self, name: By) -> tuple[float | None, float | None]:
        """Return the lowest and highest value of a quantity."""
        return getattr(self, f"min_{name}"), getattr(self, f"max_{name}")

    def needs(self, name: By) -> bool:
        """Return whether a quantity decides anything."""
        wanted = self.top is not None and self.by == name
        return wanted or any(bound is not None for bound in self.bounds(name)) or (name == "pass" and self.mixed)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What became of one problem."""

    kept: bool
    reason: str
    """In a few words without numbers, to be counted."""
    why: str


def choose(ids: Sequence[str], found: Mapping[str, Measured], criteria: Criteria) -> list[Choice]:
    """Return the decision on every problem with its reason.

    A problem is dropped at the first bound it misses (pass rate, length, entropy area) or where a quantity that is
    asked for is not known. Of the rest the first `top` by value are kept; equal values keep the order of the data.

    Args:
        ids: problem ids in the order of the data.
        found: what is known of them.
        criteria: what is asked.

    >>> seen = {"a": Measured(answers=4, judged=4, right=1), "b": Measured(answers=4, judged=4, right=4)}
    >>> [choice.why for choice in choose(["a", "b", "c"], seen, Criteria(max_pass=0.5))]
    ['pass rate 0.25 is within bounds', 'pass rate 1 is above 0.5', 'no answer to it was recorded']
    """
    faults = [_fault(found.get(name), criteria) for name in ids]
    left = [index for index, fault in enumerate(faults) if fault is None]
    rank: dict[int, int] = {}
    if criteria.top is not None:
        sign = 1 if criteria.lowest else -1
        order = sorted(left, key=lambda index: sign * _value(found[ids[index]], criteria.by))
        rank = {index: place for place, index in enumerate(order, start=1)}
    return [
        fault or _ranked(found[name], criteria, rank.get(index), len(left))
        for index, (name, fault) in enumerate(zip(ids, faults, strict=True))
    ]


def _ranked(one: Measured, criteria: Criteria, place: int | None, of: int) -> Choice:
    """Return the decision on a problem within all bounds."""
    why = [f"{_said(one, name)} is within bounds" for name in _ORDER if _bounded(criteria, name)]
    kept = True
    if place is not None and criteria.top is not None:
        end = "lowest" if criteria.lowest else "highest"
        why.append(f"{_said(one, criteria.by)} is number {place} of {of} from the {end}")
        kept = place <= criteria.top
    return Choice(kept=kept, reason="kept" if kept else "not among the top", why="; ".join(why))


def _fault(one: Measured | None, criteria: Criteria) -> Choice | None:
    """Return why a problem is out before any ranking, or None."""
    if one is None:
        return Choice(kept=False, reason="not answered", why="no answer to it was recorded")
    for name in _ORDER:
        if not criteria.needs(name):
            continue
        value, label = _value(one, name), NAMES[name][0]
        low, high = criteria.bounds(name)
        if math.isnan(value):
            return Choice(kept=False, reason=f"{label} not known", why=_UNKNOWN[name])
        if low is not None and value < low:
            return Choice(kept=False, reason=f"{label} too low", why=f"{_said(one, name)} is below {low:g}")
        if high is not None and value > high:
            return Choice(kept=False, reason=f"{label} too high", why=f"{_said(one, name)} is above {high:g}")
        if name == "pass" and criteria.mixed and one.right in (0, one.judged):
            alike = "right" if one.right else "wrong"
            return Choice(kept=False, reason=f"all {alike}", why=f"all its {one.judged} judged answers are {alike}")
    return None


def _bounded(criteria: Criteria, name: By) -> bool:
    return any(bound is not None for bound in criteria.bounds(name)) or (name == "pass" and criteria.mixed)


def _value(one: Measured, name: By) -> float:
    return {"pass": one.pass_rate, "length": one.length, "area": one.area}[name]


def _said(one: Measured, name: By) -> str:
    label, unit = NAMES[name]
    return f"{label} {_value(one, name):.4g}{f' {unit}' if unit else ''}"
