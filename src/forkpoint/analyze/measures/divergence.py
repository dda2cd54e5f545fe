"""A test that intervenes: write a token anew, at a fork or elsewhere, and see whether the answer changes.

Entropy shows where a chain of thought could go another way; only writing it again shows whether it matters.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.bands import Interval, ratio_band
from forkpoint.analyze.measures.flat import Floats, check_share
from forkpoint.analyze.measures.interventions import (
    ACTIONS,
    PLACES,
    Action,
    Intervention,
    Outcome,
    Place,
    drawn_places,
    finished_ids,
    started_ids,
)
from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import EMBEDDED, Engine
from forkpoint.errors import InputError, did_you_mean
from forkpoint.seeds import generator


@dataclass(frozen=True, kw_only=True)
class Case:
    """One intervention: `samples` continuations from one position."""

    response: int
    position: int
    place: str
    action: str
    entropy: float
    """At the position, nats."""
    changed: int
    """Continuations whose outcome differs from the original's."""
    judged: int
    """Continuations whose outcome is known."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often the outcome changed, at one kind of place under one action."""

    place: str
    action: str
    changed: Interval
    """Mean over responses of the share of judged continuations that changed."""
    position: float
    """Mean relative position, in [0, 1): earlier places leave more to change."""
    entropy: float
    """Mean, nats."""
    responses: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Between two rates, paired by response."""

    first: tuple[str, str]
    """Place and action."""
    second: tuple[str, str]
    value: Interval
    """First minus second."""
    responses: int


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """What the interventions found."""

    rates: tuple[Rate, ...]
    differences: tuple[Difference, ...]
    """Fork against every other place under each action, and each action against `keep` at every place."""
    cases: tuple[Case, ...]
    skipped: int
    """Responses without a known original outcome or without a token."""
    unjudged: int
    """Continuations without a known outcome."""


def divergence_test(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    entropies: Sequence[ArrayLike],
    outcome: Outcome,
    sampling: Sampling,
    *,
    stream: Sequence[str | int],
    share: float = 0.2,
    positions: int = 2,
    samples: int = 2,
    places: Sequence[Place] = ("fork", "random"),
    actions: Sequence[Action] = ("redraw", "keep"),
    cluster: Sequence[Hashable] | None = None,
    level: float = 0.95,
    engine: Engine = EMBEDDED,
) -> Divergence:
    """Return how often an answer changes when it is written anew from a fork and from other positions.

    Where: `fork` draws among the max(1, ceil(share n)) tokens of highest entropy of a response, `random` among all
    its tokens, `near` takes, for every fork drawn, the closest token that is not in the top share, so that as much
    of the answer lies ahead. What: the answer up to the position is kept, and

        redraw   the token is drawn anew, and all after it
        keep     the token stays, only what comes after is drawn anew: how often the answer changes by itself
        swap     another token than the original is drawn, p restricted to the others, and all after it

    redraw - keep is the effect of drawing this token, swap - keep that of writing another one. Without `keep` a
    high rate at forks can be nothing but their place early in the answer.

    Args:
        model: the policy that wrote the responses.
        prompts: ids of the prompt of every response.
        responses: ids of every response, with the stop token if it wrote one.
        entropies: nats, one number a token of every response.
        outcome: what a response came to; asked for the originals too, and never to raise on what a model wrote.
        sampling: as the responses were sampled; `max_tokens` bounds a whole response, `stop_text` sees what is
            written anew.
        stream: key of all draws, for example (seed, "divergence").
        share: tokens that count as forks, in (0, 1].
        positions: places of each kind in a response, fewer where it has fewer tokens.
        samples: continuations of each intervention.
        places: kinds of places.
        actions: interventions.
        cluster: problem of every response; intervals draw problems then.
        level: coverage of the intervals.
        engine: what decodes; `swap` asks the model itself for the distribution at the place.

    Returns:
        Rates with intervals, paired differences, and every case.

    Raises:
        InputError: arguments that do not fit, greedy sampling (nothing is drawn anew), or no response to test.
    """
    _check(prompts, responses, entropies, sampling, places, actions, positions, samples)
    check_share(share)
    numbers = [response for response, ids in enumerate(responses) if len(ids)]
    first = outcome(numbers, [list(responses[response]) for response in numbers])
    original = {response: found for response, found in zip(numbers, first, strict=True) if found is not None}
    if not original:
        raise InputError("no response has a token and a known outcome, so there is nothing to intervene on")
    plan: list[Intervention] = []
    for response in original:
        values = _entropies(response, entropies[response], len(responses[response]))
        drawn = drawn_places(values, share, positions, places, generator(*stream, "place", response))
        plan += [(response, t, place, action) for place in places for t in drawn[place] for action in actions]
    requests = [(case, sample) for case in range(len(plan)) for sample in range(samples)]
    started = started_ids(model, prompts, responses, plan, requests, sampling, stream)
    written = finished_ids(model, prompts, responses, plan, requests, started, sampling, stream, engine)
    reached = outcome([plan[case][0] for case, _ in requests], written)
    judged, changed = np.zeros(len(plan), dtype=np.int64), np.zeros(len(plan), dtype=np.int64)
    for (case, _), found in zip(requests, reached, strict=True):
        judged[case] += found is not None
        changed[case] += found is not None and found != original[plan[case][0]]
    cases = tuple(
        Case(
            response=response,
            position=t,
            place=place,
            action=action,
            entropy=float(np.asarray(entropies[response])[t]),
            changed=int(changed[index]),
            judged=int(judged[index]),
        )
        for index, (response, t, place, action) in enumerate(plan)
    )
    lengths = [len(ids) for ids in responses]
    rates, differences = summarise(cases, lengths, cluster=cluster, level=level)
    return Divergence(
        rates=rates,
        differences=differences,
        cases=cases,
        skipped=len(responses) - len(original),
        unjudged=len(requests) - int(judged.sum()),
    )


def summarise(
    cases: Sequence[Case], lengths: Sequence[int], *, cluster: Sequence[Hashable] | None = None, level: float = 0.95
) -> tuple[tuple[Rate, ...], tuple[Difference, ...]]:
    """Return rates of every place and action, and paired differences, of cases.

    A response counts by its mean over its judged continuations of that kind. Intervals are bootstrap intervals
    over responses, or over problems where `cluster` names them.

    Args:
        cases: from `divergence_test`.
        lengths: tokens of every response.
        cluster: problem of every response.
        level: coverage.

    Returns:
        Rates and differences; a kind without a judged continuation is in neither.
    """
    by_kind: dict[tuple[str, str], dict[int, list[Case]]] = {}
    for case in cases:
        if case.judged:
            by_kind.setdefault((case.place, case.action), {}).setdefault(case.response, []).append(case)

    def mean(groups: dict[int, float]) -> Interval:
        units = None if cluster is None else _numbered([cluster[response] for response in groups])
        return ratio_band(list(groups.values()), np.ones(len(groups)), cluster_R=units, level=level).at(0)

    share = {
        kind: {r: sum(c.changed for c in found) / sum(c.judged for c in found) for r, found in groups.items()}
        for kind, groups in by_kind.items()
    }
    rates = tuple(
        Rate(
            place=kind[0],
            action=kind[1],
            changed=mean(share[kind]),
            position=float(np.mean([c.position / lengths[r] for r, found in groups.items() for c in found])),
            entropy=float(np.mean([c.entropy for found in groups.values() for c in found])),
            responses=len(groups),
            samples=sum(c.judged for found in groups.values() for c in found),
        )
        for kind, groups in by_kind.items()
    )
    pairs = [(("fork", action), (place, action)) for place, action in share if place != "fork"]
    pairs += [((place, action), (place, "keep")) for place, action in share if action != "keep"]
    differences = []
    for first, second in pairs:
        common = [r for r in share.get(first, {}) if r in share.get(second, {})]
        if common:
            value = mean({r: share[first][r] - share[second][r] for r in common})
            differences.append(Difference(first=first, second=second, value=value, responses=len(common)))
    return rates, tuple(differences)


def _numbered(names: Sequence[Hashable]) -> NDArray[np.int64]:
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names], dtype=np.int64)


def _check(
    prompts: Sequence[Any],
    responses: Sequence[Any],
    entropies: Sequence[Any],
    sampling: Sampling,
    places: Sequence[str],
    actions: Sequence[str],
    positions: int,
    samples: int,
) -> None:
    if not len(prompts) == len(responses) == len(entropies):
        raise InputError(
            f"{len(prompts)} prompts, {len(responses)} responses, {len(entropies)} rows of entropies: give one of each"
        )
    if sampling.temperature == 0:
        raise InputError("at temperature 0 nothing is drawn, so nothing can be drawn anew: sample above 0")
    if positions < 1 or samples < 1:
        raise InputError(f"positions and samples are 1 or more, not {positions} and {samples}")
    for what, given, known in (("place", places, PLACES), ("action", actions, ACTIONS)):
        for word in given:
            if word not in known:
                raise InputError(f"unknown {what} {word!r} of divergence_test: {did_you_mean(word, known)}")
        if not given:
            raise InputError(f"divergence_test needs one {what} or more: {', '.join(known)}")


def _entropies(response: int, given: ArrayLike, length: int) -> Floats:
    values = np.asarray(given, dtype=np.float64)
    if values.shape != (length,) or not np.isfinite(values).all():
        raise InputError(
            f"response {response} has {length} tokens and {int(np.isfinite(values).sum())} entropies that are numbers: "
            "give one a token"
        )
    return values


def plot_divergence(found: Divergence, *, name: str = "divergence") -> str:
    """Draw how often the outcome changed, by action, for every kind of place, with intervals."""
    figure, (axes,) = drawing.panels()
    actions = list(dict.fromkeys(rate.action for rate in found.rates))
    kinds = list(dict.fromkeys(rate.place for rate in found.rates))
    for series, place in enumerate(kinds):
        rows = [rate for rate in found.rates if rate.place == place]
        at = [actions.index(rate.action) + 0.18 * (series - (len(kinds) - 1) / 2) for rate in rows]
        value, low, high = zip(*((r.changed.value, r.changed.low, r.changed.high) for r in rows), strict=True)
        drawing.points(axes, at, value, low, high, series, place)
    axes.set_xticks(range(len(actions)), actions)
    axes.set_xlim(-0.6, len(actions) - 0.4)
    axes.set_ylim(0.0, 1.03)
    drawing.percent(axes)
    drawing.finish(axes, "what was done at the place", "outcome changed")
    drawing.legend(figure, axes, len(kinds))
    words = "; ".join(f"{r.place}, {r.action}: {r.changed.value:.1%} of {r.samples}" for r in found.rates)
    return drawing.to_svg(figure, name, f"How often the outcome changed. {words}.")
