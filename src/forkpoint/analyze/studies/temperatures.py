"""Accuracy against the decoding temperature of forking tokens and of all others, each with the other held at 1.

Source: arXiv 2506.01939, figure 3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forkpoint.analyze.measures.temperature import (
    Judged,
    TemperatureCurves,
    plot_temperature_curves,
    temperature_curves,
)
from forkpoint.analyze.studies.study import Study, json_ready, percents
from forkpoint.analyze.studies.subject import Say, Subject, problems_of, written
from forkpoint.analyze.views.page import Panel
from forkpoint.decode.answers import TwoTemperatures
from forkpoint.errors import InputError
from forkpoint.rollouts import Rollouts, Verdict

QUANTILE = 0.8
"""Of the entropies at temperature 1: forks are above it (arXiv 2506.01939 sec. 3)."""
_VALUE = {Verdict.RIGHT: 1.0, Verdict.WRONG: 0.0, Verdict.UNJUDGED: math.nan}


@dataclass(frozen=True, kw_only=True)
class TemperatureStudy:
    """Two curves and what they were made with."""

    threshold: float
    """Nats."""
    curves: TemperatureCurves
    cut_short: dict[tuple[float, float], float]
    """(temperature of forks, of others) to the share of answers that ran into the token limit."""


def check_temperatures(temperatures: Sequence[float]) -> None:
    """Raise `InputError` unless there are temperatures and each is a number >= 0."""
    for value in temperatures:
        if not 0 <= value < math.inf:
            raise InputError(f"--temperatures has {value:g}: each is a number >= 0, such as 0.5,1,1.5")
    if not any(value != 1 for value in temperatures):
        raise InputError("--temperatures needs one besides 1, which is always measured: such as 0.5,1,1.5")


def temperature_study(
    subject: Subject, temperatures: Sequence[float], *, at_one: Rollouts | None = None, say: Say = lambda line: None
) -> TemperatureStudy:
    """Return accuracy while the temperature of forks, or of all other tokens, varies.

    Forks are tokens whose entropy at temperature 1 is above the 80th percentile of all entropies of answers drawn
    at temperature 1 to the same problems. All settings share their random numbers.

    Args:
        subject: with a verifier.
        temperatures: >= 0; 1 is always among them.
        at_one: verified answers at temperature 1 without cuts of `Sampling.top_p` and `top_k`, where they are at hand.
        say: told which setting is being decoded.

    Raises:
        InputError: a temperature out of range, or nothing could be judged.

    Source: arXiv 2506.01939 figure 3.
    """
    check_temperatures(temperatures)
    if subject.judge is None:
        raise InputError("accuracy needs reference answers, and the problems have none")
    plain = dataclasses.replace(subject.sampling, temperature=1.0, top_p=1.0, top_k=0)
    base = written(subject, plain) if at_one is None else at_one
    threshold = float(np.quantile(base.entropy_BT[base.mask_BT].double().cpu().numpy(), QUANTILE))
    results, cut_short = {(1.0, 1.0): _judged(base)}, {(1.0, 1.0): _cut_short(base)}
    if np.isnan(results[1.0, 1.0][1]).all():
        raise InputError("none of the answers could be judged: check the verifier and the reference answers")
    varied = sorted({float(value) for value in temperatures} - {1.0})
    for pair in [pair for value in varied for pair in ((value, 1.0), (1.0, value))]:
        say(f"decoding with forking tokens at {pair[0]:g} and other tokens at {pair[1]:g}")
        two = TwoTemperatures(threshold=threshold, fork=pair[0], other=pair[1])
        found = written(subject, dataclasses.replace(plain, two=two))
        results[pair], cut_short[pair] = _judged(found), _cut_short(found)
    return TemperatureStudy(threshold=threshold, curves=temperature_curves(results), cut_short=cut_short)


def temperature_panels(found: TemperatureStudy, subject: Subject) -> Study:
    """Return the paper's figure with what it shows in words."""
    curves = found.curves
    lines, against = [], []
    for label, curve in (("forking", curves.fork), ("other", curves.other)):
        points = [(point, point.difference) for point in curve if point.difference is not None]
        changes = [
            f"at {p.temperature:g} {100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})" for p, d in points
        ]
        against.append(f"{label} tokens {', '.join(changes)}")
        lines += [
            f"Accuracy with {label} tokens at {p.temperature:g}: "
            f"{percents(p.accuracy.value, p.accuracy.low, p.accuracy.high)}, {change.split(' ', 2)[2]} points against 1"
            for (p, _), change in zip(points, changes, strict=True)
        ]
    caption = (
        f"Forks are tokens with an entropy above {found.threshold:.3f} nats at temperature 1, the 80th percentile on "
        f"these {len(subject.prompts):,} problems; {subject.group} answers each, at most "
        f"{subject.sampling.max_tokens:,} tokens. Bands are 95 % intervals over problems. Points of accuracy against "
        f"temperature 1, paired by problem: {'; '.join(against)}."
    )
    numbers = {
        "threshold": found.threshold,
        "curves": found.curves,
        "cut_short": [
            {"fork": fork, "other": other, "share": share} for (fork, other), share in found.cut_short.items()
        ],
    }
    title = "Accuracy against decoding temperature"
    panel = Panel(title=title, caption=caption, svg=plot_temperature_curves(curves))
    return Study(name="temperatures", panels=(panel,), numbers=json_ready(numbers), lines=tuple(lines))


def _judged(rollouts: Rollouts) -> Judged:
    return problems_of(rollouts), [_VALUE[verdict] for verdict in rollouts.verdicts]


def _cut_short(rollouts: Rollouts) -> float:
    return sum(finish == "length" for finish in rollouts.finish) / rollouts.rows
