"""Trust regions other than bounds on the ratio: SAPO, LUSPO, VESPO, DPPO."""

from __future__ import annotations

import math

import pytest
import torch
from identities import four_tokens_each, on_policy, reinforce, same

from core_batches import learn, random_rollouts
from forkpoint import methods
from forkpoint.credit import chain
from forkpoint.credit.offpolicy import divergence_mask, engine_correction, gamma_weight, stale_mask
from forkpoint.credit.sampled import without_truncated
from forkpoint.errors import InputError
from method_kit import A0, A1, BY_ANSWER, BY_TOKEN, FREE, GROUP, NEW, OLD, RATIO, case, check, row, times

ROWS = {
    "sapo": row("sapo"),
    "sapo hard": row("sapo", positive=4.0, negative=6.0),
    "luspo": row("luspo", teaches=False),
    "luspo wide": row("luspo", clip_low=0.2, clip_high=0.2),
    "vespo": row("vespo"),
    "vespo symmetric": row("vespo", k_positive=1.0, lambda_positive=1.0, k_negative=1.0, lambda_negative=1.0),
    "vespo engine": row("vespo", lambda: chain(methods.vespo(), gamma_weight(engine="token_mask", engine_high=1.1))),
    "dppo": row("dppo"),
    "dppo kl": row("dppo", measure="kl", low=0.01, high=0.01, cap=1.1),
    "dapo stale": row("dapo", lambda: chain(methods.dapo(), stale_mask(threshold=0.02))),
    "dapo engine": row("dapo", lambda: chain(methods.dapo(), engine_correction(high=1.05))),
    "dapo whole": row("dapo", lambda: chain(methods.dapo(), without_truncated())),
}

IDENTITIES = {
    "sapo": [same(methods.sapo, methods.grpo, "gradient", change=on_policy)],
    "luspo": [
        same(
            lambda: methods.luspo(clip_low=0.2, clip_high=0.2), lambda: methods.gspo(clip_low=0.2, clip_high=0.2),
            factor=4.0, change=four_tokens_each,
        ),
    ],
    "vespo": [
        same(methods.vespo, methods.dapo, "gradient", change=on_policy),
        same(
            lambda: methods.vespo(k_positive=0, lambda_positive=0, k_negative=0, lambda_negative=0),
            reinforce(methods.dapo),
        ),
    ],
    "dppo": [
        same(lambda: methods.dppo(low=math.inf, high=math.inf), lambda: methods.cispo(cap=20.0)),
        same(lambda: methods.dppo(measure="kl", low=math.inf, high=math.inf, cap=1.1), lambda: methods.cispo(cap=1.1)),
    ],
}  # fmt: skip

SIGN = [-1.0, 1.0, 1.0, -1.0]
"""Of the loss: the answers' advantages are + - - +."""
SIZE = [A0, A0, A1, A1]
TAU = [1.0, 1.05, 1.05, 1.0]


def gate(r, tau):
    return 1 / (1 + math.exp(-tau * (r - 1)))


SOFT = [[s * 4 / t * gate(r, t) for r in answer] for s, t, answer in zip(SIGN, TAU, RATIO, strict=True)]
SOFT_SLOPE = [
    [s * 4 * gate(r, t) * (1 - gate(r, t)) * r for r in answer] for s, t, answer in zip(SIGN, TAU, RATIO, strict=True)
]

# Geometric means of the ratios: sqrt(1.35) and 0.77^(1/3) lie inside 0.8 .. 1.2, 0.5 and sqrt(1.495) do not.
MEAN = [[-math.sqrt(1.35)] * 2, [0.8], [0.77 ** (1 / 3)] * 3, [-1.2] * 2]
MEAN_SLOPE = [[-math.sqrt(1.35)] * 2, [0.0], [0.77 ** (1 / 3)] * 3, [0.0] * 2]
QUARTER = [x / 4 for x in SIZE]

# Products of the ratios: 1.35, 0.5, 0.77, 1.495.
PHI = [
    1.35**2 * math.exp(3 * -0.35), 0.5**3 * math.exp(2 * 0.5), 0.77**3 * math.exp(2 * 0.23),
    1.495**2 * math.exp(3 * -0.495),
]  # fmt: skip
PHIS = [[p] * len(answer) for p, answer in zip(PHI, RATIO, strict=True)]
EIGHTH = [s * x / 8 for s, x in zip(SIGN, SIZE, strict=True)]


def logs(weights):
    """Loss and slope of -w A log π with the given weights, over 8 tokens."""
    scaled = times(EIGHTH, weights)
    return [[w * n for w, n in zip(*pair, strict=True)] for pair in zip(scaled, NEW, strict=True)], scaled


