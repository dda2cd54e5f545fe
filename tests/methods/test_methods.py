"""The methods of the first papers against numbers worked out by hand, in float64; see `method_kit` for the batch."""

from __future__ import annotations

import json
import math

import pytest
import torch

from core_batches import forward_of, learn, rollouts_of
from forkpoint import methods
from forkpoint.errors import InputError
from forkpoint.methods import METHODS, describe, forking, method_chain
from method_kit import (
    A0,
    A1,
    BY_ANSWER,
    BY_TOKEN,
    ENTROPY,
    GROUP,
    HIGHER,
    NEW,
    PPO,
    SLOPE,
    batch,
    case,
    check,
    times,
)

a, b = A0, A1
w = math.sqrt(5.5 / 7 + 1e-8)  # REINFORCE++: see the case
TOP2 = [[0, 1], [0], [1, 0, 0], [0, 0]]  # the two highest entropies, 0.9 and 0.8
s0, s2 = math.sqrt(1.5 * 0.9), (1.1 * 0.7 * 1.0) ** (1 / 3)  # GSPO: geometric mean of the ratios of an answer

# k3 of Δ = 0.1 is exp(0.1) - 0.1 - 1, its derivative by log π is 1 - exp(0.1); times 0.5 and the coefficient.
K3, K3_SLOPE = 0.5 * (math.exp(0.1) - 1.1), 0.5 * (1 - math.exp(0.1))

