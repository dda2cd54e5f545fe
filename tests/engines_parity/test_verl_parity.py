"""The loss against verl's own, on tensors and results recorded from it by `record_verl.py`; float64 on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core_batches import learn, rollouts_of
from forkpoint import methods
from forkpoint.credit import aggregate, chain, clip, group_advantage
from forkpoint.credit.covariance import clip_cov
from forkpoint.loss import penalty_loss
from forkpoint.rollouts import Forward, Penalty

SAVED = json.loads(Path(__file__).with_name("verl_losses.json").read_text())
COV = {"share": 1.0, "low": 0.3, "high": 5.0}


def batch():
    cut = [row[:n] for row, n in zip(SAVED["old"], SAVED["lengths"], strict=True)]
    rollouts = rollouts_of(cut, groups=SAVED["groups"], reward=SAVED["rewards"])
    new = torch.tensor(SAVED["new"], dtype=torch.float64)
    return rollouts, Forward(logp_BT=new, entropy_BT=torch.zeros_like(new))


def close(got, expected):
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def clipped(*links):
    return chain(group_advantage(), clip(low=0.2, high=0.28), aggregate(denominator="token"), *links)


CHAINS = {
    "vanilla": lambda scope: methods.dapo(dual=3.0),
    "gspo": lambda scope: methods.gspo(clip_low=0.05, clip_high=0.04),
    "clip_cov": lambda scope: clipped(clip_cov(**COV, scope=scope)),
    "kl_cov": lambda scope: methods.kl_cov(share=0.2, coefficient=0.7, scope=scope),
    "geo_mean": lambda scope: methods.gmpo(low=0.2, high=0.3),
    "cispo": lambda scope: methods.cispo_verl(),
}


@pytest.mark.parametrize("name", CHAINS)
def test_value_and_gradient_of_one_micro_batch_are_verls(name):
    rollouts, forward = batch()
    for scope in ("micro", "mini"):
        got = learn(CHAINS[name](scope), rollouts, forward)
        close(got.credit.advantage_BT, SAVED["advantage"])
        value, gradient = SAVED["losses"][name]
        assert got.value == pytest.approx(value, abs=1e-6)
        close(got.logp_gradient_BT, gradient)


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov"])
def test_verls_choice_depends_on_the_micro_batch_and_ours_only_with_that_scope(name):
    """Two micro-batches of 5 and 3 answers; verl takes the mean of each, weighed here by their tokens."""
    rollouts, forward = batch()
    whole = SAVED["losses"][name][1]
    tokens = [sum(SAVED["lengths"][i] for i in rows) for rows in SAVED["micros"]]
    verls = torch.zeros_like(rollouts.logp_BT)
    for (_, gradient), count in zip(SAVED["micro_losses"][name], tokens, strict=True):
        verls += torch.tensor(gradient, dtype=torch.float64) * count / sum(tokens)
    assert float((verls - torch.tensor(whole, dtype=torch.float64)).abs().max()) > 1e-3
    close(learn(CHAINS[name]("micro"), rollouts, forward, [SAVED["micros"]]).logp_gradient_BT, verls.tolist())
    close(learn(CHAINS[name]("mini"), rollouts, forward, [SAVED["micros"]]).logp_gradient_BT, whole)


@pytest.mark.parametrize("form", SAVED["kl"])
def test_every_form_of_the_kl_has_verls_value_and_gradient(form):
    rollouts, forward = batch()
    value, gradient = SAVED["kl"][form]
    logp = forward.logp_BT.clone().requires_grad_()
    target = torch.where(rollouts.mask_BT, rollouts.logp_BT - 0.3, 0.0)
    got = penalty_loss(
        Penalty(coefficient_BT=rollouts.mask_BT.double(), target_logp_BT=target, form=form), logp, rollouts.mask_BT
    )
    got.sum().backward()
    close(got.detach(), value)
    close(logp.grad, gradient)


def test_the_saved_batch_exercises_both_clips():
    rollouts, forward = batch()
    ratio = (forward.logp_BT - rollouts.logp_BT).exp()[rollouts.mask_BT]
    assert bool((ratio > 1.28).any())
    assert bool((ratio < 0.8).any())
