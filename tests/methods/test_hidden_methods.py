"""DelTA and SHEAR: weights from hidden states, on hidden states of one dimension."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import padded
from forkpoint.errors import InputError
from forkpoint.methods import METHODS
from forkpoint.methods.delta import delta
from forkpoint.methods.shear import shear
from method_kit import BY_ANSWER, BY_TOKEN, GROUP, HIGHER, NEW, OLD, PPO, SLOPE, case, check, row, times

ROWS = {
    "delta": row("delta", temperature=1.0),
    "delta sharp": row("delta", temperature=0.2, low=0.0, high=2.0, rounds=2),
    "delta behaviour": row("delta", temperature=0.5, source="behaviour", scope="rollout"),
    "delta micro": row("delta", temperature=0.5, scope="micro", micro=True),
    # One iteration: more of them stop by the numbers at hand, and operations are counted here.
    "shear": row("shear", epsilon=0.2, iterations=1),
    "shear behaviour": row("shear", epsilon=0.2, width=20, stride=10, iterations=1, source="behaviour"),
    "shear narrow": row("shear", epsilon=0.2, width=8, stride=4, iterations=1),
}

HIDDEN = [[1.0, 4.0], [2.0], [0.0, 3.0, 1.0], [3.0, -1.0]]


def recorded(rollouts, forward):
    return dataclasses.replace(rollouts, extra={"hidden": padded(HIDDEN, fill=math.nan)[..., None]}), forward


def current(rollouts, forward):
    return rollouts, dataclasses.replace(forward, extra={"hidden": padded(HIDDEN, fill=math.nan)[..., None]})


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def expected_delta(temperature, low, high, rounds, logp):
    """The weights of the definition, one token after the other."""
    token = [
        (a, (1 - math.exp(old)) * h)
        for a, olds, hs in zip(GROUP, logp, HIDDEN, strict=True)
        for old, h in zip(olds, hs, strict=True)
    ]
    belongs = [1.0] * len(token)
    for _ in range(rounds + 1):
        centre = {}
        for side in (True, False):
            pulls = [(abs(a) * q, g) for (a, g), q in zip(token, belongs, strict=True) if (a > 0) == side]
            centre[side] = sum(p * g for p, g in pulls) / sum(p for p, _ in pulls)
        score = []
        for a, g in token:
            own, other = (g - centre[a > 0]) ** 2, (g - centre[a < 0]) ** 2
            score.append((other - own) / (other + own))
        width = {}
        for side in (True, False):
            of_side = [s for s, (a, _) in zip(score, token, strict=True) if (a > 0) == side]
            width[side] = math.sqrt(sum(s * s for s in of_side) / len(of_side))
        belongs = [sigmoid(s / width[a > 0] / temperature) for s, (a, _) in zip(score, token, strict=True)]
    raw = [low + (high - low) * q for q in belongs]
    flat = iter(x * len(raw) / sum(raw) for x in raw)
    return [[next(flat) for _ in answer] for answer in HIDDEN]


def weighed(weights, factors, rows):
    return times(factors, [[w * x for w, x in zip(*pair, strict=True)] for pair in zip(weights, rows, strict=True)])


ONCE = expected_delta(0.5, 0.8, 1.2, 1, NEW)
BEFORE = expected_delta(0.5, 0.8, 1.2, 1, OLD)
NEVER = expected_delta(1.0, 0.0, 1.0, 0, NEW)
# Spans of one token: the nearest token of the other outcome. Group 0: |1-2|, |4-2| | min(1, 2); mean length 7/3.
# Group 1: answer 2 to {3, -1}: 1, 0, 2; answer 3 to {0, 3, 1}: 0, 1; mean length 8/5.
SINGLE = [[3 / 7, 6 / 7], [3 / 7], [5 / 8, 0, 10 / 8], [0, 5 / 8]]

CASES = {
    "delta": case(
        lambda: delta(temperature=0.5), GROUP, weighed(ONCE, BY_TOKEN, HIGHER), weighed(ONCE, BY_TOKEN, SLOPE),
        weight=ONCE, change=current,
    ),
    "delta behaviour": case(
        lambda: delta(temperature=0.5, source="behaviour", scope="rollout"), GROUP, weighed(BEFORE, BY_TOKEN, HIGHER),
        weighed(BEFORE, BY_TOKEN, SLOPE), weight=BEFORE, change=recorded,
    ),
    "delta without refinement": case(
        lambda: delta(temperature=1.0, low=0.0, high=1.0, rounds=0), GROUP, weighed(NEVER, BY_TOKEN, HIGHER),
        weighed(NEVER, BY_TOKEN, SLOPE), weight=NEVER, change=current,
    ),
    "delta level": case(
        lambda: delta(temperature=1.0, low=1.1, high=1.1), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)
    ),
    "delta hot": case(
        lambda: delta(temperature=math.inf), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)
    ),
    "shear": case(
        lambda: shear(epsilon=0.3, width=1, stride=1), GROUP, weighed(SINGLE, BY_ANSWER, PPO),
        weighed(SINGLE, BY_ANSWER, SLOPE), weight=SINGLE, change=current,
    ),
    "shear behaviour": case(
        lambda: shear(epsilon=0.3, width=1, stride=1, source="behaviour"), GROUP, weighed(SINGLE, BY_ANSWER, PPO),
        weighed(SINGLE, BY_ANSWER, SLOPE), weight=SINGLE, change=recorded,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_the_mean_weight_of_delta_is_one():
    weight = check(CASES["delta"]).credit.weight_BT
    mask = padded(HIDDEN, fill=math.nan).isfinite()
    assert float(weight[mask].mean()) == pytest.approx(1.0, abs=1e-12)
    assert float((weight[mask] - 1).abs().max()) > 0.05


def lacking(rollouts, forward):
    return dataclasses.replace(rollouts, extra={}), dataclasses.replace(forward, extra={})


@pytest.mark.parametrize("source", ["current", "behaviour"])
@pytest.mark.parametrize("make", [lambda **k: delta(temperature=1.0, **k), lambda **k: shear(epsilon=1.0, **k)])
def test_hidden_states_must_be_there_fit_and_be_finite(make, source):
    give = current if source == "current" else recorded
    place = "Forward" if source == "current" else "Rollouts"

    def flat(rollouts, forward):
        return tuple(dataclasses.replace(x, extra={"hidden": torch.zeros(4, 3)}) for x in (rollouts, forward))

    def broken(rollouts, forward):
        rollouts, forward = give(rollouts, forward)
        (forward if source == "current" else rollouts).extra["hidden"][2, 1, 0] = math.nan
        return rollouts, forward

    def trial(change):
        check(case(lambda: make(source=source), GROUP, 0.0, [[]], change=change))

    need = "forward_hidden" if source == "current" else "hidden"
    with pytest.raises(InputError, match=f"needs '{need}'"):
        trial(lacking)
    with pytest.raises(InputError, match=rf"{place}.extra\['hidden'\] has shape \(4, 3\) and must be \(B, T, H\)"):
        trial(flat)
    with pytest.raises(InputError, match=f"{source} hidden state of row 2, position 1"):
        trial(broken)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("delta", {"temperature": 0}, "temperature is 0"),
        ("delta", {"temperature": "hot"}, "temperature is 'hot'"),
        ("delta", {"temperature": 1.0, "low": -0.1}, "low is -0.1"),
        ("delta", {"temperature": 1.0, "low": 2.0}, "high is 1.2"),
        ("delta", {"temperature": 1.0, "low": 0.0, "high": 0.0}, "high is 0.0"),
        ("delta", {"temperature": 1.0, "rounds": -1}, "rounds is -1"),
        ("delta", {"temperature": 1.0, "rounds": 1.5}, "rounds is 1.5"),
        ("delta", {"temperature": 1.0, "source": "old"}, "unknown source 'old'"),
        ("shear", {"epsilon": 1.0, "source": "old"}, "unknown source 'old'"),
        ("shear", {"epsilon": 0.0}, "epsilon is 0.0"),
        ("shear", {"epsilon": 1.0, "width": 0}, "width is 0"),
        ("shear", {"epsilon": 1.0, "width": 4, "stride": 5}, "stride is 5 .* to the width 4"),
        ("shear", {"epsilon": 1.0, "iterations": 0}, "iterations is 0"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(InputError, match=message):
        METHODS[name](**arguments)