CASES = {
    "grpo": case(METHODS["grpo"], GROUP, times(BY_ANSWER, PPO), times(BY_ANSWER, SLOPE)),
    "grpo kl": case(
        lambda: methods.grpo(kl_coefficient=0.5),
        GROUP,
        [[x + K3 / (4 * len(row)) for x in row] for row in times(BY_ANSWER, PPO)],
        [[x + K3_SLOPE / (4 * len(row)) for x in row] for row in times(BY_ANSWER, SLOPE)],
    ),
    # No deviation: A = R - mean. Four answers, the decoder allowed 5 tokens: every token counts 1 / 20.
    "dr_grpo": case(
        METHODS["dr_grpo"],
        [0.5, -0.5, -1.0, 1.0],
        times([0.5 / 20, 0.5 / 20, 1 / 20, 1 / 20], PPO),
        times([0.5 / 20, 0.5 / 20, 1 / 20, 1 / 20], SLOPE),
    ),
    # The other answer is the baseline: A = R - R_other. Sum over tokens, mean over four answers.
    "rloo": case(
        METHODS["rloo"],
        [1.0, -1.0, -2.0, 2.0],
        times([1 / 4, 1 / 4, 2 / 4, 2 / 4], PPO),
        times([1 / 4, 1 / 4, 2 / 4, 2 / 4], SLOPE),
    ),
    # Token returns 1 1 | 0 | 0 0 0 | 2 2: mean 6/8, squares 2/16 + 4 * 9/16 + 2 * 25/16 = 5.5, over 7.
    "reinforce_pp": case(
        METHODS["reinforce_pp"],
        [0.25 / w, -0.75 / w, -0.75 / w, 1.25 / w],
        times([0.25 / w / 8, 0.75 / w / 8, 0.75 / w / 8, 1.25 / w / 8], PPO),
        times([0.25 / w / 8, 0.75 / w / 8, 0.75 / w / 8, 1.25 / w / 8], SLOPE),
    ),
    "dapo": case(METHODS["dapo"], GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)),
    # Bounds 0.9997 and 1.0004 clip every answer here: no gradient.
    "gspo": case(
        METHODS["gspo"],
        GROUP,
        times(BY_ANSWER, [[-1.0004] * 2, [0.9997], [0.9997] * 3, [-1.0004] * 2]),
        times(BY_ANSWER, [[0.0] * 2, [0.0], [0.0] * 3, [0.0] * 2]),
    ),
    # With PPO's bounds answers 0 and 2 pass (1.16 and 0.92); each token moves s by s / n.
    "gspo wide": case(
        lambda: methods.gspo(clip_low=0.2, clip_high=0.2),
        GROUP,
        times(BY_ANSWER, [[-s0] * 2, [0.8], [s2] * 3, [-1.2] * 2]),
        times(BY_ANSWER, [[-s0] * 2, [0.0], [s2] * 3, [0.0] * 2]),
    ),
    # The weight is the ratio, capped at 1.2 here, and multiplies log π; no token is without gradient.
    "cispo": case(
        lambda: methods.cispo(cap=1.2),
        GROUP,
        [
            [-a / 8 * 1.2 * NEW[0][0], -a / 8 * 0.9 * NEW[0][1]],
            [a / 8 * 0.5 * NEW[1][0]],
            [b / 8 * 1.1 * NEW[2][0], b / 8 * 0.7 * NEW[2][1], b / 8 * 1.0 * NEW[2][2]],
            [-b / 8 * 1.2 * NEW[3][0], -b / 8 * 1.15 * NEW[3][1]],
        ],
        times(BY_TOKEN, [[-1.2, -0.9], [0.5], [1.1, 0.7, 1.0], [-1.2, -1.15]]),
    ),
    # DAPO minus 0.4 times the mean of 8 entropies.
    "entropy_bonus": case(
        lambda: methods.entropy_bonus(coefficient=0.4),
        GROUP,
        [
            [x - 0.4 / 8 * h for x, h in zip(*rows, strict=True)]
            for rows in zip(times(BY_TOKEN, HIGHER), ENTROPY, strict=True)
        ],
        times(BY_TOKEN, SLOPE),
        entropy_gradient=-0.4 / 8,
    ),
    # ceil(0.2 * 8) = 2 tokens learn and they are the denominator.
    "forking": case(
        METHODS["forking"],
        GROUP,
        [[0, -0.9 * a / 2], [0], [1.1 * b / 2, 0, 0], [0, 0]],
        [[0, -0.9 * a / 2], [0], [1.1 * b / 2, 0, 0], [0, 0]],
        keep=TOP2,
    ),
    # Quantile 0.8 of 8 values lies at rank 5.6, 0.76: the same two tokens, divided by all eight.
    "forking trl": case(
        lambda: forking(preset="trl"),
        GROUP,
        [[0, -0.9 * a / 8], [0], [1.1 * b / 8, 0, 0], [0, 0]],
        [[0, -0.9 * a / 8], [0], [1.1 * b / 8, 0, 0], [0, 0]],
        weight=TOP2,
    ),
    # Micro-batches of answers 0, 2 (5 tokens: 0.9 wins) and 1, 3 (3 tokens: 0.7 wins); half the rows each.
    "forking authors-code": case(
        lambda: forking(preset="authors-code"),
        GROUP,
        [[0, -0.9 * a / 2], [0], [0, 0, 0], [0, -1.15 * b / 2]],
        [[0, -0.9 * a / 2], [0], [0, 0, 0], [0, -1.15 * b / 2]],
        keep=[[0, 1], [0], [0, 0, 0], [0, 1]],
        micros=[[0, 2], [1, 3]],
    ),
    # Bottom at 0.5: the four lowest, 0.05 0.1 0.2 0.3. Two of them (r 1.5 and 1.3) are clipped, at 1.28.
    "forking bottom": case(
        lambda: forking(share=0.5, keep="bottom"),
        GROUP,
        [[-1.28 * a / 4, 0], [0], [0, 0.8 * b / 4, 1.0 * b / 4], [-1.28 * b / 4, 0]],
        [[0, 0], [0], [0, 0, 1.0 * b / 4], [0, 0]],
        keep=[[1, 0], [0], [0, 1, 1], [1, 0]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_reinforce_pp_puts_the_kl_of_the_recorded_policy_into_the_return():
    """Two answers of 2 and 1 tokens, rewards 1 and 0, k1 = log π_old - log π_ref = 0.2, 0.4 | -0.1, kl 0.5.

    Returns are 1 - 0.5 (0.2 + 0.4) = 0.7, 1 - 0.5 * 0.4 = 0.8 and 0 + 0.05 = 0.05.
    """
    rollouts = rollouts_of([[-1.0, -1.0], [-2.0]], groups=[0, 1], reward=[1.0, 0.0], ref=[[-1.2, -1.4], [-1.9]])
    returns = torch.tensor([0.7, 0.8, 0.05], dtype=torch.float64)
    expected = (returns - returns.mean()) / (returns.var() + 1e-8).sqrt()
    got = learn(methods.reinforce_pp(kl_coefficient=0.5), rollouts, forward_of(rollouts)).credit.advantage_BT
    torch.testing.assert_close(got[rollouts.mask_BT], expected, rtol=0, atol=1e-12)


def test_reinforce_pp_with_group_baseline_has_the_kl_in_the_loss():
    """Group mean removed first: 0.5 0.5 | -0.5 | -1 -1 -1 | 1 1, mean -1/16; k2 of Δ = 0.1: slope -0.1."""
    rollouts, forward = batch()
    got = learn(methods.reinforce_pp(baseline="group", kl_coefficient=0.5), rollouts, forward)
    centred = torch.tensor([0.5, 0.5, -0.5, -1, -1, -1, 1, 1], dtype=torch.float64)
    whitened = (centred - centred.mean()) / (centred.var() + 1e-8).sqrt()
    torch.testing.assert_close(got.credit.advantage_BT[rollouts.mask_BT], whitened, rtol=0, atol=1e-12)
    bare = learn(methods.reinforce_pp(baseline="group"), rollouts, forward)
    assert got.value - bare.value == pytest.approx(0.5 * 0.1**2 / 2, abs=1e-12)
    difference = (got.logp_gradient_BT - bare.logp_gradient_BT)[rollouts.mask_BT]
    torch.testing.assert_close(difference, torch.full((8,), -0.5 * 0.1 / 8, dtype=torch.float64), rtol=0, atol=1e-12)


def test_dual_clip_bounds_the_loss_of_a_bad_answer():
    """A = -a, r = exp(2) = 7.39: the loss is capped at c a = 3 a and has no gradient; without it 7.39 a."""
    rollouts = rollouts_of([[-1.0], [-1.0]], groups=[0, 0], reward=[1.0, 0.0])
    forward = forward_of(rollouts, torch.tensor([[0.0], [2.0]], dtype=torch.float64))
    capped = learn(methods.dapo(dual=3.0), rollouts, forward)
    assert capped.value == pytest.approx((-a + 3 * a) / 2, abs=1e-12)
    assert capped.logp_gradient_BT[1, 0] == 0
    free = learn(methods.dapo(), rollouts, forward)
    assert free.value == pytest.approx((-a + math.exp(2) * a) / 2, abs=1e-12)
    assert float(free.logp_gradient_BT[1, 0]) == pytest.approx(math.exp(2) * a / 2, abs=1e-12)


@pytest.mark.parametrize(
    ("preset", "scope", "ties", "denominator", "aggregation", "dual"),
    [
        ("paper", "mini", "count", "selected", "token", None),
        ("authors-code", "micro", "count", "selected", "micro-token", 10.0),
        ("trl", "micro", "threshold", "all", "token", None),
    ],
)
def test_presets_are_the_three_public_versions(preset, scope, ties, denominator, aggregation, dual):
    by_name = {link.name: link.arguments for link in forking(preset=preset).links}
    assert by_name["top_entropy"] == {
        "share": 0.2, "source": "current", "scope": scope, "ties": ties, "denominator": denominator,
        "keep": "top",
    }  # fmt: skip
    assert by_name["aggregate"]["denominator"] == aggregation
    assert by_name.get("dual_clip", {}).get("c") == dual
    assert by_name["clip"] == {"low": 0.2, "high": 0.28}


def test_an_argument_overrides_the_preset():
    (link,) = (link for link in forking(preset="trl", scope="mini", ties="count").links if "top" in link.name)
    assert (link.arguments["scope"], link.arguments["ties"], link.arguments["denominator"]) == (
        "mini",
        "count",
        "all",
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fork", {}, "unknown method 'fork': did you mean 'forking'"),
        ("forking", {"shar": 0.1}, "no argument 'shar': did you mean 'share'"),
        ("forking", {"share": 0}, "share is 0 and must be a number in (0, 1]"),
        ("forking", {"share": 1.01}, "share is 1.01"),
        ("forking", {"share": float("nan")}, "share is nan"),
        ("forking", {"preset": "tlr"}, "did you mean 'trl'"),
        ("forking", {"scope": "minni"}, "did you mean 'mini'"),
        ("forking", {"keep": "tops"}, "did you mean 'top'"),
        ("grpo", {"kl_coefficient": -1.0}, "kl coefficient is -1.0"),
        ("grpo", {"clip_low": 1.5}, "clip low is 1.5"),
        ("dapo", {"clip_high": -0.1}, "clip high is -0.1"),
        ("dapo", {"dual": 1.0}, "dual_clip c is 1.0"),
        ("dapo", {"kl_coefficient": 0.1, "kl_form": "k4"}, "unknown kl form 'k4'"),
        ("dr_grpo", {"constant": 0}, "aggregate constant is 0"),
        ("cispo", {"cap": 0}, "stop_ratio needs"),
        ("cispo", {"cap": 1.0, "floor": 2.0}, "stop_ratio needs"),
        ("reinforce_pp", {"baseline": "batch"}, "unknown baseline 'batch'"),
        ("reinforce_pp", {"kl_coefficient": -0.5}, "kl is -0.5"),
        ("entropy_bonus", {"coefficient": "big"}, "must be a number"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(InputError) as error:
        method_chain(name, **arguments)
    assert message in str(error.value)


def test_a_package_may_not_take_a_name_that_is_taken(monkeypatch):
    entry = type("Entry", (), {"name": "dapo", "value": "other:dapo", "load": staticmethod(lambda: None)})()
    monkeypatch.setattr(methods, "entry_points", lambda group: [entry])
    with pytest.raises(InputError, match="uses a name that is taken"):
        methods.all_methods()


def test_a_package_adds_a_method(monkeypatch):
    entry = type("Entry", (), {"name": "mine", "value": "other:mine", "load": staticmethod(lambda: methods.dapo)})()
    monkeypatch.setattr(methods, "entry_points", lambda group: [entry])
    assert method_chain("mine", clip_high=0.3).links[1].arguments["high"] == 0.3


def test_the_table_of_methods_is_complete_and_json_ready():
    rows = json.loads(json.dumps(describe()))
    assert {row["name"] for row in rows} >= set(METHODS)
    for row in rows:
        assert row["summary"], row["name"]
        assert row["equation"], row["name"]
        assert row["paper"], row["name"]
        assert row["links"], row["name"]
    assert {row["name"]: row["paper"] for row in rows}["forking"] == "2506.01939"
