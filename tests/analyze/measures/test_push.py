"""How hard a method pushes every token of a recorded batch."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import random_rollouts, rollouts_of
from forkpoint.analyze.measures.push import push
from forkpoint.credit import chain
from forkpoint.credit.entropy_terms import peak_entropy_anchor
from forkpoint.errors import InputError
from forkpoint.methods import METHODS, method_chain


def test_dapo_pushes_by_the_advantage_and_grpo_by_answer():
    """Answers of 3 and 1 tokens, A = ±a: GRPO gives each answer 2 of the 4 tokens, 2/3 a each and 2 a."""
    rollouts = rollouts_of([[-1.0] * 3, [-2.0]], groups=[0, 0], reward=[1.0, 0.0])
    a = 0.5 / (math.sqrt(0.5) + 1e-6)
    torch.testing.assert_close(
        push(method_chain("dapo"), rollouts).push_BT,
        torch.tensor([[a, a, a], [-a, 0, 0]], dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )
    expected = torch.tensor([[2 / 3 * a] * 3, [-2 * a, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(push(method_chain("grpo"), rollouts).push_BT, expected, rtol=0, atol=1e-12)


def test_selection_and_denominator_are_in_it():
    """One of four tokens learns and is the denominator: its push is four times its advantage."""
    rollouts = rollouts_of([[-1.0] * 3, [-2.0]], groups=[0, 0], reward=[1.0, 0.0], entropy=[[0.1, 0.9, 0.2], [0.3]])
    a = 0.5 / (math.sqrt(0.5) + 1e-6)
    found = push(method_chain("forking", share=0.2), rollouts)
    assert found.push_BT.tolist() == [[0.0, pytest.approx(4 * a), 0.0], [0.0, 0.0, 0.0]]
    assert found.credit.keep_BT.sum() == 1
    silenced = push(method_chain("forking", share=0.2, denominator="all"), rollouts)
    assert silenced.push_BT[0, 1] == pytest.approx(a)


def test_penalties_are_in_it_and_what_carries_no_gradient_is_not():
    rollouts, _ = random_rollouts(3)
    plain, pulled = (push(method_chain("dapo", kl_coefficient=c, kl_form="k1"), rollouts) for c in (0.0, 0.5))
    torch.testing.assert_close(pulled.push_BT[rollouts.mask_BT], plain.push_BT[rollouts.mask_BT] - 0.5)
    bonus = push(method_chain("entropy_bonus", coefficient=0.7), rollouts)
    assert torch.equal(bonus.push_BT, plain.push_BT)


def test_what_acts_on_entropies_is_the_pull():
    """A bonus c mean(H) pulls every token by c; a target by its coefficient, up from below and down from above."""
    rollouts, _ = random_rollouts(3)
    inside = rollouts.mask_BT
    bonus = push(method_chain("entropy_bonus", coefficient=0.7), rollouts).pull_BT
    torch.testing.assert_close(bonus[inside], torch.full_like(bonus[inside], 0.7))
    assert not bonus[~inside].any()
    assert not push(method_chain("dapo"), rollouts).pull_BT.any()
    up = push(method_chain("targeted_entropy", target=99.0, coefficient=0.2), rollouts).pull_BT
    torch.testing.assert_close(up[inside], torch.full_like(up[inside], 0.2))
    down = push(method_chain("targeted_entropy", target=0.0, coefficient=0.2), rollouts).pull_BT
    torch.testing.assert_close(down, -up)


def test_an_anchor_pulls_on_nuclei_once_they_have_moved():
    """One fork of 4 tokens, entropy 1.0, anchor 0.4: -N 2 c (1.0 - 0.4) with N = 4 and c = 0.5."""
    rollouts = rollouts_of([[-1.0] * 4], groups=[0], reward=[1.0])
    nuclei = torch.tensor([[0.1, 0.2, 0.3, 1.0]], dtype=torch.float64)
    rollouts = dataclasses.replace(rollouts, extra={"nucleus_entropy": nuclei})
    link = peak_entropy_anchor(coefficient=0.5, quantile=0.8)
    still = push(chain(link), rollouts).pull_BT
    moved = push(chain(dataclasses.replace(link, init=lambda: {"anchor": 0.4})), rollouts).pull_BT
    assert not still.any()
    expected = torch.tensor([[0.0, 0.0, 0.0, -4 * 2 * 0.5 * 0.6]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected)


def test_a_batch_without_answers_or_rewards():
    assert push(method_chain("forking"), rollouts_of([], groups=[], reward=[])).push_BT.shape == (0, 0)
    with pytest.raises(InputError, match="needs 'reward'"):
        push(method_chain("dapo"), rollouts_of([[-1.0]], groups=[0]))
    level = rollouts_of([[-1.0], [-2.0]], groups=[0, 0], reward=[1.0, 1.0])
    assert (push(method_chain("dapo"), level).push_BT == 0).all()


def test_the_rollouts_are_left_alone_and_draws_follow_the_key():
    rollouts, _ = random_rollouts(4)
    before = rollouts.logp_BT.clone()
    one, two, again = (push(METHODS["nat_tokens"](), rollouts, rng=r).push_BT for r in (1, 2, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert torch.equal(rollouts.logp_BT, before)
    assert not rollouts.logp_BT.requires_grad
