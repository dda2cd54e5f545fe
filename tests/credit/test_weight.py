"""Weights: how sizes become factors, where nothing is there to weigh, and the scopes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import padded, random_rollouts, rollouts_of
from forkpoint.credit import chain, credit_of, group_advantage, run
from forkpoint.credit.attention import attention_weight
from forkpoint.credit.weight import balance, balance_entropy_flow, exponential_weight, linear_weight, steer
from forkpoint.errors import InputError
from forkpoint.rollouts import Forward, blank_credit
from forkpoint.scope import Batching

NAN, INF = float("nan"), float("inf")
SIZE = padded([[1.0, 4.0], [2.0], [8.0, 0.0]], fill=NAN)
MASK = SIZE.isfinite()
ONE, TWO = torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1])


def close(got, rows):
    torch.testing.assert_close(got[MASK], padded(rows, fill=NAN)[MASK], rtol=0, atol=1e-12)


def test_exponential_weight_by_hand():
    """low 1/4, largest 8: 4^(-1/8), 4^(-1/2), 4^(-1/4), 1/4, 1; by segment the largest are 4 and 8."""
    close(exponential_weight(SIZE, MASK, ONE, low=0.25), [[4 ** (-1 / 8), 0.5], [4**-0.25], [0.25, 1.0]])
    close(exponential_weight(SIZE, MASK, TWO, low=0.25), [[4**-0.25, 0.25], [0.5], [0.25, 1.0]])
    close(
        exponential_weight(SIZE, MASK, ONE, low=0.25, floor=16.0),
        [[4 ** (-1 / 16), 4**-0.25], [4 ** (-1 / 8)], [0.5, 1.0]],
    )


def test_linear_weight_by_hand():
    """From 1.2 at 0 down to 0.8 at 8; answer by answer at the last."""
    close(linear_weight(SIZE, MASK, ONE), [[1.15, 1.0], [1.1], [0.8, 1.2]])
    close(linear_weight(SIZE, MASK, torch.arange(3), low=0.5, high=2.0), [[2.0, 0.5], [1.25], [0.5, 2.0]])


def test_equal_sizes_and_none_at_all():
    level = torch.where(MASK, 3.0, NAN).double()
    close(exponential_weight(level, MASK, ONE, low=0.7), [[0.7, 0.7], [0.7], [0.7, 0.7]])
    close(exponential_weight(level * 0, MASK, ONE, low=0.7), [[1.0, 1.0], [1.0], [1.0, 1.0]])
    close(linear_weight(level, MASK, ONE, low=0.7, high=1.5), [[1.1, 1.1], [1.1], [1.1, 1.1]])
    for weight in (exponential_weight, linear_weight):
        assert (weight(SIZE, MASK & False, ONE) == 1).all()
        assert weight(SIZE[:, :0], MASK[:, :0], ONE).shape == (3, 0)
        assert weight(SIZE[:0], MASK[:0], ONE[:0]).shape == (0, 2)


def test_low_one_is_exactly_one():
    assert (exponential_weight(SIZE, MASK, ONE, low=1.0) == 1).all()
    assert (linear_weight(SIZE, MASK, ONE, low=1.0, high=1.0)[MASK] == 1).all()


def test_balance_by_hand():
    got = balance(torch.tensor([1.0, 3.0, 0.0, 2.0]), torch.tensor([3.0, 1.0, 5.0, 2.0]))
    assert got.tolist() == [0.5, -0.5, 1.0, 0.0]


def hand():
    """A = +a | -a; log π + H: -0.5, 0.5 | 0, 1 with π = e^-1, e^-1 | e^-2, e^-1."""
    return rollouts_of([[-1.0, -1.0], [-2.0, -1.0]], groups=[0, 0], reward=[1.0, 0.0], entropy=[[0.5, 1.5], [2.0, 2.0]])


def weights(link, rollouts, forward=None, batching=None):
    whole = chain(group_advantage(), link)
    credit, states = run(whole, blank_credit(rollouts), rollouts, [{}] * 2, when="rollout")
    return run(whole, credit, rollouts, states, when="update", forward=forward, batching=batching)[0].weight_BT


def exactly(got, rows):
    torch.testing.assert_close(got, torch.tensor(rows, dtype=torch.float64), rtol=0, atol=1e-12)


def test_balanced_flow_by_hand_and_its_scopes():
    """Δ ∝ +1/2, -1/2 | 0, +1: together rise 1.5, fall 0.5, λ = -1/2. Answer by answer λ = 0 and -1."""
    rollouts = hand()
    exactly(weights(balance_entropy_flow(), rollouts), [[0.5, 1.5], [1.0, 0.5]])
    exactly(weights(balance_entropy_flow(scope="sequence"), rollouts), [[1.0, 1.0], [1.0, 0.0]])
    apart = Batching(mini_B=torch.tensor([0, 1]), micro_B=torch.tensor([0, 1]))
    exactly(weights(balance_entropy_flow(), rollouts, batching=apart), [[1.0, 1.0], [1.0, 0.0]])
    exactly(weights(balance_entropy_flow(scope="rollout"), rollouts, batching=apart), [[0.5, 1.5], [1.0, 0.5]])
    exactly(weights(balance_entropy_flow(scope="sequence", limit=0.25), rollouts), [[1.0, 1.0], [1.0, 0.75]])
    exactly(weights(balance_entropy_flow(strength=0.5), rollouts), [[1.5, 0.5], [1.0, 1.5]])
    exactly(weights(balance_entropy_flow(strength=0.5, limit=0.25), rollouts), [[1.25, 0.75], [1.0, 1.25]])


def test_weights_multiply_what_is_there():
    rollouts = hand()
    credit = credit_of(chain(group_advantage()), rollouts)
    credit = dataclasses.replace(credit, weight_BT=torch.tensor([[2.0, 0.0], [1.0, 3.0]]).double())
    link = balance_entropy_flow(scope="rollout")
    exactly(run(chain(link), credit, rollouts, [{}], when="rollout")[0].weight_BT, [[1.0, 0.0], [1.0, 1.5]])


def test_a_steer_size_that_is_not_finite_counts_as_nothing():
    """Behaviour log-prob -800 and current 0: the ratio overflows; the token keeps weight 1."""
    rollouts = rollouts_of([[-800.0, -1.0], [-1.0, -2.0]], groups=[0, 0], reward=[1.0, 0.0])
    forward = Forward(logp_BT=padded([[-1e-3, -1.0], [-1.5, -2.0]]), entropy_BT=rollouts.entropy_BT)
    got = weights(steer(), rollouts, forward)
    assert got[0, 0] == 1
    assert got.isfinite().all()
    assert float(got.min()) == pytest.approx(0.7, abs=1e-12)


def test_steer_looks_only_at_tokens_that_count():
    """The unjudged answer has the largest size; the weights of the others are as if it were not there."""
    rollouts, forward = random_rollouts(4)
    unjudged = torch.tensor([False, False, True, False, False, False, False, False])
    part = dataclasses.replace(rollouts, judged_B=~unjudged)
    loud = dataclasses.replace(part, entropy_BT=torch.where(unjudged[:, None], 90.0, part.entropy_BT))
    rest = (~unjudged)[:, None] & rollouts.mask_BT
    for link in (steer(), steer(form="linear"), steer(flow="exact"), balance_entropy_flow()):
        assert torch.equal(weights(link, part, forward)[rest], weights(link, loud, forward)[rest])


def test_dropped_tokens_take_no_part_in_the_balance():
    """Without answer 1's second token the rise is 1/2 and the fall 1/2: nothing to balance."""
    rollouts = hand()
    credit = credit_of(chain(group_advantage()), rollouts)
    credit = dataclasses.replace(credit, keep_BT=torch.tensor([[True, True], [True, False]]))
    got = run(chain(balance_entropy_flow(scope="rollout")), credit, rollouts, [{}], when="rollout")[0].weight_BT
    exactly(got, [[1.0, 1.0], [1.0, 1.0]])


