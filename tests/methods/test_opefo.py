"""OPEFO: a λ with which rises and falls of entropy cancel."""

from __future__ import annotations

import math

import pytest

from forkpoint.errors import InputError
from forkpoint.methods import METHODS
from forkpoint.methods.opefo import opefo
from method_kit import BY_TOKEN, ENTROPY, GROUP, HIGHER, OLD, SLOPE, case, check, row, times

ROWS = {
    "opefo": row("opefo"),
    "opefo exact": row("opefo", flow="exact"),
    "opefo static": row("opefo", strength=0.3),
    "opefo rollout": row("opefo", scope="rollout", limit=0.5),
    "opefo micro": row("opefo", scope="micro", micro=True),
}


def changes(flow):
    """Δ = -A {π (log π + H) - flow} under the behaviour policy."""
    return [
        [-a * (math.exp(old) * (old + h) - flow) for old, h in zip(olds, entropies, strict=True)]
        for a, olds, entropies in zip(GROUP, OLD, ENTROPY, strict=True)
    ]


def weights(delta, side=None):
    flat = [x for answer in delta for x in answer]
    rise, fall = sum(x for x in flat if x > 0), -sum(x for x in flat if x < 0)
    side = (fall - rise) / (fall + rise) if side is None else side
    return [[1 + side if x > 0 else 1 - side if x < 0 else 1.0 for x in answer] for answer in delta]


def weighed(weights, rows):
    return times(BY_TOKEN, [[w * x for w, x in zip(*pair, strict=True)] for pair in zip(weights, rows, strict=True)])


# log π + H: -0.7 -1.1 | 0.0 | -0.7 -0.1 -0.65 | -0.8 -0.4. Answer 1's token changes nothing.
ONE = weights(changes(0.0))
EXACT = weights(changes(0.2))
STATIC = weights(changes(0.0), side=0.3)


def flowing(rollouts, forward):
    rollouts.extra["sampled_flow"].fill_(0.2)
    return rollouts, forward


CASES = {
    "opefo": case(opefo, GROUP, weighed(ONE, HIGHER), weighed(ONE, SLOPE), weight=ONE),
    "opefo exact": case(
        lambda: opefo(flow="exact"), GROUP, weighed(EXACT, HIGHER), weighed(EXACT, SLOPE), weight=EXACT, change=flowing
    ),
    "opefo static": case(
        lambda: opefo(strength=0.3), GROUP, weighed(STATIC, HIGHER), weighed(STATIC, SLOPE), weight=STATIC
    ),
    "opefo zero": case(lambda: opefo(strength=0.0), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)),
    "opefo limit zero": case(lambda: opefo(limit=0.0), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_the_weights_by_hand():
    """Rises by answers 0 and 3 (A > 0, log π + H < 0), falls by answer 2; answer 1 has log π + H = 0."""
    rise0, rise3 = 0.7 * math.exp(-1.0) + 1.1 * math.exp(-2.0), 0.8 * math.exp(-0.9) + 0.4 * math.exp(-1.1)
    fall = 0.7 * math.exp(-1.5) + 0.1 * math.exp(-0.3) + 0.65 * math.exp(-0.7)
    rise = GROUP[0] * rise0 + GROUP[3] * rise3
    side = (GROUP[3] * fall - rise) / (GROUP[3] * fall + rise)
    expected = [[1 + side] * 2, [1.0], [1 - side] * 3, [1 + side] * 2]
    for got, wanted in zip(ONE, expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-12)
    assert -1 < side < 0


def test_the_weighted_flow_is_zero():
    got = check(CASES["opefo exact"])
    weight = got.credit.weight_BT
    total = sum(float(weight[i, t]) * x for i, answer in enumerate(changes(0.2)) for t, x in enumerate(answer))
    assert total == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flow": "one"}, "unknown flow 'one'"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"limit": -0.1}, "limit is -0.1"),
        ({"scope": "batch"}, "unknown scope"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        METHODS["opefo"](**arguments)
