"""Penalties as links; their values are tested in test_loss.py."""

from __future__ import annotations

import pytest
import torch

from core_batches import rollouts_of
from forkpoint.credit import chain, credit_of, kl
from forkpoint.errors import InputError
from forkpoint.rollouts import blank_credit

ROLLOUTS = rollouts_of([[-1.0, -2.0], [-3.0]], groups=[0, 0], ref=[[-1.5, -2.5], [-3.5]])


def test_kl_adds_one_penalty():
    credit = credit_of(chain(kl(coefficient=0.3, form="k2"), kl(coefficient=0.1, form="abs")), ROLLOUTS)
    assert [p.form for p in credit.penalties] == ["k2", "abs"]
    assert (credit.penalties[0].coefficient_BT == 0.3).all()
    assert (credit.penalties[1].coefficient_BT == 0.1).all()
    assert torch.equal(credit.penalties[0].target_logp_BT, ROLLOUTS.ref_logp_BT)


def test_coefficient_zero_changes_nothing_and_needs_nothing():
    link = kl(coefficient=0.0)
    assert link.needs == frozenset()
    bare = rollouts_of([[-1.0]], groups=[0])
    credit, _ = link.update(blank_credit(bare), bare, forward=None, batching=None, state={}, rng=0)
    assert credit.penalties == ()


def test_a_missing_reference_is_named():
    with pytest.raises(InputError, match=r"link 'kl' needs 'ref_logp' .* set \[reference\] in the recipe"):
        credit_of(chain(kl(coefficient=0.1)), rollouts_of([[-1.0]], groups=[0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coefficient": -0.1}, "kl coefficient is -0.1 and must be >= 0"),
        ({"coefficient": float("nan")}, "must be >= 0"),
        ({"form": "k5"}, "unknown kl form 'k5'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError) as error:
        kl(**arguments)
    assert message in str(error.value)
