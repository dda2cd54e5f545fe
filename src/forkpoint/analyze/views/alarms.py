"""When a run goes wrong: four courses that training can take, told from its metric lines in plain words.

The first steps are compared with the last ones, so a warning speaks of what training did to a model, not of how
the model was before. The limits are this project's own and are arguments: a movement within them is not a sign of
health, and a warning is a reason to look, not a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.rundata import number, series


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where a movement becomes a warning."""

    window: int = 5
    """Steps averaged at either end; half of them where a run has fewer than twice as many."""
    shortest: int = 4
    """Steps a run must have before anything is said."""
    entropy_fall: float = 0.25
    """Collapse: late mean entropy below this share of the early one."""
    entropy_floor: float = 0.02
    """Collapse: late mean entropy below this many nats, and below the early one."""
    entropy_rise: float = 2.0
    """Explosion: late mean entropy above this many times the early one ..."""
    entropy_gain: float = 0.2
    """... and above it by this many nats, so that tiny entropies do not count."""
    length_rise: float = 2.5
    """Explosion: late mean length above this many times the early one."""
    truncated: float = 0.25
    """Explosion: late share of answers cut at the limit above this ..."""
    truncated_gain: float = 0.10
    """... and above the early share by this."""
    useful: float = 0.20
    """Vanishing: late share of groups that teach something below this."""
    useful_fall: float = 1 / 3
    """Vanishing: late share below this part of the early one."""


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class RunWarning:
    """One thing that looks wrong in a run."""

    kind: str
    """`entropy collapse`, `entropy explosion`, `length explosion` or `few useful groups`."""
    text: str
    """What happened, with the numbers, in plain words."""
    advice: str
    """What is usually tried against it."""
    numbers: Mapping[str, float]
    """`early` and `late` of what was measured, further numbers by name, and the first and last step of both windows."""


@dataclass(frozen=True, kw_only=True)
class _Ends:
    early: float
    late: float
    steps: tuple[int, int, int, int]

    @property
    def times(self) -> float:
        return self.late / self.early if self.early > 0 else np.inf

    def where(self) -> str:
        a, b, c, d = self.steps
        return f"means of steps {a} to {b} and {c} to {d}"

    def numbers(self, **more: float) -> dict[str, float]:
        names = ("early_first", "early_last", "late_first", "late_last")
        return {"early": self.early, "late": self.late, **more, **dict(zip(names, self.steps, strict=True))}


def warnings_of(metrics: Sequence[Mapping[str, Any]], limits: Limits = DEFAULT_LIMITS) -> list[RunWarning]:
    """Return what looks wrong in the metric lines of a run: nothing for a short or healthy one.

        early = mean of the first w recorded steps, late = mean of the last w;   w = min(window, steps // 2)

    - entropy collapse: `late < entropy_fall * early`, or `late < entropy_floor` and `late < early`
    - entropy explosion: `late > entropy_rise * early` and `late - early > entropy_gain`
    - length explosion: mean length `late > length_rise * early`, or the share of answers cut at the limit has
      `late > truncated` and `late - early > truncated_gain`
    - few useful groups: `late < useful` or `late < useful_fall * early`, for the share of groups with both right and
      wrong answers among those sampled

    Args:
        metrics: one dict a training step, ascending, with the keys of metrics.jsonl; a missing or non-finite value
            leaves out its step, a missing key its warning. Where only lower bounds of the entropy exist
            (`entropy_lower_bound/mean`) they are used and the text says so.
        limits: where a movement becomes a warning.

    Returns:
        At most one warning of each kind, in the order above.

    >>> steps = [{"step": s, "entropy/mean": 0.4 / s} for s in range(1, 13)]
    >>> [(w.kind, w.text) for w in warnings_of(steps)]
    [('entropy collapse', 'Mean entropy fell from 0.183 to 0.041 nats, 22 % of what it was (means of steps 1 to 5 and 8 to 12).')]
    """  # noqa: E501
    found = [
        _entropy(metrics, limits),
        _length(metrics, limits),
        _useful(metrics, limits),
    ]
    return [warning for warning in found if warning is not None]