def attending(rows):
    rollouts = rollouts_of([[-1.0] * len(r) for r in rows], groups=[0] * len(rows), reward=[1.0, 0.0])
    return dataclasses.replace(rollouts, extra={"attention_entropy": padded(rows, fill=NAN)})


def test_attention_weight_by_hand():
    """Strength log 4: raw 1, 4 | 2, mean 7/3; answer by answer 2.5 and 2."""
    rollouts = attending([[0.0, 1.0], [0.5]])
    got = weights(attention_weight(strength=math.log(4)), rollouts)[rollouts.mask_BT]
    torch.testing.assert_close(got, torch.tensor([3 / 7, 12 / 7, 6 / 7], dtype=torch.float64), rtol=0, atol=1e-12)
    got = weights(attention_weight(strength=math.log(4), scope="sequence"), rollouts)[rollouts.mask_BT]
    torch.testing.assert_close(got, torch.tensor([0.4, 1.6, 1.0], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("strength", [5000.0, -5000.0])
def test_an_extreme_strength_does_not_overflow(strength):
    rollouts = attending([[0.0, 1.0], [0.5]])
    got = weights(attention_weight(strength=strength), rollouts)[rollouts.mask_BT]
    assert got.tolist() == ([0.0, 3.0, 0.0] if strength > 0 else [3.0, 0.0, 0.0])


def test_a_scope_far_from_the_end_is_normalised_by_its_own_largest():
    rollouts = attending([[0.0, 0.0], [0.0]])
    assert weights(attention_weight(strength=5000.0), rollouts)[rollouts.mask_BT].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("make", [steer, balance_entropy_flow])
@pytest.mark.parametrize("arguments", [{}, {"flow": "exact"}])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_what_is_not_finite_is_refused_by_place(make, arguments, bad):
    link = make(**arguments)
    rollouts, forward = random_rollouts(5)
    entropy_BT, logp_BT, flow_BT = (
        x.clone() for x in (rollouts.entropy_BT, rollouts.logp_BT, rollouts.extra["sampled_flow"])
    )
    entropy_BT[4, 3] = logp_BT[4, 3] = flow_BT[4, 3] = bad
    with pytest.raises(InputError, match="behaviour entropy of row 4, position 3"):
        weights(link, dataclasses.replace(rollouts, entropy_BT=entropy_BT), forward)
    if "sampled_flow" in link.needs:
        extra = {"sampled_flow": flow_BT}
        with pytest.raises(InputError, match="recorded sampled_flow of row 4, position 3"):
            weights(link, dataclasses.replace(rollouts, extra=extra), forward)
    if "forward" in link.needs:
        with pytest.raises(InputError, match="current log-prob of row 4, position 3"):
            weights(link, rollouts, dataclasses.replace(forward, logp_BT=logp_BT))
    else:
        with pytest.raises(InputError, match="behaviour log-prob of row 4, position 3"):
            weights(link, dataclasses.replace(rollouts, logp_BT=logp_BT), forward)


@pytest.mark.parametrize(
    ("link", "when", "needs"),
    [
        (steer(), "update", {"entropy", "forward"}),
        (steer(scope="rollout"), "update", {"entropy", "forward"}),
        (steer(flow="exact"), "update", {"entropy", "sampled_flow"}),
        (steer(flow="exact", scope="group"), "rollout", {"entropy", "sampled_flow"}),
        (balance_entropy_flow(), "update", {"entropy"}),
        (balance_entropy_flow(flow="exact", scope="rollout"), "rollout", {"entropy", "sampled_flow"}),
        (attention_weight(strength=1.0), "rollout", {"attention_entropy"}),
        (attention_weight(strength=1.0, scope="mini"), "update", {"attention_entropy"}),
    ],
)
def test_when_it_runs_and_what_it_needs(link, when, needs):
    assert (link.when, link.needs, link.stage) == (when, needs, "weight")
    assert not link.drops
    assert not link.adds
