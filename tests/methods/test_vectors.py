"""Numbers worked out from the formulas alone, without this package: one test a vector."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import rollouts_of
from forkpoint.credit import chain, credit_of
from forkpoint.credit.difficulty import mastery_advantage
from forkpoint.credit.diversity import error_diversity
from forkpoint.entropy.signals import entropy_change, sampled_flow
from forkpoint.evaluate.passk import pass_at_k
from forkpoint.loss import log_power_mean, penalty_loss
from forkpoint.rollouts import Penalty
from forkpoint.selection.worth import allocate, gain, marginal_gain, uncertainty_value


@pytest.mark.parametrize(("n", "c", "k", "expected"), [(10, 3, 5, 0.9166667), (16, 1, 8, 0.5), (4, 2, 3, 1.0)])
def test_1_pass_at_k(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=5e-8)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([0, 0, 1, 2], [-1.1, -1.1, -0.9, -0.9]),
        ([0, 0, 0, 0], [-1.2] * 4),
        ([0, 1, 2, 3], [-1.0] * 4),
    ],
)
def test_2_error_diversity(classes, expected):
    """Four wrong answers with A = -1 beside four right ones; alpha 0.4, beta 0.2, cap 2."""
    rollouts = rollouts_of([[-1.0]] * 8, groups=[0] * 8, reward=[0.0] * 4 + [1.0] * 4)
    rollouts = dataclasses.replace(rollouts, extra={"error_class": torch.tensor([*classes, 0, 0, 0, 0])})
    plain = credit_of(chain(mastery_advantage()), rollouts)  # the population's deviation: A = -1 and 1
    assert plain.advantage_BT[:, 0].tolist() == [-1.0] * 4 + [1.0] * 4
    got = credit_of(chain(mastery_advantage(), error_diversity(alpha=0.4, beta=0.2, cap=2.0)), rollouts)
    assert got.advantage_BT[:, 0].tolist() == pytest.approx([*expected, 1, 1, 1, 1], abs=1e-12)


@pytest.mark.parametrize(
    ("p", "expected"), [(2, 1.3228757), (1, 1.1666667), (0, 1.0), (-1, 0.8571429), (-2, 0.7559289)]
)
def test_3_power_means(p, expected):
    log_BT = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64).log()
    got = log_power_mean(log_BT, torch.ones(1, 3, dtype=torch.bool), p).exp()
    assert got.tolist() == [pytest.approx([expected] * 3, abs=5e-8)]


@pytest.mark.parametrize(
    ("hits", "marginals", "at_four"),
    [
        (0, [0.166667, 0.119048, 0.089286, 0.069444], 0.444444),
        (2, [0.5, 0.214286, 0.107143, 0.059524], 0.880952),
        (4, [0.833333, 0.119048, 0.029762, 0.009921], 0.992063),
    ],
)
def test_4_gains_of_more_answers(hits, marginals, at_four):
    assert [marginal_gain(hits, 4, more) for more in range(4)] == pytest.approx(marginals, abs=5e-7)
    assert gain(hits, 4, 4) == pytest.approx(at_four, abs=5e-7)
    for more in range(6):
        assert gain(hits, 4, more + 1) - gain(hits, 4, more) == pytest.approx(marginal_gain(hits, 4, more), abs=1e-15)


def test_4_the_first_answers_go_to_easy_problems_unless_the_probes_discount():
    assert allocate([0, 2, 4], 4, 1) == [0, 0, 1]
    assert allocate([1, 4], 4, 1, discount_probes=True) == [1, 0]
    every = [allocate([0, 2, 4], 4, budget) for budget in range(12)]
    assert [sum(x) for x in every] == list(range(12))
    best = max(
        sum(gain(s, 4, x) for s, x in zip((0, 2, 4), (a, b, 6 - a - b), strict=True))
        for a in range(7) for b in range(7 - a)
    )  # fmt: skip
    assert sum(gain(s, 4, x) for s, x in zip((0, 2, 4), every[6], strict=True)) == pytest.approx(best, abs=1e-15)


@pytest.mark.parametrize(
    ("right", "up", "down"),
    [(2, 1.7320508, -0.5773503), (4, 1.0, -1.0), (6, 0.6666667, -2.0), (7, 0.5714286, -4.0)],
)
def test_5_mastered_problems(right, up, down):
    """Eight answers; the first number is what the vector prints for a right one, the second for a wrong one."""
    rollouts = rollouts_of([[-1.0]] * 8, groups=[0] * 8, reward=[1.0] * right + [0.0] * (8 - right))
    got = credit_of(chain(mastery_advantage()), rollouts).advantage_BT[:, 0]
    assert got[0].item() == pytest.approx(up, abs=5e-8)
    assert got[-1].item() == pytest.approx(down, abs=5e-8)


@pytest.mark.parametrize(("d", "expected"), [(0.005, 0.0), (0.1, 0.00512075), (-0.1, 0.00478758)])
def test_5_the_hinge(d, expected):
    one_BT = torch.ones(1, 1, dtype=torch.float64)
    penalty = Penalty(coefficient_BT=one_BT, target_logp_BT=-one_BT, form="hinge", threshold=0.01)
    assert penalty_loss(penalty, -one_BT + d, one_BT > 0).item() == pytest.approx(expected, abs=5e-9)


@pytest.mark.parametrize(("rate", "expected"), [(0.5, 1.0), (0.25, 0.5), (0.0, 0.0), (1.0, 0.0)])
def test_6_value_of_a_problem(rate, expected):
    assert uncertainty_value(rate) == expected


def test_7_the_one_term_estimate_can_have_the_wrong_sign():
    """A distribution whose token of probability 0.239 has the two numbers of the vector, and the finite difference."""
    rest = (1 - 0.239 - 0.40983509 - 0.21394647) / 4
    p_V = torch.tensor([0.239, 0.40983509, 0.21394647, rest, rest, rest, rest], dtype=torch.float64)
    z_V, one = p_V.log(), torch.ones(1, dtype=torch.float64)

    def entropy(logits_V):
        logp_V = logits_V.log_softmax(0)
        return -(logp_V.exp() * logp_V).sum()

    flow = sampled_flow(z_V[None], entropy(z_V)[None])
    exact = entropy_change(z_V[:1], entropy(z_V), one, flow).item()
    rough = entropy_change(z_V[:1], entropy(z_V), one).item()
    push_V = torch.nn.functional.one_hot(torch.tensor(0), 7) - p_V
    h = 1e-4
    difference = float(entropy(z_V + h * push_V) - entropy(z_V - h * push_V)) / (2 * h)
    assert exact == pytest.approx(0.0789, abs=5e-5)
    assert rough == pytest.approx(-0.0165, abs=5e-5)
    assert exact == pytest.approx(difference, abs=1e-6)
    assert math.copysign(1, exact) != math.copysign(1, rough)
