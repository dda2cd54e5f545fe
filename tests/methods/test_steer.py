"""STEER: weights by how much a token's update would move the entropy."""

from __future__ import annotations

import math

import pytest

from forkpoint.errors import InputError
from forkpoint.methods import METHODS
from forkpoint.methods.steer import steer
from method_kit import A0, A1, BY_TOKEN, ENTROPY, GROUP, HIGHER, NEW, OLD, SLOPE, batch, case, check, row, times

ROWS = {
    "steer": row("steer"),
    "steer released": row("steer", preset="released", micro=True),
    "steer linear": row("steer", preset="released-linear", micro=True),
    "steer linear mini": row("steer", form="linear", high=1.5),
    "steer exact": row("steer", flow="exact"),
    "steer sequence": row("steer", scope="sequence"),
}

# |Ω| = |A| (π/π_old) (1 - π) |log π + H|, token by token, from the ratios and log-probs of the shared batch.
OMEGA = [
    [
        abs(a) * math.exp(new - old) * (1 - math.exp(new)) * abs(new + h)
        for new, old, h in zip(news, olds, entropies, strict=True)
    ]
    for a, news, olds, entropies in zip(GROUP, NEW, OLD, ENTROPY, strict=True)
]
MOST = max(max(answer) for answer in OMEGA)
LEAST = min(min(answer) for answer in OMEGA)
PAPER = [[math.exp(math.log(0.7) * x / MOST) for x in answer] for answer in OMEGA]
LINEAR = [[1.2 - 0.4 * (x - LEAST) / (MOST - LEAST) for x in answer] for answer in OMEGA]


def weighed(weights, rows):
    return times(BY_TOKEN, [[w * x for w, x in zip(*pair, strict=True)] for pair in zip(weights, rows, strict=True)])


# Σ_k π_k² (log π_k + H) is given as -0.05 everywhere: Δ = -A {π_old (log π_old + H) + 0.05}.
EXACT_SIZE = [
    [abs(a) * abs(math.exp(old) * (old + h) + 0.05) for old, h in zip(olds, entropies, strict=True)]
    for a, olds, entropies in zip(GROUP, OLD, ENTROPY, strict=True)
]
EXACT_MOST = max(max(answer) for answer in EXACT_SIZE)
EXACT = [[0.7 ** (x / EXACT_MOST) for x in answer] for answer in EXACT_SIZE]


def flowing(rollouts, forward):
    rollouts.extra["sampled_flow"].fill_(-0.05)
    return rollouts, forward


CASES = {
    "steer": case(steer, GROUP, weighed(PAPER, HIGHER), weighed(PAPER, SLOPE), weight=PAPER),
    "steer linear": case(
        lambda: steer(preset="released-linear"), GROUP, weighed(LINEAR, HIGHER), weighed(LINEAR, SLOPE), weight=LINEAR
    ),
    "steer exact": case(
        lambda: steer(flow="exact"), GROUP, weighed(EXACT, HIGHER), weighed(EXACT, SLOPE), weight=EXACT, change=flowing
    ),
    "steer one": case(lambda: steer(low=1.0), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)),
    "steer linear one": case(
        lambda: steer(form="linear", low=1.0, high=1.0), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_the_largest_size_of_the_shared_batch():
    """Answer 3's first token: A1 * 1.3 * (1 - 1.3 exp(-0.9)) * |log 1.3 - 0.9 + 0.1|."""
    pi = 1.3 * math.exp(-0.9)
    assert OMEGA[3][0] == pytest.approx(A1 * 1.3 * (1 - pi) * abs(math.log(pi) + 0.1), abs=1e-15)
    assert pytest.approx(A1, abs=1e-5) == A0


def test_presets_and_what_overrides_them():
    (link,) = (x for x in steer(preset="released", scope="mini").links if x.name == "steer")
    assert dict(link.arguments) == {
        "form": "exponential", "flow": "paper", "low": 0.8, "high": 1.2, "floor": 0.02, "scope": "mini",
    }  # fmt: skip
    assert batch()[0].rows == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "v4"}, "unknown preset 'v4' of steer"),
        ({"low": 0}, "steer low is 0"),
        ({"high": 0.9}, "steer high is 0.9"),
        ({"floor": -1}, "steer floor is -1"),
        ({"flow": "exakt"}, "did you mean 'exact'"),
        ({"form": "linea"}, "did you mean 'linear'"),
        ({"scope": "all"}, "unknown scope"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        METHODS["steer"](**arguments)