def _entropy(metrics: Sequence[Mapping[str, Any]], limits: Limits) -> RunWarning | None:
    ends, what = _ends(metrics, "entropy/mean", limits), "Mean entropy"
    if ends is None:
        ends, what = _ends(metrics, "entropy_lower_bound/mean", limits), "The lower bound of mean entropy"
    if ends is None:
        return None
    early, late = ends.early, ends.late
    moved = f"from {early:.3f} to {late:.3f} nats"
    if late < limits.entropy_fall * early or late < min(limits.entropy_floor, early):
        return RunWarning(
            kind="entropy collapse",
            text=f"{what} fell {moved}, {100 * ends.times:.0f} % of what it was ({ends.where()}).",
            advice="The model hardly explores any more. Usual remedies: a higher upper clip (credit.high), a smaller "
            "learning rate, or a method that protects entropy.",
            numbers=ends.numbers(),
        )
    if late > limits.entropy_rise * early and late - early > limits.entropy_gain:
        return RunWarning(
            kind="entropy explosion",
            text=f"{what} rose {moved}, {ends.times:.1f} times what it was ({ends.where()}).",
            advice="Answers drift towards noise. Usual remedies: a weaker entropy bonus, a smaller learning rate, or "
            "a lower upper clip.",
            numbers=ends.numbers(),
        )
    return None


def _length(metrics: Sequence[Mapping[str, Any]], limits: Limits) -> RunWarning | None:
    length, cut = _ends(metrics, "length/mean", limits), _ends(metrics, "length/truncated", limits)
    longer = length is not None and length.late > limits.length_rise * length.early
    truncated = cut is not None and cut.late > limits.truncated and cut.late - cut.early > limits.truncated_gain
    if not (longer or truncated):
        return None
    said, numbers = [], {}
    if length is not None:
        moved = "grew" if length.late > length.early else "went"
        said.append(
            f"Answers {moved} from {length.early:.0f} to {length.late:.0f} tokens, {length.times:.1f} times the length"
        )
        numbers = length.numbers()
    if cut is not None:
        said.append(f"{'t' if said else 'T'}he share cut at the limit went from {_percent(cut)}")
        numbers = cut.numbers() | numbers | {"early_truncated": cut.early, "late_truncated": cut.late}
    return RunWarning(
        kind="length explosion",
        text=f"{'; '.join(said)} ({(length or cut or _NOWHERE).where()}).",
        advice="See whether the long answers are right or repeat themselves. Usual remedies: a higher "
        "decode.max_tokens, a soft penalty on length, or leaving cut answers out of the loss.",
        numbers=numbers,
    )


def _useful(metrics: Sequence[Mapping[str, Any]], limits: Limits) -> RunWarning | None:
    ends = _ends(metrics, "groups/useful", limits)
    if ends is None or not (ends.late < limits.useful or ends.late < limits.useful_fall * ends.early):
        return None
    right = _ends(metrics, "reward/right", limits)
    why = "" if right is None else f" {100 * right.late:.0f} % of the answers are right."
    advice = "Groups answer all right or all wrong: harder problems instead of the solved ones, easier ones instead of "
    advice += "the hopeless ones, or more answers a prompt bring useful groups back."
    if right is not None and right.late > 0.8:
        advice = "The problems have become too easy: harder ones, or dynamic sampling, bring useful groups back."
    elif right is not None and right.late < 0.2:
        advice = "The problems are too hard: easier ones, or more answers a prompt, bring useful groups back."
    return RunWarning(
        kind="few useful groups",
        text=f"The share of groups with both right and wrong answers went from {_percent(ends)} ({ends.where()}).{why}",
        advice=advice,
        numbers=ends.numbers() if right is None else ends.numbers(late_right=right.late),
    )


_NOWHERE = _Ends(early=np.nan, late=np.nan, steps=(0, 0, 0, 0))


def _ends(metrics: Sequence[Mapping[str, Any]], name: str, limits: Limits) -> _Ends | None:
    values: NDArray[np.float64] = series([dict(record) for record in metrics], name)
    kept = np.flatnonzero(np.isfinite(values))
    if kept.size < max(2, limits.shortest):
        return None
    width = min(limits.window, kept.size // 2)
    first, last = kept[:width], kept[-width:]
    a, b, c, d = (int(number(metrics[i].get("step"))) for i in (first[0], first[-1], last[0], last[-1]))
    return _Ends(early=float(values[first].mean()), late=float(values[last].mean()), steps=(a, b, c, d))


def _percent(ends: _Ends) -> str:
    return f"{100 * ends.early:.0f} to {100 * ends.late:.0f} %"
