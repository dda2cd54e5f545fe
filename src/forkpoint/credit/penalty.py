"""Penalties: terms added to the loss of single tokens that pull towards another policy."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch

from forkpoint.credit.checks import check_choice
from forkpoint.credit.link import Link, State
from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Credit, Penalty, Rollouts

FORMS = ("k1", "k2", "k3", "abs", "k1+", "k3+")


def kl(
    *,
    coefficient: float = 0.001,
    form: Literal["k1", "k2", "k3", "abs", "k1+", "k3+"] = "k3",
    to: Literal["reference", "behaviour"] = "reference",
    corrected: bool = False,
) -> Link:
    """Link: pull every token that counts towards the reference model, or towards the policy that sampled.

    With Δ = log π_ref(y) - log π(y):

        k1 = -Δ          k2 = Δ² / 2          k3 = exp(Δ) - Δ - 1          abs = |Δ|

    k1 and k3 are unbiased estimates of KL(π ‖ π_ref) for samples of π; as a loss, only k2 has the gradient of
    that KL on such samples. `k1+` and `k3+` are straight-through: the value of k1 or k3 with the gradient of k2.
    `corrected` multiplies the estimate by the importance ratio, gradient included: then k3 has the gradient of
    that KL for samples of an older policy, too. `coefficient=0` changes nothing.

    Args:
        coefficient: >= 0, in loss per nat.
        form: which estimate.
        to: `reference`, or `behaviour` with log π_old in the place of log π_ref.
        corrected: multiply by the importance ratio.

    Returns:
        A link that needs a reference model, unless it pulls towards the behaviour policy.

    Source: arXiv 2402.03300 eq. 4 (k3); names from Schulman, "Approximating KL divergence" (2020); straight-through
    as in verl; `corrected` arXiv 2512.02556 (DeepSeek-V3.2).
    """
    if not coefficient >= 0:
        raise InputError(f"kl coefficient is {coefficient} and must be >= 0")
    if form not in FORMS:
        raise InputError(f"unknown kl form {form!r}: {did_you_mean(form, FORMS)}")
    check_choice("kl", "to", to, ("reference", "behaviour"))

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        if coefficient == 0:
            return credit, state
        target_BT = rollouts.ref_logp_BT if to == "reference" else rollouts.logp_BT
        assert target_BT is not None  # noqa: S101 - checked by check_needs
        penalty = Penalty(
            coefficient_BT=torch.full_like(credit.advantage_BT, coefficient),
            target_logp_BT=target_BT,
            form=form,
            corrected=corrected,
        )
        return dataclasses.replace(credit, penalties=(*credit.penalties, penalty)), state

    return Link(
        name="kl",
        stage="penalty",
        arguments={"coefficient": coefficient, "form": form, "to": to, "corrected": corrected},
        update=update,
        needs=frozenset({"ref_logp"} if coefficient > 0 and to == "reference" else ()),
    )
