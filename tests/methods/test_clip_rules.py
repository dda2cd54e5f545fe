"""Methods that differ from their parent in the ratio or its bounds; see `method_kit` for the batch."""

from __future__ import annotations

import math

import pytest
import torch

from core_batches import forward_of, learn, random_rollouts
from forkpoint import methods
from forkpoint.credit import credit_of
from forkpoint.errors import InputError
from forkpoint.loss import log_power_mean
from forkpoint.methods import METHODS
from method_kit import (
    A0,
    A1,
    BY_ANSWER,
    BY_TOKEN,
    FREE,
    GROUP,
    HIGHER,
    NEW,
    RATIO,
    SLOPE,
    batch,
    case,
    check,
    row,
    same,
    times,
)

ROWS = {
    "clip_higher": row("clip_higher"),
    "dual_clip": row("dual_clip"),
    "dual_clip tight": row("dual_clip", c=1.05),
    "cispo_verl": row("cispo_verl"),
    "cispo_verl floor": row("cispo_verl", clip_low=0.1, clip_high=0.1),
    "holder": row("holder"),
    "holder falling": row("holder", start=-1.0, stop=-1.0),
    "holder wide": row("holder", start=3.0, stop=3.0, clip_low=0.9, clip_high=9.0),
    "gmpo": row("gmpo"),
    "gmpo tight": row("gmpo", low=0.1, high=0.05),
    "hapo_clip": row("hapo_clip"),
    "hapo_clip released": row("hapo_clip", released_sign=True, scope="micro", micro=True),
    "hapo_clip rollout": row("hapo_clip", scope="rollout", alpha=0.5),
    "scaled_clip": row("scaled_clip"),
}

# HölderPO. M_2 of the answers: sqrt((1.5² + 0.9²) / 2), 0.5, sqrt((1.1² + 0.7² + 1) / 3), sqrt((1.3² + 1.15²) / 2).
# The first and the last exceed 1.2, the second lies below 0.8; of a clip only the value counts.
SQUARE2 = 1.1**2 + 0.7**2 + 1.0
M2 = math.sqrt(SQUARE2 / 3)
# M_-1 is the harmonic mean: 1.125, 0.5, 0.8988, 1.2204.
INVERSE0, INVERSE2 = 1 / 1.5 + 1 / 0.9, 1 / 1.1 + 1 / 0.7 + 1.0
H0, H2 = 2 / INVERSE0, 3 / INVERSE2
# GMPO: log 1.5 is above 0.4 and log 0.5 below -0.4.
G0, G2, G3 = math.exp((0.4 + math.log(0.9)) / 2), (1.1 * 0.7) ** (1 / 3), math.sqrt(1.3 * 1.15)

# HAPO: the 0.8-quantile of eight ln H lies 0.6 of the way from ln 0.7 to ln 0.8; 0.9 is the highest, 0.05 the lowest.
QUANTILE = 0.4 * math.log(0.7) + 0.6 * math.log(0.8)
LEAST = QUANTILE - math.log(0.05)


def low_of(entropy: float, width: float) -> float:
    """The lower bound of a token below the quantile."""
    return 1 - width * (1 + (QUANTILE - math.log(entropy)) / LEAST)


