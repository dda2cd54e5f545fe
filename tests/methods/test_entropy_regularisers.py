"""Methods whose loss has a term in the entropies of a whole mini-batch, or in hidden states; see `method_kit`."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from core_batches import learn, random_rollouts
from forkpoint import methods
from forkpoint.credit import Chain, chain, credit_of, init, run
from forkpoint.credit.alignment import disagreement
from forkpoint.credit.entropy_terms import adaptive_entropy_bonus
from forkpoint.errors import InputError
from forkpoint.loss import entropy_loss
from forkpoint.methods import METHODS
from forkpoint.rollouts import blank_credit
from method_kit import (
    A0,
    BY_ANSWER,
    BY_TOKEN,
    ENTROPY,
    FREE,
    GROUP,
    HIGHER,
    LENGTH,
    NEW,
    PPO,
    SLOPE,
    batch,
    case,
    check,
    row,
    same,
    times,
)

ROWS = {
    "siren": row("siren"),
    "siren full": row("siren", nucleus=False, quantile=0.5),
    "targeted_entropy": row("targeted_entropy"),
    "targeted_entropy low": row("targeted_entropy", target=0.1, coefficient=0.3),
    "adaptive_entropy": row("adaptive_entropy", start=0.1, target=0.6),
    "adaptive_entropy previous": row("adaptive_entropy", start=0.1, target=9.0, gate="previous"),
    "epo": row("epo", gamma=1.0, steps=10),
    "epo turns": row("epo", gamma=1.0, steps=10, unit="turn", coefficient=0.3),
    "epo_released": row("epo_released", coefficient=0.3),
    "tea": row("tea"),
    "tea all": row("tea", tokens="all", coefficient=0.5, cap=1.2),
    "tea sequence": row("tea", tokens="all", scope="sequence", temperature=0.1),
    "hidden_align": row("hidden_align", coefficient=0.3),
}


def begun(make, state):
    """A chain whose last link has this state at the start, as after earlier steps."""

    def moved() -> Chain:
        *others, last = make().links
        return chain(*others, dataclasses.replace(last, init=lambda: state))

    return moved


def value_of(factors, rows):
    return sum(map(sum, times(factors, rows)))


FLAT = [h for answer in ENTROPY for h in answer]
MEAN = sum(FLAT) / 8  # 0.44375
BY_CONSTANT = [0.5 / 20, 0.5 / 20, 1 / 20, 1 / 20]
"""|A| of Dr. GRPO / (4 answers * 5 tokens)."""

# EPO's second step: the first had mean entropy 0.2. With edges 0.4 * 0.2 = 0.08 and 2 * 0.2 = 0.4 the entropies 0.9,
# 0.5, 0.8 and 0.7 lie above, 0.05 below. β = 1 + exp(-1 * 1 / 2), alpha 0.1, λ 0.3; a token weighs 1 / (4 n_i).
LATER = {"step": 1, "version": 99, "total": 0.0, "sum": 0.4, "count": 2}
BETA = 1 + math.exp(-0.5)


def outside(h: float) -> float:
    return h - 0.4 if h > 0.4 else (0.08 - h if h < 0.08 else 0.0)


def side(h: float) -> int:
    return 1 if h > 0.4 else (-1 if h < 0.08 else 0)


# TEA over all tokens: weights softmax(Cov / 0.5), none above 1.2 / 8, made to sum to 1.
MEANLP = sum(n for answer in NEW for n in answer) / 8
MEANA = sum(a * n for a, n in zip(GROUP, LENGTH, strict=True)) / 8
COV = [(n - MEANLP) * (a - MEANA) for a, answer in zip(GROUP, NEW, strict=True) for n in answer]
RAW = [math.exp(c / 0.5) for c in COV]
CAPPED = [min(r / sum(RAW), 1.2 / 8) for r in RAW]
TEA = [c / sum(CAPPED) for c in CAPPED]


def by_answer(values):
    left = iter(values)
    return [[next(left) for _ in range(n)] for n in LENGTH]


CASES = {
    # The first update is the anchor: no charge yet.
    "siren": case(METHODS["siren"], [0.5, -0.5, -1.0, 1.0], times(BY_CONSTANT, HIGHER), times(BY_CONSTANT, SLOPE)),
    # Quantiles 0.78, -, 0.56, 0.58: forks 0.9, 0.8, 0.7 of three answers, mean 0.8, 0.3 above the anchor.
    "siren later": case(
        begun(lambda: methods.siren(nucleus=False), {"anchor": 0.5}),
        [0.5, -0.5, -1.0, 1.0],
        value_of(BY_CONSTANT, HIGHER) + 0.005 * 0.3**2,
        times(BY_CONSTANT, SLOPE),
        entropy_gradient=[
            [0.0, 2 * 0.005 * 0.3 / 3],
            [0.0],
            [2 * 0.005 * 0.3 / 3, 0.0, 0.0],
            [0.0, 2 * 0.005 * 0.3 / 3],
        ],
    ),
    # The mean entropy 0.44375 lies below 0.55: more is asked for.
    "targeted_entropy": case(
        METHODS["targeted_entropy"],
        GROUP,
        value_of(BY_ANSWER, PPO) + 0.001 * (0.55 - MEAN),
        times(BY_ANSWER, SLOPE),
        entropy_gradient=-0.001 / 8,
    ),
    "targeted_entropy above": case(
        lambda: methods.targeted_entropy(target=0.25, coefficient=0.2),
        GROUP,
        value_of(BY_ANSWER, PPO) + 0.2 * (MEAN - 0.25),
        times(BY_ANSWER, SLOPE),
        entropy_gradient=0.2 / 8,
    ),
    # Above its target of 0.2 there is no bonus, whatever the coefficient.
    "adaptive_entropy": case(
        lambda: methods.adaptive_entropy(start=0.1), GROUP, times(BY_TOKEN, PPO), times(BY_TOKEN, SLOPE)
    ),
    "adaptive_entropy below": case(
        lambda: methods.adaptive_entropy(start=0.1, target=0.5),
        GROUP,
        value_of(BY_TOKEN, PPO) - 0.1 * MEAN,
        times(BY_TOKEN, SLOPE),
        entropy_gradient=-0.1 / 8,
    ),
    # First step: a bonus on the mean over answers of their means, (0.6 + 0.5 + 0.35 + 0.4) / 4.
    "epo": case(
        lambda: methods.epo(gamma=1.0, steps=4),
        GROUP,
        value_of(BY_ANSWER, PPO) - 0.001 * 0.4625,
        times(BY_ANSWER, SLOPE),
        entropy_gradient=[[-0.001 / (4 * n)] * n for n in LENGTH],
    ),
    "epo later": case(
        begun(lambda: methods.epo(gamma=1.0, steps=4, coefficient=0.3, alpha=0.1, low=0.4), LATER),
        GROUP,
        value_of(BY_ANSWER, PPO)
        + sum(0.3 / (4 * len(hs)) * (BETA * 0.1 * outside(h) - h) for hs in ENTROPY for h in hs),
        times(BY_ANSWER, SLOPE),
        entropy_gradient=[[0.3 / (4 * len(hs)) * (BETA * 0.1 * side(h) - 1) for h in hs] for hs in ENTROPY],
    ),
    # Turns of three positions: answer 2 is one turn, every answer is.
    "epo turns": case(
        begun(lambda: methods.epo(gamma=1.0, steps=4, coefficient=0.3, unit="turn"), {**LATER, "step": 0, "count": 0}),
        GROUP,
        value_of(BY_ANSWER, PPO) - 0.3 * 0.4625,
        times(BY_ANSWER, SLOPE),
        entropy_gradient=[[-0.3 / (4 * n)] * n for n in LENGTH],
    ),
    # Five of eight lie outside: 0.3 * 0.1 * 5 / 8 comes off the bonus, without a gradient.
    "epo_released": case(
        begun(lambda: methods.epo_released(coefficient=0.3, alpha=0.1, low=0.4), LATER),
        GROUP,
        value_of(BY_ANSWER, PPO) - 0.3 * (MEAN - 0.1 * 5 / 8),
        times(BY_ANSWER, SLOPE),
        entropy_gradient=-0.3 / 8,
    ),
    "tea": case(
        lambda: methods.tea(tokens="all", temperature=0.5, cap=1.2),
        GROUP,
        value_of(BY_TOKEN, FREE) - 0.05 * sum(w * h for w, h in zip(TEA, FLAT, strict=True)),
        times(BY_TOKEN, FREE),
        entropy_gradient=by_answer([-0.05 * w for w in TEA]),
    ),
    # Answers 0 and 1 are right; only one of the second problem is. Two states at 45°: 1 - cos = 0.2929.
    "hidden_align": case(
        lambda: methods.hidden_align(coefficient=0.5),
        [-A0, A0, *GROUP[2:]],
        value_of(BY_TOKEN, [[1.5, 0.9], [-0.5], HIGHER[2], HIGHER[3]]) + 0.5 * (1 - math.sqrt(0.5)),
        times(BY_TOKEN, [[1.5, 0.9], [-0.5], SLOPE[2], SLOPE[3]]),
        change=lambda rollouts, forward: (
            dataclasses.replace(
                rollouts,
                reward_B=torch.tensor([1.0, 2.0, 0.0, 2.0], dtype=torch.float64),
                extra={"anchor": torch.tensor([1, 0, 2, 1])},
            ),
            dataclasses.replace(forward, extra={"hidden": angles()}),
        ),
    ),
}


def angles():
    hidden = torch.ones(4, 3, 2, dtype=torch.float64)
    hidden[0, 1] = torch.tensor([3.0, 0.0])
    return hidden


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def plain_bonus(coefficient, denominator="token"):
    def make():
        *links, _ = methods.entropy_bonus(coefficient=coefficient, clip_high=0.2).links
        return chain(*links, methods.entropy_bonus(coefficient=coefficient).links[-1])

    return make


REDUCTIONS = {
    "SIREN of coefficient 0": (
        lambda: methods.siren(coefficient=0.0),
        lambda: methods.dr_grpo(clip_high=0.28),
    ),
    "targeted entropy of coefficient 0": (lambda: methods.targeted_entropy(coefficient=0.0), methods.grpo),
    "adaptive entropy that starts at 0": (
        lambda: methods.adaptive_entropy(target=9.0), lambda: methods.dapo(clip_high=0.2),
    ),
    "adaptive entropy without a target is the bonus": (
        lambda: methods.adaptive_entropy(target=math.inf, start=0.3), plain_bonus(0.3),
    ),
    "TRL's gate is closed in the first update": (
        lambda: methods.adaptive_entropy(target=9.0, start=0.3, gate="previous"),
        lambda: methods.dapo(clip_high=0.2),
    ),
    "EPO of coefficient 0": (lambda: methods.epo(gamma=1.0, steps=5, coefficient=0.0), methods.grpo),
    "EPO without a charge is a bonus by answer": (
        lambda: methods.epo(gamma=1.0, steps=5, coefficient=0.3, alpha=0.0),
        lambda: chain(methods.grpo(), methods.entropy_bonus(coefficient=0.3).links[-1]),
    ),
    "released EPO of coefficient 0": (lambda: methods.epo_released(coefficient=0.0), methods.grpo),
    "TEA of coefficient 0": (
        lambda: methods.tea(coefficient=0.0),
        lambda: methods.dapo(clip_low=1.0, clip_high=1.0, dual=10.0),
    ),
    "TEA at a high temperature is the bonus": (
        lambda: methods.tea(coefficient=0.3, tokens="all", temperature=1e14),
        lambda: chain(methods.dapo(clip_low=1.0, clip_high=1.0, dual=10.0), plain_bonus(0.3)().links[-1]),
    ),
    "Hidden-Align of coefficient 0": (lambda: methods.hidden_align(coefficient=0.0), methods.dapo),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    special, parent = REDUCTIONS[name]
    for seed in range(4):
        got, expected = (learn(make(), *random_rollouts(seed)) for make in (special, parent))
        assert got.value == pytest.approx(expected.value, abs=1e-12)
        same(got.logp_gradient_BT, expected.logp_gradient_BT)
        same(got.entropy_gradient_BT, expected.entropy_gradient_BT)


@pytest.mark.parametrize(
    ("target", "path"), [(9.0, [0.1, 0.105, 0.11]), (0.01, [0.1, 0.095, 0.09]), (0.01, [0.0, 0.0, 0.0])]
)
def test_the_adaptive_coefficient_moves_by_delta_within_its_range(target, path):
    rollouts, forward = batch()
    links = chain(adaptive_entropy_bonus(target=target, start=path[0]))
    states = init(links)
    for value in path:
        assert states[0]["coefficient"] == pytest.approx(value, abs=1e-12)
        _, states = run(links, blank_credit(rollouts), rollouts, states, when="update", forward=forward)
    assert json.loads(json.dumps(states)) == states


def test_history_of_epo_is_the_mean_of_earlier_steps_whatever_their_updates():
    rollouts, forward = batch()
    links = chain(methods.epo_released(alpha=0.1, high=1.0).links[-1])
    states = init(links)
    for version, scale in ((0, 1.0), (0, 3.0), (4, 1.0), (8, 0.25)):
        current = dataclasses.replace(forward, entropy_BT=scale * forward.entropy_BT)
        step = dataclasses.replace(rollouts, version=version)
        credit, states = run(links, blank_credit(step), step, states, when="update", forward=current)
        if version == 0:
            assert float(entropy_loss(current, credit)) == pytest.approx(-0.001 * scale * MEAN, abs=1e-12)
    # Steps had means 2 * MEAN and MEAN; 1.5 MEAN is the edge, and a quarter of the entropies is below it but for none.
    assert states[0]["total"] == pytest.approx(3 * MEAN, abs=1e-12)
    assert states[0]["step"] == 3
    above = sum(0.25 * h > 1.5 * MEAN for h in FLAT)
    assert float(entropy_loss(current, credit)) == pytest.approx(-0.001 * (0.25 * MEAN - 0.1 * above / 8), abs=1e-12)


def test_turns_are_averaged_before_answers():
    """Answer of 4 tokens, turns 0 0 0 1 of positions: shares 1/6 1/6 1/6 1/2."""
    rollouts, forward = random_rollouts(5, lengths=[4, 4], groups=(0, 0))
    got = learn(methods.epo(gamma=1.0, steps=5, coefficient=1.0, unit="turn"), rollouts, forward)
    expected = torch.tensor([[-1 / 12, -1 / 12, -1 / 12, -1 / 4]] * 2, dtype=torch.float64)
    same(got.entropy_gradient_BT, expected)


def test_weights_of_tea_sum_to_one_in_every_scope():
    rollouts, forward = random_rollouts(6)
    for scope in ("sequence", "group", "mini", "rollout"):
        got = learn(methods.tea(coefficient=1.0, tokens="all", scope=scope, cap=2.0), rollouts, forward)
        assert float(got.entropy_gradient_BT.sum()) == pytest.approx(-1.0, abs=1e-12)
        assert bool((got.entropy_gradient_BT[rollouts.mask_BT] < 0).all())


def test_disagreement_is_one_minus_the_mean_cosine_and_its_derivative():
    generator = torch.Generator().manual_seed(3)
    state = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([True, True, False, True, True, True, True])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    value, slope = disagreement(state.detach(), counts, group)
    pairs = {0: [(0, 1), (0, 3), (1, 3)], 1: [(4, 5)]}
    direct = [1 - sum(cosine_similarity(state[i], state[j], dim=0) for i, j in p) / len(p) for p in pairs.values()]
    same(value, torch.stack([*[x.detach() for x in direct], torch.tensor(0.0, dtype=torch.float64)]))
    sum(direct).backward()
    same(slope, state.grad)


def test_hidden_states_learn_through_the_term():
    """The loss's gradient by the hidden states is that of the mean over groups of 1 - mean cosine."""
    rollouts, forward = random_rollouts(7)
    rollouts = dataclasses.replace(rollouts, reward_B=torch.ones(8, dtype=torch.float64))
    hidden = forward.extra["hidden"].clone().requires_grad_()
    carrying = dataclasses.replace(forward, extra={"hidden": hidden})
    credit = credit_of(methods.hidden_align(coefficient=2.0), rollouts, forward=carrying)
    value = entropy_loss(carrying, credit)
    value.backward()
    got, hidden.grad = hidden.grad, None
    at = rollouts.extra["anchor"]
    losses = []
    for group in (0, 1):
        rows = [i for i in range(8) if int(rollouts.group_B[i]) == group and at[i] >= 0]
        states = [hidden[i, at[i]] for i in rows]
        cosines = [cosine_similarity(x, y, dim=0) for k, x in enumerate(states) for y in states[:k]]
        losses.append(1 - sum(cosines) / len(cosines))
    expected = 2.0 * sum(losses) / 2
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), abs=1e-12)
    same(got, hidden.grad)


