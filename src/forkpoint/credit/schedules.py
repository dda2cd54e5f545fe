"""Schedules: any number in a chain as a function of how often it was used, saved with the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Chain, Link, State, chain, check_needs
from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Credit, Rollouts

Schedule = Callable[[int], float]
"""How often before (0, 1, …) to the value now: a pure function."""


def linear(start: float, stop: float, steps: int, delay: int = 0) -> Schedule:
    """Return start + (stop - start) u with u rising evenly from 0 to 1 over `steps` uses after `delay`.

    >>> [linear(2.0, -2.0, steps=4)(n) for n in (0, 1, 4, 9)]
    [2.0, 1.0, -2.0, -2.0]
    """
    return _moving(start, stop, steps, delay, lambda u: u)


def cosine(start: float, stop: float, steps: int, delay: int = 0) -> Schedule:
    """Return start + (stop - start) (1 - cos π u) / 2 with u as in `linear`: slow at both ends.

    >>> [round(cosine(0.0, 1.0, steps=4)(n), 3) for n in (0, 1, 2, 4)]
    [0.0, 0.146, 0.5, 1.0]
    """
    return _moving(start, stop, steps, delay, lambda u: (1 - math.cos(math.pi * u)) / 2)


def power(start: float, stop: float, steps: int, delay: int = 0, exponent: float = 2.0) -> Schedule:
    """Return start + (stop - start) u^exponent with u as in `linear`.

    >>> [power(0.0, 1.0, steps=4)(n) for n in (0, 2, 4)]
    [0.0, 0.25, 1.0]
    """
    check_number("schedule", "exponent", exponent, low=0, open_low=True)
    return _moving(start, stop, steps, delay, lambda u: u**exponent)


def geometric(start: float, stop: float, steps: int, delay: int = 0) -> Schedule:
    """Return start (stop / start)^u with u as in `linear`; start and stop have one sign.

    >>> [round(geometric(1.0, 0.01, steps=2)(n), 3) for n in (0, 1, 2)]
    [1.0, 0.1, 0.01]
    """
    if not start * stop > 0:
        raise InputError(f"a geometric schedule from {start} to {stop} needs two numbers of one sign, neither 0")
    return _moving(0.0, 1.0, steps, delay, lambda u: u, through=lambda u: start * (stop / start) ** u)


def _moving(
    start: float,
    stop: float,
    steps: int,
    delay: int,
    shape: Callable[[float], float],
    through: Callable[[float], float] | None = None,
) -> Schedule:
    for name, value in (("start", start), ("stop", stop)):
        check_number("schedule", name, value)
    check_number("schedule", "steps", steps, low=1)
    check_number("schedule", "delay", delay, low=0)

    def at(calls: int) -> float:
        u = min(1.0, max(0.0, (calls - delay) / steps))
        # Both ends exactly: start + (stop - start) may round.
        value = stop if u == 1 else start + (stop - start) * shape(u)
        return value if through is None else through(value)

    return at


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "power": power,
    "geometric": geometric,
}
"""Schedules by the name a recipe uses: `share = {schedule = "linear", start = 1.0, stop = 0.2, steps = 100}`."""


def is_schedule(value: object) -> bool:
    """Return whether a value from a recipe describes a schedule."""
    return isinstance(value, Mapping) and "schedule" in value


def schedule_of(table: Mapping[str, Any]) -> Schedule:
    """Return the schedule that a recipe's table describes.

    Raises:
        InputError: an unknown schedule, or an argument that is unknown, missing or out of range.

    >>> schedule_of({"schedule": "linear", "start": 0.0, "stop": 1.0, "steps": 10})(5)
    0.5
    """
    given = dict(table)
    kind = given.pop("schedule")
    check_choice("the recipe", "schedule", kind, SCHEDULES)
    valid = ["start", "stop", "steps", "delay", *(["exponent"] if kind == "power" else [])]
    for name in given:
        if name not in valid:
            raise InputError(f"schedule {kind!r} has no argument {name!r}: {did_you_mean(name, valid)}")
    for name in ("start", "stop", "steps"):
        if name not in given:
            raise InputError(f"schedule {kind!r} needs {name}: add {name} = … to its table")
    return SCHEDULES[kind](**given)


PROBES = (0, 1, 10, 100, 1000, 10**6)
"""Counts at which a chain is built once, to see that every value of a schedule is legal where it passes them."""


def scheduled_chain(make: Callable[..., Chain | Link], **arguments: Any) -> Chain:
    """Return the chain of a method or link whose numbers may be schedules.

    Every link counts for itself how often it ran: in rollout batches if it runs once for each, in optimiser updates
    otherwise. The count is its state and is saved with the run; a link's own state is kept beside it.

    Args:
        make: a method such as `forking`, or a link such as `top_entropy`.
        arguments: its arguments; a callable value is a schedule.

    Raises:
        InputError: a schedule changes which links there are, or moves a regulariser with gradient of its own.

    >>> from forkpoint.methods import forking
    >>> moving = scheduled_chain(forking, share=linear(1.0, 0.2, steps=100))
    >>> moving.links[-1].name, moving.links[-1].arguments["share"], moving.links[-1].init()
    ('scheduled(top_entropy)', 'schedule', {'calls': 0, 'inner': {}})
    """

    def at(calls: int) -> Chain:
        return chain(make(**{name: value(calls) if callable(value) else value for name, value in arguments.items()}))

    if not any(callable(value) for value in arguments.values()):
        return at(0)
    seen = [at(calls) for calls in PROBES]
    for other in seen[1:]:
        if [link.name for link in other.links] != [link.name for link in seen[0].links]:
            raise InputError(
                "a schedule may not change which links a chain has: "
                f"{[link.name for link in seen[0].links]} becomes {[link.name for link in other.links]}"
            )
    return Chain(
        links=tuple(_scheduled(index, at, [part.links[index] for part in seen]) for index in range(len(seen[0].links)))
    )


def _scheduled(index: int, at: Callable[[int], Chain], seen: list[Link]) -> Link:
    """Return link `index` of a moving chain; itself where none of its arguments moves."""
    first = seen[0]
    moves = {name for name, value in first.arguments.items() if any(x.arguments.get(name) != value for x in seen[1:])}
    if not moves:
        return first
    if first.regularise is not None:
        raise InputError(f"link {first.name!r} is a regulariser with gradient of its own and cannot be scheduled")

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **kwargs: Any) -> tuple[Credit, State]:
        inner = at(state["calls"]).links[index]
        check_needs(inner, rollouts, kwargs.get("forward"))
        credit, kept = inner.update(credit, rollouts, state=state["inner"], **kwargs)
        return credit, {"calls": state["calls"] + 1, "inner": dict(kept)}

    return dataclasses.replace(
        first,
        name=f"scheduled({first.name})",
        arguments={name: "schedule" if name in moves else value for name, value in first.arguments.items()},
        needs=frozenset().union(*(link.needs for link in seen)),
        update=update,
        init=lambda: {"calls": 0, "inner": dict(first.init())},
    )
