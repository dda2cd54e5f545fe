"""The loss against verl's own, on tensors and results recorded from it by `record_verl.py`; float64 on both sides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from core_batches import learn, rollouts_of
from forkpoint import methods
from forkpoint.credit import (
    aggregate,
    batch_advantage,
    chain,
    clip,
    credit_of,
    group_advantage,
    kl,
    leave_one_out_advantage,
    stop_ratio,
)
from forkpoint.credit.baseline import (
    best_answer_advantage,
    group_policy_gradient,
    length_weighted_advantage,
    token_baseline_advantage,
)
from forkpoint.credit.covariance import clip_cov
from forkpoint.credit.offpolicy import engine_correction
from forkpoint.loss import penalty_loss
from forkpoint.rollouts import Forward, Penalty

SAVED = json.loads(Path(__file__).with_name("verl_losses.json").read_text())
COV = {"share": 1.0, "low": 0.3, "high": 5.0}


def batch():
    cut = [row[:n] for row, n in zip(SAVED["old"], SAVED["lengths"], strict=True)]
    rollouts = rollouts_of(cut, groups=SAVED["groups"], reward=SAVED["rewards"])
    extra = {"sampler_logp": SAVED["sampler"], "collision": SAVED["collision"]}
    extra = {name: torch.tensor(x, dtype=torch.float64) for name, x in extra.items()}
    rollouts = dataclasses.replace(rollouts, extra=extra)
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
    "dppo_tv": lambda scope: methods.dppo(low=0.04, high=0.06, cap=1.3),
    "dppo_kl": lambda scope: methods.dppo(measure="kl", low=0.01, high=0.02, cap=1.3),
    "sapo": lambda scope: methods.sapo(),
    "gpg": lambda scope: plain(),
    "dro": lambda scope: chain(plain(), kl(coefficient=0.6, form="k2", to="behaviour")),
    "vanilla token-mean": lambda scope: methods.dapo(dual=3.0),
    "vanilla token-sum": lambda scope: by(1 / 8),  # a mean over 8 answers, of sums divided by 1/8
    "vanilla seq-mean-token-sum": lambda scope: by(1.0),
    "vanilla seq-mean-token-sum-norm": lambda scope: by(6.0),  # verl divides by the padded length
    "vanilla seq-mean-token-mean": lambda scope: chain(methods.dapo(dual=3.0), aggregate(denominator="sequence")),
    "vanilla weighted": lambda scope: chain(methods.dapo(dual=3.0), engine_correction(mode="token_truncate", high=1.1)),
    "bypass_mode token": lambda scope: methods.cispo(cap=1.2),
    "bypass_mode sequence": lambda scope: methods.vespo(
        k_positive=1, lambda_positive=0, k_negative=1, lambda_negative=0
    ),
}

ADVANTAGES = {
    "grpo": group_advantage,
    "grpo without std": lambda: group_advantage(std=False),
    "grpo_vectorized": group_advantage,
    "grpo_passk": best_answer_advantage,
    "grpo_passk without std": lambda: best_answer_advantage(std=False),
    "reinforce_plus_plus": batch_advantage,
    "reinforce_plus_plus_baseline": lambda: batch_advantage(baseline="group"),
    "rloo": leave_one_out_advantage,
    "rloo_vectorized": leave_one_out_advantage,
    "opo": length_weighted_advantage,
    "gpg": lambda: group_policy_gradient(count="nonzero"),
    "optimal_token_baseline": lambda: token_baseline_advantage(lone="reward"),
}
NO_CREDIT = {
    "gae": "needs a value model",
    "remax": "needs the reward of one more answer, sampled greedily",
    "tir_optimal_token_baseline": "is `optimal_token_baseline` of rows that verl has cut at turns; our rows are whole",
    "gdpo": "whitens the sum over tokens, ours over answers as TRL and the paper do",
}
"""Advantages of verl that no chain reproduces, and why."""


def plain():
    return chain(group_advantage(), stop_ratio(cap=1.0, floor=1.0), aggregate(denominator="token"))


def by(constant):
    return chain(methods.dapo(dual=3.0), aggregate(denominator="constant", constant=constant))


def test_everything_verl_registers_is_reproduced_or_named():
    assert {name.split()[0] for name in CHAINS} == set(SAVED["registered"]["register_policy_loss"])
    assert {x.split()[0] for x in ADVANTAGES} | set(NO_CREDIT) == set(SAVED["registered"]["register_adv_est"])
    assert {name.split()[1] for name in CHAINS if name.startswith("vanilla ")} - {"weighted"} == set(SAVED["modes"])


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages_are_verls(name):
    rollouts, _ = batch()
    expected = SAVED["advantages"][name]
    close(credit_of(chain(ADVANTAGES[name]()), rollouts).advantage_BT, expected)
    assert torch.tensor(expected).abs().max() > 0.5


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


@pytest.mark.parametrize("name", ["vanilla", "vanilla seq-mean-token-mean"])
def test_verls_mean_of_micro_batches_is_not_that_of_the_batch_and_ours_is(name):
    """Without the whole batch's counts verl takes the mean of every pass; answers of a small pass then weigh more."""
    rollouts, forward = batch()
    whole = SAVED["losses"][name][1]
    passes = [torch.tensor(gradient, dtype=torch.float64) for _, gradient in SAVED["micro_losses"][name]]
    assert float((sum(passes) / 2 - torch.tensor(whole, dtype=torch.float64)).abs().max()) > 1e-3
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
