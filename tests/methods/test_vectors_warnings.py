"""Where released code, conventions or a quick reading lead astray: one test a trap."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import learn, random_rollouts, rollouts_of
from forkpoint import methods
from forkpoint.analyze.measures.sequence import entropy_area
from forkpoint.credit import chain, credit_of
from forkpoint.credit.difficulty import mastery_advantage
from forkpoint.credit.normalise import kind_whitened
from forkpoint.credit.steps import step_normalised
from forkpoint.merge.fusion import threshold
from forkpoint.rollouts import Forward
from forkpoint.selection.choose import Criteria
from forkpoint.selection.worth import allocate


def beyond(ratio, right):
    """One problem of four answers; the first token of answer 0 has high entropy and the given ratio."""
    logp = [[-1.0, -1.0]] * 4
    reward = [1.0 if right else 0.0, 0.0, 0.0, 1.0]
    rollouts = rollouts_of(logp, groups=[0] * 4, reward=reward, entropy=[[2.0, 0.1]] * 4)
    new_BT = rollouts.logp_BT.clone()
    new_BT[0, 0] += math.log(ratio)
    return rollouts, Forward(logp_BT=new_BT, entropy_BT=rollouts.entropy_BT)


@pytest.mark.parametrize(("ratio", "right"), [(1.5, True), (0.5, False)])
def test_1_htpo_pulls_the_way_of_the_reward_beyond_a_bound_and_its_release_the_other_way(ratio, right):
    plain = learn(methods.dapo(), *beyond(1.0, right)).logp_gradient_BT[0, 0]
    figure = learn(methods.htpo(), *beyond(ratio, right)).logp_gradient_BT[0, 0]
    released = learn(methods.htpo(preset="released"), *beyond(ratio, right)).logp_gradient_BT[0, 0]
    assert plain.sign() == figure.sign() == -released.sign()
    assert plain != 0


def test_2_the_cap_of_cispo_is_the_ratio_in_trl_and_the_distance_from_1_in_verl():
    rollouts, forward = random_rollouts(2)
    ours = learn(methods.cispo(cap=1.2), rollouts, forward).logp_gradient_BT
    torch.testing.assert_close(
        learn(methods.cispo_verl(clip_high=0.2), rollouts, forward).logp_gradient_BT, ours, rtol=0, atol=1e-15
    )
    assert not torch.equal(learn(methods.cispo(cap=0.2), rollouts, forward).logp_gradient_BT, ours)


def test_3_the_top_fifth_is_of_the_batch_in_80_20_and_of_the_answer_in_htpo():
    """Answer 0 has all the highest entropies of the batch."""
    entropy = [[5.0 + t for t in range(5)], *[[0.1 * t for t in range(5)]] * 4]
    rollouts = rollouts_of([[-1.0] * 5] * 5, groups=[0] * 5, reward=[1.0, 0, 0, 0, 0], entropy=entropy)
    forward = Forward(logp_BT=rollouts.logp_BT, entropy_BT=rollouts.entropy_BT)
    batch = learn(methods.forking(), rollouts, forward).credit.keep_BT
    answer = learn(methods.forking(scope="sequence"), rollouts, forward).credit.keep_BT
    assert batch.sum(1).tolist() == [5, 0, 0, 0, 0]
    assert answer.sum(1).tolist() == [1] * 5
    high = credit_of(methods.htpo(share=0.2), rollouts, forward=forward).scaled_low_BT
    assert high.sum(1).tolist() == [0, 1, 1, 1, 1], "wrong answers, the one token of each"


def test_4_the_entropy_area_is_a_sum_and_the_highest_is_kept():
    assert entropy_area([1.0, 0.5, 0.25], [0, 3]).area.tolist() == [1.75]
    assert Criteria(top=1).by == "area"
    assert not Criteria(top=1).lowest


def test_5_whitening_by_kind_weighs_an_answer_by_its_length():
    """Rewards 0 and 1 on 1 and 3 tokens: the mean is 3/4, and the unbiased deviation over tokens 1/2."""
    keep_BT = torch.tensor([[True, False, False], [True, True, True]])
    got = kind_whitened(torch.tensor([0.0, 1.0], dtype=torch.float64), keep_BT, torch.zeros(2).long(), eps=0.0)
    assert got.tolist() == pytest.approx([-1.5, 0.5], abs=1e-15)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_6_a_step_s_score_is_over_the_answers_that_have_it_and_bounded(m):
    """One of m answers stands out as far as one can: (m - 1)/sqrt(m). A sixth answer lacks the step."""
    reward = [[1.0]] + [[0.0]] * (m - 1) + [[math.nan]]
    step = [[0]] * (m + 1)
    got = step_normalised(
        torch.tensor(reward, dtype=torch.float64), torch.tensor(step), torch.ones(m + 1, 1) > 0,
        torch.zeros(m + 1).long(), eps=0.0,
    )  # fmt: skip
    assert got[0].item() == pytest.approx((m - 1) / math.sqrt(m), abs=1e-12)
    assert got[-1].item() == 0


@pytest.mark.parametrize("n", [4, 8, 16])
def test_8_a_lone_failure_weighs_more_the_larger_the_group(n):
    rollouts = rollouts_of([[-1.0]] * n, groups=[0] * n, reward=[1.0] * (n - 1) + [0.0])
    assert credit_of(chain(mastery_advantage()), rollouts).advantage_BT[-1, 0].item() == pytest.approx(
        -n / 2, abs=1e-12
    )


def test_9_easy_problems_get_the_first_further_answers():
    assert allocate([0, 1, 2, 3, 4], 4, 3) == [0, 0, 1, 1, 1]
    assert allocate([0, 1, 2, 3, 4], 4, 3, discount_probes=True) == [2, 1, 0, 0, 0]


def test_10_opefo_s_estimates_disagree_and_only_the_exact_one_may_be_trusted():
    """Needs the sum over the vocabulary: a chain that asks for it names what is missing."""
    exact, rough = methods.opefo(flow="exact"), methods.opefo(flow="one-term")
    assert "sampled_flow" in exact.needs - rough.needs
    rollouts, forward = random_rollouts(3)
    weights = [credit_of(x, rollouts, forward=forward).weight_BT for x in (exact, rough)]
    assert not torch.equal(*weights)


def test_11_a_fusion_s_threshold_starts_at_the_median_not_at_the_third_quartile():
    """Of 0 .. 100: 50 + 1.5 (75 - 25) is 125; from the third quartile it would be 150."""
    assert threshold([float(i) for i in range(101)]) == 125.0


def test_the_scope_of_a_statistic_is_part_of_the_method():
    """Released code takes it over the pass at hand: the result then depends on how many rows fit in memory."""
    rollouts, forward = random_rollouts(4)
    whole, cut = [[*range(8)]], [[0, 1, 2], [3, 4], [5, 6, 7]]
    for make in (
        methods.steer,
        methods.hapo,
        methods.agentic_aepo,
        lambda scope: methods.kl_cov(share=0.2, scope=scope),
    ):
        mini, micro = (
            [learn(make(scope=scope), rollouts, forward, [micros]).logp_gradient_BT for micros in (whole, cut)]
            for scope in ("mini", "micro")
        )
        torch.testing.assert_close(*mini, rtol=0, atol=1e-12)
        assert float((micro[0] - micro[1]).abs().max()) > 1e-5


def test_a_bonus_needs_the_entropy_that_carries_gradient_and_a_shape_does_not():
    """Entropies of the policy that sampled are fixed for the step; a regulariser of them would have no gradient."""
    assert "entropy_gradient" in methods.entropy_bonus(coefficient=0.1).needs
    shaped = methods.eapo()
    assert "entropy_gradient" not in shaped.needs
    rollouts, forward = random_rollouts(5)
    other = dataclasses.replace(forward, entropy_BT=forward.entropy_BT * 2)
    if "forward" not in shaped.needs:
        a, b = (learn(shaped, rollouts, f).logp_gradient_BT for f in (forward, other))
        assert torch.equal(a, b)
