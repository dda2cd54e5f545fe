"""EAPO: entropy moves an advantage away from zero or towards it."""

from __future__ import annotations

import statistics

import pytest

from forkpoint.errors import InputError
from forkpoint.methods.dapo import dapo
from forkpoint.methods.eapo import eapo
from method_kit import A0, A1, ENTROPY, GROUP, HIGHER, SLOPE, case, check, row
from shares import TOKEN, learned, reduces

ROWS = {
    "eapo": row("eapo"),
    "eapo sequence": row("eapo", scope="sequence"),
    "eapo mini": row("eapo", scope="mini"),
    "eapo micro": row("eapo", scope="micro", micro=True),
}

FLAT = [x for answer in ENTROPY for x in answer]
MEAN, DEVIATION = statistics.mean(FLAT), statistics.stdev(FLAT)


def moved(a, entropies):
    """A + 0.2 sign(A) z with |z| at most |A| / 2."""
    bound = abs(a) / 2
    return [a + 0.2 * (1 if a > 0 else -1) * max(-bound, min(bound, (h - MEAN) / DEVIATION)) for h in entropies]


A = [moved(a, answer) for a, answer in zip(GROUP, ENTROPY, strict=True)]
CASES = {"eapo": case(eapo, A, learned(A, HIGHER, TOKEN), learned(A, SLOPE, TOKEN))}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_the_case_has_bounded_and_free_tokens():
    """z of H 0.5 is 0.17, within |A| / 2 = 0.35; that of 0.9 is 1.39, beyond."""
    assert A[1][0] == pytest.approx(-A0 - 0.2 * (0.5 - 3.55 / 8) / DEVIATION, abs=1e-12)
    assert A[0][1] == pytest.approx(1.1 * A0, abs=1e-12)
    assert A[2][2] == pytest.approx(-0.9 * A1, abs=1e-12)


def test_without_strength_or_with_equal_entropies_it_is_dapo():
    reduces(eapo(alpha=0.0), dapo())

    def level(rollouts, forward):
        import dataclasses

        return dataclasses.replace(rollouts, entropy_BT=rollouts.mask_BT * 0.1), forward

    reduces(eapo(), dapo(), change=level)


@pytest.mark.parametrize("arguments", [{"alpha": 3.0}, {"phi": 0.0}, {"scope": "minni"}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(InputError, match=f"{next(iter(arguments))}|mini"):
        eapo(**arguments)
