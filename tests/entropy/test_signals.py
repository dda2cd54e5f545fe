"""Signals against hand-computed numbers, autograd and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from core_batches import padded
from forkpoint.analyze.measures.sequence import window_entropy as flat_window_entropy
from forkpoint.entropy import signals
from forkpoint.entropy.token import entropy_of
from forkpoint.errors import InputError

NAN = float("nan")


def close(got, expected, atol=1e-12):
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def logits():
    return torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 1.7


def test_window_entropy_by_hand_and_as_the_analysis_has_it():
    rows = [[1.0, 3.0, 5.0, 8.0], [2.0], [4.0, 6.0]]
    mask = padded(rows, fill=NAN).isfinite()
    got = signals.window_entropy(padded(rows, fill=NAN), mask, width=2)
    assert got[0].tolist()[:3] == [2.0, 4.0, 6.5]
    assert got[2, 0] == 5.0
    assert got.isfinite().sum() == 4
    assert got[1].isnan().all()
    flat = flat_window_entropy([x for r in rows for x in r], [0, 4, 5, 7], width=2)
    np.testing.assert_array_equal(got[mask].numpy(), flat)


def test_a_window_of_one_is_the_entropy_and_one_longer_than_all_fits_nowhere():
    value, mask = padded([[1.0, 3.0]]), torch.ones(1, 2, dtype=torch.bool)
    assert torch.equal(signals.window_entropy(value, mask, width=1), value)
    assert signals.window_entropy(value, mask, width=3).isnan().all()
    assert signals.window_entropy(value[:, :0], mask[:, :0], width=4).shape == (1, 0)


@pytest.mark.parametrize("width", [0, -1, 1.0, True, None])
def test_a_bad_width_is_refused(width):
    with pytest.raises(InputError, match="1 or more tokens"):
        signals.window_entropy(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), width=width)


def test_covariance_by_hand():
    """Segment 0: log-probs -1 -3 -2 (mean -2), advantages 1 1 -2 (mean 0). Segment 1: one token, nothing."""
    logp, advantage = padded([[-1.0, -3.0], [-2.0], [-7.0]], fill=NAN), padded([[1.0, 1.0], [-2.0], [5.0]], fill=NAN)
    mask = logp.isfinite()
    got = signals.covariance(logp, advantage, mask, torch.tensor([0, 0, 1]))
    close(got, padded([[1.0, -1.0], [0.0], [0.0]]))
    whole = signals.covariance(logp, advantage, mask, torch.tensor([0, 0, 0]))
    x, a = np.array([-1.0, -3.0, -2.0, -7.0]), np.array([1.0, 1.0, -2.0, 5.0])
    assert float(whole.sum()) / 4 == pytest.approx(np.cov(x, a, bias=True)[0, 1], abs=1e-12)
    assert not signals.covariance(logp, advantage, mask & False, torch.tensor([0, 0, 1])).any()


def test_covariance_of_bfloat16_is_counted_in_more():
    logp = torch.full((1, 1000), -1.0, dtype=torch.bfloat16)
    logp[0, 0] = -2.0
    got = signals.covariance(logp, logp, torch.ones_like(logp, dtype=torch.bool), torch.tensor([0]))
    assert got.dtype == torch.float32
    assert float(got[0, 1]) == pytest.approx(1e-6, rel=1e-3)


def test_the_gradient_norm_is_that_of_autograd(logits):
    """Exactly with the collision probability; between 1 and sqrt(2) times its bound without."""
    for token in range(9):
        z = logits.clone().requires_grad_()
        logp = torch.log_softmax(z, -1)
        logp[:, token].sum().backward()
        expected = z.grad.norm(dim=-1)
        logp = logp.detach()
        exact = signals.gradient_norm(logp[:, token], signals.collision(logp))
        close(exact, expected)
        bound = signals.gradient_norm(logp[:, token])
        assert (bound <= exact + 1e-12).all()
        assert (exact <= math.sqrt(2) * bound + 1e-12).all()


def test_the_mean_square_of_the_gradient_norm_is_one_minus_the_collision_probability(logits):
    logp = torch.log_softmax(logits, -1)
    square = signals.gradient_norm(logp, signals.collision(logp)[:, None]) ** 2
    close((logp.exp() * square).sum(-1), 1 - signals.collision(logp))


def test_the_gradient_norm_of_a_certain_token_is_not_rounded_away():
    """π = 1 - 1e-12: the length is 1e-12 in float64 and not 0 in float32 either."""
    rest = double(1e-12)
    close(signals.gradient_norm(torch.log1p(-rest)), rest, atol=1e-20)
    assert float(signals.gradient_norm(torch.log1p(-rest.float() * 1e4))[0]) == pytest.approx(1e-8, rel=1e-5)


def test_the_exact_entropy_change_is_the_derivative_of_entropy(logits):
    """Ascending r A log π by step η moves the logits by η r A (e_y - π)."""
    logp = torch.log_softmax(logits, -1)
    entropy, advantage, ratio = entropy_of(logp), -1.7, 1.3
    flow = signals.sampled_flow(logp, entropy)
    for token in range(9):
        step = ratio * advantage * (torch.nn.functional.one_hot(torch.tensor(token), 9) - logp.exp())
        eta = 1e-5
        up, down = (entropy_of(torch.log_softmax(logits + sign * eta * step, -1)) for sign in (1, -1))
        got = signals.entropy_change(
            logp[:, token], entropy, torch.tensor(advantage), flow, ratio_BT=torch.full((6,), ratio).double()
        )
        close(got, (up - down) / (2 * eta), atol=1e-8)


def test_entropy_change_by_hand():
    """p = 0.5 0.26 0.24, A = 1: own terms p (log p + H), and their mean under p as the common part."""
    logp = double(0.5, 0.26, 0.24).log()[None]
    entropy = entropy_of(logp)
    h = -(0.5 * math.log(0.5) + 0.26 * math.log(0.26) + 0.24 * math.log(0.24))
    close(entropy, double(h))
    own = [p * (math.log(p) + h) for p in (0.5, 0.26, 0.24)]
    total = sum(p * x for p, x in zip((0.5, 0.26, 0.24), own, strict=True))
    close(signals.sampled_flow(logp, entropy), double(total))
    one = double(1.0)
    for token in range(3):
        close(signals.entropy_change(logp[:, token], entropy, one), double(-own[token]))
        close(
            signals.entropy_change(logp[:, token], entropy, one, signals.sampled_flow(logp, entropy)),
            double(total - own[token]),
        )


def test_one_term_and_exact_disagree_somewhere():
    """Over random softmax states of 9 tokens a share of sampled tokens has another sign than its one-term estimate."""
    logp = torch.log_softmax(torch.randn(400, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), -1)
    entropy = entropy_of(logp)
    one = torch.ones(400, dtype=torch.float64)
    rough = signals.entropy_change(logp[:, 0], entropy, one)
    exact = signals.entropy_change(logp[:, 0], entropy, one, signals.sampled_flow(logp, entropy))
    assert 0.02 < float((rough * exact < 0).double().mean()) < 0.5


def test_what_has_no_probability_does_not_flow():
    logp = double(0.5, 0.5, 0.0).log()[None]
    close(signals.sampled_flow(logp, entropy_of(logp)), double(0.0))
    close(signals.collision(logp), double(0.5))


def test_steers_estimate_by_hand():
    """A = -2, π = 0.4, π_old = 0.5, H = 0.3: -2 * 0.8 * 0.6 * (log 0.4 + 0.3)."""
    got = signals.rough_entropy_change(double(0.4).log(), double(0.5).log(), double(0.3), double(-2.0))
    close(got, double(-2 * 0.8 * 0.6 * (math.log(0.4) + 0.3)))


def test_surprisal_and_its_quotient():
    close(signals.surprisal(double(0.25).log()), double(2 * math.log(2)))
    got = signals.relative_surprisal(double(-2.0, -0.5, 0.0, 0.0, -1.0), double(0.5, 1.0, 0.0, 0.7, 0.0))
    assert got.tolist() == [4.0, 0.5, 0.0, 0.0, math.inf]


def test_attention_entropy_by_hand():
    """Half and half of 2, of 4 and of a context of 1; all of 4 alike; one of 4 alone."""
    weight = padded([[0.5, 0.5], [0.5, 0.5], [1.0], [0.25] * 4, [0, 1.0, 0, 0]])
    got = signals.attention_entropy(weight, torch.tensor([2, 4, 1, 4, 4]))
    close(got, double(1.0, 0.5, 0.0, 1.0, 0.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_are_computed_in_float32(dtype):
    logp = torch.tensor([[0.5, 0.25, 0.25]]).log().to(dtype)
    token, entropy, one = logp[:, 0], torch.tensor([1.04], dtype=dtype), torch.ones(1)
    mask = torch.ones(1, 1, dtype=torch.bool)
    outcomes = [
        signals.surprisal(token), signals.relative_surprisal(token, entropy),
        signals.window_entropy(entropy[None], mask, width=1), signals.gradient_norm(token),
        signals.gradient_norm(token, signals.collision(logp)), signals.entropy_change(token, entropy, one),
        signals.sampled_flow(logp, entropy), signals.rough_entropy_change(token, token, entropy, one),
        signals.attention_entropy(logp.exp(), torch.tensor([3])),
    ]  # fmt: skip
    for value in outcomes:
        assert value.dtype == torch.float32
    wide = logp.float()
    assert torch.equal(outcomes[3], -torch.expm1(wide[:, 0]))