@pytest.mark.parametrize("name", ["siren", "targeted_entropy", "adaptive_entropy", "epo", "tea", "hidden_align"])
def test_a_term_adds_up_over_any_split(name):
    rollouts, forward = random_rollouts(8)
    credit = credit_of(ROWS[name].make(), rollouts, forward=forward)
    whole = float(entropy_loss(forward, credit))
    parts = [torch.tensor(p) for p in ([0, 3], [1], [2, 4, 5, 6, 7])]
    pieces = sum(float(entropy_loss(forward.select(p), credit.select(p))) for p in parts)
    assert pieces == pytest.approx(whole, abs=1e-12)
    assert whole != 0 or name == "siren"  # its first update is its anchor


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("siren", {"coefficient": -1.0}, "peak_entropy_anchor coefficient is -1.0"),
        ("targeted_entropy", {"target": float("nan")}, "entropy_target target is nan"),
        ("adaptive_entropy", {"gate": "last"}, "unknown gate 'last'"),
        ("epo", {"gamma": -1.0, "steps": 5}, "entropy_corridor gamma is -1.0"),
        ("epo", {"gamma": 1.0, "steps": 5, "low": 3.0}, "entropy_corridor high is 2.0"),
        ("tea", {"cap": 0.5}, "covariance_bonus cap is 0.5"),
        ("tea", {"tokens": "answer"}, "unknown tokens 'answer'"),
        ("hidden_align", {"coefficient": -0.1}, "hidden_alignment coefficient is -0.1"),
    ],
)
def test_bad_arguments_are_named(method, arguments, message):
    with pytest.raises(InputError) as error:
        METHODS[method](**arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("method", "arguments", "missing"),
    [
        ("siren", {}, "forward_nucleus_entropy"),
        ("tea", {}, "thinking"),
        ("epo", {"gamma": 1.0, "steps": 5, "unit": "turn"}, "turn"),
        ("hidden_align", {"coefficient": 0.1}, "anchor"),
    ],
)
def test_what_is_missing_is_named(method, arguments, missing):
    rollouts, forward = batch()
    bare = dataclasses.replace(rollouts, extra={}), dataclasses.replace(forward, extra={})
    with pytest.raises(InputError, match=f"needs '{missing}'"):
        credit_of(METHODS[method](**arguments), bare[0], forward=bare[1])