CASES = {
    "clip_higher": case(METHODS["clip_higher"], GROUP, times(BY_ANSWER, HIGHER), times(BY_ANSWER, SLOPE)),
    # Bad answers cost at most 1.05 |A|: the ratio 1.1 exceeds it and has no gradient.
    "dual_clip tight": case(
        ROWS["dual_clip tight"].make,
        GROUP,
        times(BY_ANSWER, [[-1.2, -0.9], [0.8], [1.05, 0.8, 1.0], [-1.2, -1.15]]),
        times(BY_ANSWER, [[0.0, -0.9], [0.0], [0.0, 0.0, 1.0], [0.0, -1.15]]),
    ),
    # Weights are capped at 1 + 0.2 and lie above max(0, 1 - 10); they multiply log π.
    "cispo_verl": case(
        METHODS["cispo_verl"],
        GROUP,
        [[w * n for w, n in zip(*rows, strict=True)]
         for rows in zip(times(BY_TOKEN, [[-1.2, -0.9], [0.5], [1.1, 0.7, 1.0], [-1.2, -1.15]]), NEW, strict=True)],
        times(BY_TOKEN, [[-1.2, -0.9], [0.5], [1.1, 0.7, 1.0], [-1.2, -1.15]]),
    ),
    # With 0.4 to the lower side the ratio 0.5 weighs 0.6.
    "cispo_verl floor": case(
        lambda: methods.cispo_verl(clip_low=0.4),
        GROUP,
        [[w * n for w, n in zip(*rows, strict=True)]
         for rows in zip(times(BY_TOKEN, [[-1.2, -0.9], [0.6], [1.1, 0.7, 1.0], [-1.2, -1.15]]), NEW, strict=True)],
        times(BY_TOKEN, [[-1.2, -0.9], [0.6], [1.1, 0.7, 1.0], [-1.2, -1.15]]),
    ),
    "holder": case(
        METHODS["holder"],
        GROUP,
        times(BY_ANSWER, [[-1.2] * 2, [0.8], [M2] * 3, [-1.2] * 2]),
        times(BY_ANSWER, [[0.0] * 2, [0.0], [3 * M2 * r * r / SQUARE2 for r in RATIO[2]], [0.0] * 2]),
    ),
    "holder harmonic": case(
        lambda: methods.holder(start=-1.0, stop=-1.0),
        GROUP,
        times(BY_ANSWER, [[-H0] * 2, [0.8], [H2] * 3, [-1.2] * 2]),
        times(
            BY_ANSWER,
            [[-2 * H0 / r / INVERSE0 for r in RATIO[0]], [0.0], [3 * H2 / r / INVERSE2 for r in RATIO[2]], [0.0] * 2],
        ),
    ),
    "gmpo": case(
        METHODS["gmpo"],
        GROUP,
        times(BY_ANSWER, [[-G0] * 2, [math.exp(-0.4)], [G2] * 3, [-G3] * 2]),
        times(BY_ANSWER, [[0.0, -G0], [0.0], [G2] * 3, [-G3] * 2]),
    ),
    # The token of entropy 0.2 and ratio 0.7 is clipped at 0.702, that of entropy 0.5 and ratio 0.5 at 0.77.
    "hapo_clip": case(
        METHODS["hapo_clip"],
        GROUP,
        times(BY_TOKEN, [[-1.28, -0.9], [low_of(0.5, 0.2)], [1.1, low_of(0.2, 0.2), 1.0], [-1.28, -1.15]]),
        times(BY_TOKEN, SLOPE),
    ),
    # With a width of 0.3 the ratio 0.7 passes; the uncertain token of ratio 0.9 would pass up to 1 + 2 * 0.28.
    "hapo_clip wide": case(
        lambda: methods.hapo_clip(clip_low=0.3),
        GROUP,
        times(BY_TOKEN, [[-1.28, -0.9], [low_of(0.5, 0.3)], [1.1, 0.7, 1.0], [-1.28, -1.15]]),
        times(BY_TOKEN, [[0.0, -0.9], [0.0], [1.1, 0.7, 1.0], [0.0, -1.15]]),
    ),
    # Ratios 1.5 and 1.3 are beyond 1.28: the value stops there, the slope is 1.28 times that of log π.
    "scaled_clip": case(
        METHODS["scaled_clip"],
        GROUP,
        times(BY_TOKEN, HIGHER),
        times(BY_TOKEN, [[-1.28, -0.9], [0.0], [1.1, 0.0, 1.0], [-1.28, -1.15]]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_bounds_of_hapo_open_with_entropy():
    """h of entropy 0.9 is 1, of 0.05 it is -1, of 0.8 the share 0.4 (ln 0.8 - ln 0.7) / (ln 0.9 - quantile)."""
    upper = 0.4 * math.log(0.8 / 0.7) / (math.log(0.9) - QUANTILE)
    rollouts, forward = batch()
    bounds = credit_of(methods.hapo_clip(), rollouts, forward=forward)
    assert float(bounds.high_BT[0, 1]) == pytest.approx(1 + 2 * 0.28, abs=1e-12)
    assert float(bounds.high_BT[2, 0]) == pytest.approx(1 + 0.28 * (1 + upper), abs=1e-12)
    assert float(bounds.high_BT[2, 2]) == pytest.approx(1.28, abs=1e-12)
    assert float(bounds.low_BT[2, 2]) == pytest.approx(1 - 2 * 0.2, abs=1e-12)
    released = credit_of(methods.hapo_clip(released_sign=True), rollouts, forward=forward)
    assert bool((released.low_BT == 0.8).all()), "with the released sign no lower bound moves"
    assert float(released.high_BT[2, 2]) == pytest.approx(1 + 2 * 0.28, abs=1e-12)


def on_random(make, seed):
    return learn(make(), *random_rollouts(seed))


REDUCTIONS = {
    "clip_higher with equal clips is GRPO": (lambda: methods.clip_higher(clip_high=0.2), methods.grpo),
    "infinite dual clip is GRPO": (lambda: methods.dual_clip(c=math.inf), methods.grpo),
    "verl's CISPO is CISPO": (methods.cispo_verl, lambda: methods.cispo(cap=1.2, floor=0.0)),
    "HölderPO of order 0 is GSPO": (
        lambda: methods.holder(start=0.0, stop=0.0),
        lambda: methods.gspo(clip_low=0.2, clip_high=0.2),
    ),
    "a schedule that has just begun stands at its start": (
        methods.holder, lambda: methods.holder(start=2.0, stop=2.0),
    ),
    "GMPO without bounds is GSPO without bounds": (
        lambda: methods.gmpo(low=50.0, high=50.0),
        lambda: methods.gspo(clip_low=1.0, clip_high=math.inf),
    ),
    "alpha 0 is DAPO": (lambda: methods.hapo_clip(alpha=0.0), methods.dapo),
    "bounds that nothing reaches": (
        lambda: methods.scaled_clip(clip_high=9.0), lambda: methods.dapo(clip_high=9.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    special, parent = REDUCTIONS[name]
    for seed in range(4):
        got, expected = on_random(special, seed), on_random(parent, seed)
        assert got.value == pytest.approx(expected.value, abs=1e-12)
        same(got.logp_gradient_BT, expected.logp_gradient_BT)


def test_means_of_every_order_lie_between_least_and_largest_ratio():
    """Means of order p of (0.5, 1, 2), from the power-mean formula."""
    x = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64).log()
    known = {2.0: 1.3228757, 1.0: 1.1666667, 0.0: 1.0, -1.0: 0.8571429, -2.0: 0.7559289}
    for order, value in known.items():
        got = log_power_mean(x, torch.ones_like(x, dtype=torch.bool), order).exp()
        assert got.tolist() == [pytest.approx([value] * 3, abs=1e-7)]
    assert float(log_power_mean(x, x > -9, 400.0).exp().max()) == pytest.approx(2.0, rel=0.01)


def test_on_policy_the_gradient_is_the_parents():
    """r = 1 everywhere: every mean is 1 and every bound is far."""
    rollouts, _ = random_rollouts(3)
    expected = learn(methods.grpo(), rollouts, forward_of(rollouts)).logp_gradient_BT
    for method in ("holder", "gmpo", "dual_clip", "clip_higher"):
        same(learn(METHODS[method](), rollouts, forward_of(rollouts)).logp_gradient_BT, expected)


def test_values_of_free_answers():
    """What the tables of the kit say of an answer that nothing clips."""
    got = learn(methods.holder(start=1.0, stop=1.0, clip_low=1.0, clip_high=9.0), *batch())
    means = [1.2, 0.5, 2.8 / 3, 1.225]
    assert got.value == pytest.approx((-A0 * means[0] + A0 * means[1] + A1 * means[2] - A1 * means[3]) / 4, abs=1e-12)
    assert float(got.logp_gradient_BT[1, 0]) == pytest.approx(FREE[1][0] * BY_ANSWER[1], abs=1e-12)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("holder", {"steps": 0}, "steps"),
        ("gmpo", {"low": -0.1}, "log_clip low is -0.1"),
        ("hapo_clip", {"alpha": 1.5}, "entropy_clip alpha is 1.5"),
        ("hapo_clip", {"scope": "minni"}, "did you mean 'mini'"),
        ("dual_clip", {"c": 0.5}, "dual_clip c is 0.5"),
    ],
)
def test_bad_arguments_are_named(method, arguments, message):
    with pytest.raises(InputError) as error:
        METHODS[method](**arguments)
    assert message in str(error.value)
