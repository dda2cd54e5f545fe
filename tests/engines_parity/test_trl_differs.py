"""TRL's entropy mask, its adaptive bonus, and where we differ from it on purpose."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from trl_cases import CASES, PPO
from trl_oracle import FOURTHS, WHOLE, advantages_of, batch, given_inputs, their_loss, with_their_eps

from core_batches import learn, rollouts_of
from forkpoint import methods
from forkpoint.credit import chain, entropy_bonus, init, run
from forkpoint.credit.select import above_quantile
from forkpoint.errors import InputError
from forkpoint.rollouts import Forward, blank_credit

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def theirs(trainer, method, rollouts, forward, micros=WHOLE):
    return their_loss(trainer, given_inputs(rollouts, advantages_of(method, rollouts)), forward, micros)


@pytest.fixture(scope="module")
def trainer_for_masks(oracle):
    return oracle(top_entropy_quantile=0.2)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("levels", [None, 1, 2, 5, 20])
def test_the_entropy_mask_is_trl_s(trainer_for_masks, share, levels):
    for seed in range(6):
        rollouts, forward = batch(seed, levels)
        mask = trainer_for_masks.get_high_entropy_mask(forward.entropy_BT, rollouts.mask_BT.long(), 1 - share)
        one = torch.zeros(rollouts.rows, dtype=torch.int64)
        assert torch.equal(above_quantile(forward.entropy_BT, rollouts.mask_BT, share, one), mask)
        single = above_quantile(forward.entropy_BT.float(), rollouts.mask_BT, share, one)
        assert torch.equal(single, mask)


def test_all_tied_keeps_everything_in_trl_and_in_its_preset_but_not_by_count(trainer_for_masks):
    rollouts = rollouts_of([[-1.0] * 10] * 4, groups=[0] * 4, entropy=[[0.7] * 10] * 4, reward=[1.0, 0, 0, 0])
    entropy_BT = rollouts.entropy_BT
    mask = trainer_for_masks.get_high_entropy_mask(entropy_BT, rollouts.mask_BT.long(), 0.8)
    forward = Forward(logp_BT=rollouts.logp_BT, entropy_BT=entropy_BT)
    preset = learn(methods.forking(preset="trl"), rollouts, forward).credit.weight_BT
    exact = learn(methods.forking(), rollouts, forward).credit.keep_BT
    assert (int(mask.sum()), int((preset != 0).sum()), int(exact.sum())) == (40, 40, 8)


def test_one_entropy_that_is_not_a_number(oracle):
    """TRL trains on nothing without a word; ours stops and says which token."""
    rollouts, forward = batch(5)
    entropy_BT = forward.entropy_BT.clone()
    entropy_BT[2, 1] = math.nan
    broken = Forward(logp_BT=forward.logp_BT, entropy_BT=entropy_BT)
    method = with_their_eps(methods.forking(preset="trl"))
    trainer = oracle(loss_type="dapo", top_entropy_quantile=0.2, **PPO)
    value, by_logp, _ = theirs(trainer, method, rollouts, broken)
    assert value == 0
    assert (by_logp == 0).all()
    with pytest.raises(InputError, match="current entropy of row 2, position 1 is nan"):
        learn(method, rollouts, broken)


def test_the_selection_depends_on_their_passes_and_not_on_ours(oracle):
    rollouts, forward = batch(6)
    make, arguments = CASES["forking 0.2"]
    method = with_their_eps(make())
    found = [
        theirs(oracle(passes=len(micros), **arguments), method, rollouts, forward, micros)[1]
        for micros in (WHOLE, FOURTHS)
    ]
    assert float((found[0] - found[1]).abs().max()) > 1e-3
    default = methods.forking(share=0.2)
    ours = [learn(default, rollouts, forward, [micros]).logp_gradient_BT for micros in (WHOLE, FOURTHS)]
    torch.testing.assert_close(*ours, rtol=0, atol=1e-12)


def test_the_bonus_of_selected_tokens(oracle):
    """TRL divides the bonus by the selected tokens; with `denominator="all"` ours divides by all."""
    rollouts, forward = batch(7)
    trainer = oracle(loss_type="dapo", top_entropy_quantile=0.2, entropy_coef=0.3, **PPO)
    method = chain(with_their_eps(methods.forking(preset="trl")), entropy_bonus(coefficient=0.3))
    found = theirs(trainer, method, rollouts, forward)[2]
    ours = learn(method, rollouts, forward).entropy_gradient_BT
    selected, total = int((found != 0).sum()), int(rollouts.mask_BT.sum())
    assert torch.equal(ours != 0, found != 0)
    torch.testing.assert_close(ours * total, found * selected, rtol=0, atol=1e-6)


def test_adaptive_entropy_control_is_trl_s_over_three_updates(oracle):
    """TRL lets the previous update's entropy decide (`gate="previous"`); coefficients and gradients agree."""
    make = lambda: methods.adaptive_entropy(target=0.6, delta=0.05, start=0.1, clip_high=0.28, gate="previous")  # noqa: E731
    trainer = oracle(
        loss_type="dapo",
        use_adaptive_entropy=True,
        entropy_coef=0.1,
        entropy_target=0.6,
        entropy_coef_delta=0.05,
        **PPO,
    )
    rollouts, forward = batch(0)
    method = with_their_eps(make())
    states = init(method)
    for scale in (1.0, 2.0, 1.0):  # mean entropies below, above and below the target
        now = Forward(logp_BT=forward.logp_BT, entropy_BT=scale * forward.entropy_BT)
        _, logp_gradient, entropy_gradient = theirs(trainer, method, rollouts, now)
        moved = chain(*(replace(x, init=lambda s=s: s) for x, s in zip(method.links, states, strict=True)))
        got = learn(moved, rollouts, now)
        torch.testing.assert_close(got.logp_gradient_BT, logp_gradient, rtol=0, atol=1e-6)
        torch.testing.assert_close(got.entropy_gradient_BT, entropy_gradient, rtol=0, atol=1e-6)
        _, states = run(method, blank_credit(rollouts), rollouts, states, when="update", forward=now)
        assert states[-1]["coefficient"] == pytest.approx(trainer.entropy_coef, abs=1e-12)
    assert bool((entropy_gradient == 0).all()), "the second update's entropy lay above the target"