def capped(cap, masked):
    """min(r, cap), 0 where (answer, token) is masked."""
    return [[0.0 if (i, t) in masked else min(r, cap) for t, r in enumerate(answer)] for i, answer in enumerate(RATIO)]


# |π - π_old| = |r - 1| π_old: 0.184 0.014 | 0.303 | 0.022 0.222 0 | 0.122 0.050.
FAR = {(0, 0), (1, 0), (2, 1), (3, 0)}
# In nats: 0.068 of the first token, 0.196 of answer 1, 0.104 of answer 2's second, 0.030 of answer 3's first.
FAR_KL = {(0, 0), (1, 0)}


def kept(masked):
    return [[float((i, t) not in masked) for t in range(len(answer))] for i, answer in enumerate(RATIO)]


CASES = {
    "sapo": case(methods.sapo, GROUP, times(BY_ANSWER, SOFT), times(BY_ANSWER, SOFT_SLOPE)),
    "luspo": case(
        lambda: methods.luspo(clip_low=0.2, clip_high=0.2), GROUP, times(QUARTER, MEAN), times(QUARTER, MEAN_SLOPE)
    ),
    "vespo": case(methods.vespo, GROUP, *logs(PHIS), weight=PHIS),
    "vespo plain": case(
        lambda: methods.vespo(k_positive=0, lambda_positive=0, k_negative=0, lambda_negative=0),
        GROUP, *logs([[1.0] * len(answer) for answer in RATIO]),
    ),
    "dppo": case(
        lambda: methods.dppo(low=0.2, high=0.1, cap=1.12), GROUP, *logs(capped(1.12, FAR)), weight=kept(FAR)
    ),
    "dppo kl": case(
        lambda: methods.dppo(measure="kl", low=0.15, high=0.05), GROUP, *logs(capped(20, FAR_KL)), weight=kept(FAR_KL)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_the_binary_divergences_are_those_of_the_comment():
    for (i, t), nats in {(0, 0): 0.0682, (1, 0): 0.1956, (2, 1): 0.1037, (3, 0): 0.0298}.items():
        q, p = math.exp(OLD[i][t]), math.exp(NEW[i][t])
        assert q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)) == pytest.approx(nats, abs=1e-4)


def test_the_gate_tends_to_no_bound_as_its_temperature_falls():
    got = check(case(methods.sapo, GROUP, times(BY_ANSWER, SOFT), times(BY_ANSWER, SOFT_SLOPE)))
    assert (got.logp_gradient_BT != 0).sum() == 8, "no token is cut off"
    rollouts, forward = random_rollouts(0)
    soft = learn(methods.sapo(positive=1e-6, negative=1e-6), rollouts, forward).logp_gradient_BT
    free = learn(methods.grpo(clip_low=1.0, clip_high=math.inf), rollouts, forward).logp_gradient_BT
    torch.testing.assert_close(soft, free, rtol=0, atol=1e-9)


def test_a_stale_answer_is_silent_only_if_it_is_bad():
    """Mean log-ratios: answer 0 +0.15, 1 -0.69, 2 -0.087, 3 +0.2; the bad ones are 1 and 2."""
    for threshold, masked in ((0.05, {1, 2}), (0.1, {1}), (0.7, set()), (math.inf, set())):
        weight = [[0.0 if i in masked else 1.0] * len(answer) for i, answer in enumerate(RATIO)]
        free = [[w * x for w, x in zip(*pair, strict=True)] for pair in zip(weight, FREE, strict=True)]
        make = lambda threshold=threshold: chain(  # noqa: E731
            methods.dapo(clip_low=1.0, clip_high=math.inf), stale_mask(threshold=threshold)
        )
        check(case(make, GROUP, times(BY_TOKEN, free), times(BY_TOKEN, free), weight=weight))


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (lambda: methods.sapo(positive=0.0), "soft_gate positive is 0.0"),
        (lambda: methods.vespo(k_negative=-1.0), "gamma_weight k_negative is -1.0"),
        (lambda: methods.dppo(measure="tv"), "unknown measure 'tv'"),
        (lambda: methods.dppo(low=-0.1), "divergence_mask low is -0.1"),
        (lambda: stale_mask(threshold=0.0), "stale_mask threshold is 0.0"),
        (lambda: engine_correction(mode="token"), "unknown mode 'token'"),
        (lambda: engine_correction(low=2.0, high=1.0), "low is 2.0 and must not be above high, 1.0"),
        (lambda: gamma_weight(engine="sequence_mask"), "unknown engine 'sequence_mask'"),
        (lambda: without_truncated(denominator="some"), "unknown denominator 'some'"),
        (lambda: divergence_mask(high=math.nan), "divergence_mask high is nan"),
    ],
)
def test_an_argument_out_of_range_is_named(link, message):
    with pytest.raises(InputError, match=message):
        link()
