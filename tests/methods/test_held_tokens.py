"""Methods that silence or hold single tokens: covariance, low probability, references; see `method_kit`."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import learn, random_rollouts
from forkpoint import methods
from forkpoint.credit import chain, credit_of, init, run
from forkpoint.credit.anchors import difficulty_kl
from forkpoint.errors import InputError
from forkpoint.loss import penalty_loss
from forkpoint.methods import METHODS
from forkpoint.rollouts import Penalty, blank_credit
from method_kit import (
    A0,
    BY_ANSWER,
    BY_TOKEN,
    FREE,
    GROUP,
    HIGHER,
    LENGTH,
    NEW,
    PPO,
    RATIO,
    SLOPE,
    batch,
    case,
    check,
    plus,
    row,
    same,
    times,
)

ROWS = {
    "clip_cov": row("clip_cov"),
    "clip_cov busy": row("clip_cov", share=0.3, low=0.01, high=9.0, clip_low=0.2, clip_high=0.2),
    "clip_cov micro": row("clip_cov", share=0.4, low=-1.0, high=9.0, scope="micro", micro=True),
    "kl_cov": row("kl_cov"),
    "kl_cov group": row("kl_cov", share=0.3, scope="group"),
    "kl_cov micro": row("kl_cov", share=0.3, scope="micro", micro=True),
    "lp_reg": row("lp_reg"),
    "lp_reg half": row("lp_reg", share=0.5, clip_low=0.2, clip_high=0.28),
    "grpo_kl": row("grpo_kl"),
    "grpo_kl k1+": row("grpo_kl", form="k1+", coefficient=0.3),
    "grpo_kl k3+": row("grpo_kl", form="k3+", coefficient=0.3),
    "grpo_kl abs": row("grpo_kl", form="abs", coefficient=0.3),
    "mcpo_kl": row("mcpo_kl"),
    "mcpo_kl zero": row("mcpo_kl", threshold=0.0),
    "ares_kl": row("ares_kl"),
    "t1": row("t1", entropy_coefficient=0.05, bfloat16=0.02, level_teaches=True),
    "t1 far": row("t1", entropy_coefficient=0.0, kl=0.5, bfloat16=0.05, level_teaches=True),
}


def proxies(*rows):
    """Give the batch these log-probs under the filtered policy."""
    T = max(LENGTH)
    table = torch.tensor([[*r, *[0.0] * (T - len(r))] for r in rows], dtype=torch.float64)

    def change(rollouts, forward):
        return dataclasses.replace(rollouts, extra={**rollouts.extra, "proxy_logp": table}), forward

    return change


def mastered(rollouts, forward):
    """Both answers to the second problem are right, and so without advantage."""
    return dataclasses.replace(rollouts, reward_B=torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)), forward


def k3(d: float) -> float:
    return math.exp(d) - d - 1


def hinge(d: float) -> float:
    return k3(d) - k3(math.copysign(0.01, d)) if abs(d) > 0.01 else 0.0


EACH = [[1 / 8] * n for n in LENGTH]
"""The coefficient of a token under the token denominator."""
INF = math.inf
D = [[math.log(r) for r in answer] for answer in RATIO]
# K of T1: the sampling policy's log-prob minus the reference's, which is the current one plus 0.1.
K = [sum(-d - 0.1 for d in answer) for answer in D]
SHAPED = [r - 0.5 * k for r, k in zip([1.0, 0.0, 0.0, 2.0], K, strict=True)]
T1_GAINS = [SHAPED[0] - SHAPED[1], SHAPED[1] - SHAPED[0], SHAPED[2] - SHAPED[3], SHAPED[3] - SHAPED[2]]

CASES = {
    # No covariance exceeds 1, and the bounds 0 and 2 clip nothing.
    "clip_cov": case(METHODS["clip_cov"], GROUP, times(BY_TOKEN, FREE), times(BY_TOKEN, FREE)),
    # log π - mean is 0.437 for the first token, A - mean is A0: 0.309, alone between 0.3 and 0.5.
    "clip_cov one": case(
        lambda: methods.clip_cov(low=0.3, high=0.5),
        GROUP,
        times(BY_TOKEN, [[0.0, *FREE[0][1:]], *FREE[1:]]),
        times(BY_TOKEN, [[0.0, *FREE[0][1:]], *FREE[1:]]),
        weight=[[0, 1], [1], [1, 1, 1], [1, 1]],
    ),
    # 0.309, 0.264 and 0.279 lie between 0.26 and 0.5; the first and the last are clipped at 1.2 already.
    "clip_cov clipped": case(
        lambda: methods.clip_cov(low=0.26, high=0.5, share=0.5, clip_low=0.2, clip_high=0.2),
        GROUP,
        times(BY_TOKEN, [PPO[0], PPO[1], [0.0, *PPO[2][1:]], PPO[3]]),
        times(BY_TOKEN, [SLOPE[0], SLOPE[1], [0.0, *SLOPE[2][1:]], SLOPE[3]]),
        weight=[[1, 1], [1], [0, 1, 1], [1, 1]],
    ),
    # One token, that of covariance 0.309: |log 1.5| is added, whose slope by log π is 1.
    "kl_cov": case(
        METHODS["kl_cov"],
        GROUP,
        plus(times(BY_TOKEN, FREE), [[math.log(1.5) / 8, 0.0], [0.0], [0.0] * 3, [0.0] * 2]),
        plus(times(BY_TOKEN, FREE), [[1 / 8, 0.0], [0.0], [0.0] * 3, [0.0] * 2]),
    ),
    # A quarter of eight: the token of covariance 0.279 (ratio 1.3) as well.
    "kl_cov quarter": case(
        lambda: methods.kl_cov(share=0.25, coefficient=2.0),
        GROUP,
        plus(times(BY_TOKEN, FREE), [[math.log(1.5) / 4, 0.0], [0.0], [0.0] * 3, [math.log(1.3) / 4, 0.0]]),
        plus(times(BY_TOKEN, FREE), [[2 / 8, 0.0], [0.0], [0.0] * 3, [2 / 8, 0.0]]),
    ),
    # 1 % of four tokens with A < 0 is none; the bounds 0 and 10 clip nothing.
    "lp_reg": case(METHODS["lp_reg"], GROUP, times(BY_TOKEN, FREE), times(BY_TOKEN, FREE)),
    # The two least probable of the four have log π -1.405 and -1.193. The filter lets the first pass at -1.2.
    "lp_reg half": case(
        lambda: methods.lp_reg(share=0.5),
        GROUP,
        plus(times(BY_TOKEN, FREE), [[0.0] * 2, [0.0], [k3(-1.2 - NEW[2][0]) / 8, 0.0, 0.0], [0.0] * 2]),
        plus(times(BY_TOKEN, FREE), [[0.0] * 2, [0.0], [(1 - math.exp(-1.2 - NEW[2][0])) / 8, 0.0, 0.0], [0.0] * 2]),
        change=proxies([0.0, 0.0], [-INF], [-1.2, 0.0, 0.0], [0.0, 0.0]),
    ),
    # All four; held tokens have no clip: the ratio 0.5 keeps its value and slope. -0.9 lies below log π = -0.7.
    "lp_reg all": case(
        lambda: methods.lp_reg(share=1.0, clip_low=0.2, clip_high=0.28, coefficient=2.0),
        GROUP,
        plus(
            times(BY_TOKEN, [HIGHER[0], [0.5], HIGHER[2], HIGHER[3]]),
            [[0.0] * 2, [2 * k3(-1.0 - NEW[1][0]) / 8], [2 * k3(-1.2 - NEW[2][0]) / 8, 0.0, 0.0], [0.0] * 2],
        ),
        plus(
            times(BY_TOKEN, [SLOPE[0], [0.5], SLOPE[2], SLOPE[3]]),
            [
                [0.0] * 2,
                [2 * (1 - math.exp(-1.0 - NEW[1][0])) / 8],
                [2 * (1 - math.exp(-1.2 - NEW[2][0])) / 8, 0.0, 0.0],
                [0.0] * 2,
            ],
        ),
        change=proxies([9.0, 9.0], [-1.0], [-1.2, -INF, -0.9], [9.0, 9.0]),
    ),
    # Δ = 0.1 everywhere: k3 = exp(0.1) - 1.1, slope 1 - exp(0.1).
    "grpo_kl": case(
        METHODS["grpo_kl"],
        GROUP,
        plus(times(BY_ANSWER, PPO), [[0.04 * k3(0.1) / (4 * n)] * n for n in LENGTH]),
        plus(times(BY_ANSWER, SLOPE), [[0.04 * (1 - math.exp(0.1)) / (4 * n)] * n for n in LENGTH]),
    ),
    # Straight-through: the value of k1 = -0.1 or of k3, the slope -0.1 of k2.
    "grpo_kl k1+": case(
        lambda: methods.grpo_kl(coefficient=0.5, form="k1+"),
        GROUP,
        plus(times(BY_ANSWER, PPO), [[0.5 * -0.1 / (4 * n)] * n for n in LENGTH]),
        plus(times(BY_ANSWER, SLOPE), [[0.5 * -0.1 / (4 * n)] * n for n in LENGTH]),
    ),
    "grpo_kl k3+": case(
        lambda: methods.grpo_kl(coefficient=0.5, form="k3+"),
        GROUP,
        plus(times(BY_ANSWER, PPO), [[0.5 * k3(0.1) / (4 * n)] * n for n in LENGTH]),
        plus(times(BY_ANSWER, SLOPE), [[0.5 * -0.1 / (4 * n)] * n for n in LENGTH]),
    ),
    # Without mastered problems it is clip-higher; with one its answers are held: φ of log 1.1, log 0.7, 0, log 1.3, …
    "mcpo_kl": case(METHODS["mcpo_kl"], GROUP, times(BY_ANSWER, HIGHER), times(BY_ANSWER, SLOPE)),
    "mcpo_kl mastered": case(
        METHODS["mcpo_kl"],
        [A0, -A0, 0.0, 0.0],
        [
            *times(BY_ANSWER[:2], HIGHER[:2]),
            [hinge(d) / 12 for d in D[2]],
            [hinge(d) / 8 for d in D[3]],
        ],
        [
            *times(BY_ANSWER[:2], SLOPE[:2]),
            [math.expm1(d) / 12 for d in D[2]],
            [math.expm1(d) / 8 for d in D[3]],
        ],
        change=mastered,
    ),
    # β is 1 before the first step of its controller: DAPO plus 0.01 k3 of 0.1.
    "ares_kl": case(
        lambda: methods.ares_kl(clip_high=0.28),
        GROUP,
        plus(times(BY_TOKEN, HIGHER), [[0.01 * k3(0.1) / 8] * n for n in LENGTH]),
        plus(times(BY_TOKEN, SLOPE), [[0.01 * (1 - math.exp(0.1)) / 8] * n for n in LENGTH]),
    ),
    # A_i is the shaped reward minus the other answer's; sums over tokens, mean over four answers, nothing clipped.
    "t1": case(
        lambda: methods.t1(entropy_coefficient=0.1, kl=0.5),
        T1_GAINS,
        [
            [-gain * r / 4 - 0.1 * h / 4 for r, h in zip(ratios, entropies, strict=True)]
            for gain, ratios, entropies in zip(
                T1_GAINS, RATIO, [[0.3, 0.9], [0.5], [0.8, 0.2, 0.05], [0.1, 0.7]], strict=True
            )
        ],
        [[-gain * r / 4 for r in ratios] for gain, ratios in zip(T1_GAINS, RATIO, strict=True)],
        entropy_gradient=-0.1 / 4,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_hinge_of_known_differences():
    """φ(0.005) = 0, φ(0.1) = 0.00512075, φ(-0.1) = 0.00478758 at threshold 0.01."""
    d = torch.tensor([[0.005, 0.1, -0.1]], dtype=torch.float64)
    zero = torch.zeros_like(d)
    penalty = Penalty(coefficient_BT=zero + 1, target_logp_BT=zero, form="hinge", threshold=0.01)
    got = penalty_loss(penalty, d, zero == 0)[0].tolist()
    assert got == [0.0, pytest.approx(0.00512075, abs=1e-8), pytest.approx(0.00478758, abs=1e-8)]


def test_clip_cov_draws_its_share_anew_and_leaves_the_denominator():
    rollouts, forward = random_rollouts(4, lengths=[40] * 8)
    chain_ = methods.clip_cov(share=0.1, low=-9.0, high=9.0)
    one, two = (credit_of(chain_, rollouts, forward=forward, rng=r) for r in (1, 2))
    for credit in (one, two):
        assert int((credit.weight_BT == 0).sum()) == 32
        assert torch.equal(credit.keep_BT, rollouts.mask_BT)
    assert not torch.equal(one.weight_BT, two.weight_BT)


REDUCTIONS = {
    "Clip-Cov of share 0": (lambda: methods.clip_cov(share=0.0, clip_low=0.2, clip_high=0.28), methods.dapo),
    "KL-Cov of coefficient 0": (
        lambda: methods.kl_cov(coefficient=0.0), lambda: methods.dapo(clip_low=1.0, clip_high=math.inf),
    ),
    "KL-Cov of share 0": (lambda: methods.kl_cov(share=0.0), lambda: methods.kl_cov(coefficient=0.0)),
    "Lp-Reg of share 0": (lambda: methods.lp_reg(share=0.0, clip_low=0.2, clip_high=0.28), methods.dapo),
    "a KL of coefficient 0": (lambda: methods.grpo_kl(coefficient=0.0), methods.grpo),
    "hinge of coefficient 0": (lambda: methods.mcpo_kl(coefficient=0.0), methods.clip_higher),
    "ARES of coefficient 0": (
        lambda: methods.ares_kl(coefficient=0.0, clip_high=0.28), lambda: methods.dapo(dual=3.0),
    ),
    "ARES before its controller moves": (
        lambda: methods.ares_kl(clip_high=0.28, coefficient=0.3),
        lambda: methods.dapo(dual=3.0, kl_coefficient=0.3),
    ),
    "T1 without its extras is RLOO without a clip": (
        lambda: methods.t1(entropy_coefficient=0.0, kl=0.0), lambda: methods.rloo(clip_low=1.0, clip_high=math.inf),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    special, parent = REDUCTIONS[name]
    for seed in range(4):
        got, expected = (learn(make(), *random_rollouts(seed)) for make in (special, parent))
        assert got.value == pytest.approx(expected.value, abs=1e-12)
        same(got.logp_gradient_BT, expected.logp_gradient_BT)


def test_the_controller_of_ares_moves_the_bucket_that_has_answers():
    """KL is k3(0.1) = 0.005171 in both groups, half of them right: medium. e = KL / 0.01 - 1, smoothed from 0."""
    link = difficulty_kl(every=2, coefficient=1.0)
    rollouts, forward = batch()
    states, betas = init(chain(link)), []
    for _ in range(2):
        credit, states = run(chain(link), blank_credit(rollouts), rollouts, states, when="update", forward=forward)
        betas.append(float(credit.penalties[0].coefficient_BT[0, 0]))
    error = 0.03 * (k3(0.1) / 0.01 - 1)
    assert betas == [1.0, pytest.approx(math.exp(0.05 * error), abs=1e-12)]
    assert states[0]["buckets"]["easy"] == {"beta": 1.0, "kl": None, "error": 0.0}
    assert states[0]["buckets"]["medium"]["kl"] == pytest.approx(k3(0.1), abs=1e-12)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("clip_cov", {"share": 1.5}, "clip_cov share is 1.5"),
        ("clip_cov", {"low": 5.0}, "clip_cov needs low < high"),
        ("kl_cov", {"coefficient": -1.0}, "kl_cov coefficient is -1.0"),
        ("kl_cov", {"scope": "batch"}, "unknown scope 'batch'"),
        ("lp_reg", {"share": float("nan")}, "low_probability share is nan"),
        ("grpo_kl", {"form": "k4"}, "unknown kl form 'k4'"),
        ("mcpo_kl", {"threshold": -0.1}, "mastered_hinge threshold is -0.1"),
        ("ares_kl", {"target": 0.0}, "difficulty_kl target is 0.0"),
        ("t1", {"entropy_coefficient": 0.1, "kl": -1.0}, "anchored_advantage kl is -1.0"),
    ],
)
def test_bad_arguments_are_named(method, arguments, message):
    with pytest.raises(InputError) as error:
        METHODS[method](**arguments)
    assert message in str(error.value)


def test_what_is_missing_is_named():
    rollouts, forward = batch()
    with pytest.raises(InputError, match=r"'low_probability' needs 'proxy_logp'.*min-p"):
        credit_of(methods.lp_reg(), dataclasses.replace(rollouts, extra={}), forward=forward)
