"""Log-prob and entropy of single tokens."""

from __future__ import annotations

import math

import pytest
import torch

from forkpoint.entropy.token import entropy_of, token_logp_entropy


def test_by_hand():
    """Logits 0, ln 2, ln 5 have partition 8, so p = 1/8, 2/8, 5/8."""
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]], dtype=torch.float64).repeat(2, 1)
    logp, entropy = token_logp_entropy(logits, torch.tensor([1, 2]))
    h = (math.log(8) + 2 * math.log(4) + 5 * math.log(8 / 5)) / 8
    assert logp.tolist() == pytest.approx([math.log(2 / 8), math.log(5 / 8)], abs=1e-12)
    assert entropy.tolist() == pytest.approx([h, h], abs=1e-12)


def test_temperature_divides_the_logits():
    """At temperature 2 logits 0 and ln 9 have weights 1 and 3."""
    logits = torch.tensor([[0.0, math.log(9)]], dtype=torch.float64)
    logp, entropy = token_logp_entropy(logits, torch.tensor([1]), temperature=2.0)
    assert float(logp) == pytest.approx(math.log(3 / 4), abs=1e-12)
    assert float(entropy) == pytest.approx(math.log(4) - 0.75 * math.log(3), abs=1e-12)


@pytest.mark.parametrize(
    ("dtype", "out"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_dtypes(dtype, out):
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    logp, entropy = token_logp_entropy(logits, torch.arange(5))
    assert logp.dtype == entropy.dtype == out
    exact_logp, exact_entropy = token_logp_entropy(logits.double(), torch.arange(5))
    torch.testing.assert_close(logp.double(), exact_logp, rtol=0, atol=1e-6)
    torch.testing.assert_close(entropy.double(), exact_entropy, rtol=0, atol=1e-6)


def test_peaked_distributions_keep_their_entropy():
    """With margin m, H = log(1 + e^-m) + m e^-m / (1 + e^-m).

    log Z - Σ p z would be wrong by float32's resolution at 1000, 6e-5; here the error stays below 1e-7.
    """
    margins = [5.0, 10.0, 15.0]
    logits = torch.tensor([[1000.0 + m, 1000.0] for m in margins])
    _, entropy = token_logp_entropy(logits, torch.zeros(3, dtype=torch.int64))
    expected = [math.log1p(math.exp(-m)) + m * math.exp(-m) / (1 + math.exp(-m)) for m in margins]
    assert entropy.tolist() == pytest.approx(expected, abs=1e-7)


def test_entropy_is_never_negative():
    logits = 60 * torch.randn(4000, 32, generator=torch.Generator().manual_seed(1))
    _, entropy = token_logp_entropy(logits, torch.zeros(4000, dtype=torch.int64))
    assert float(entropy.min()) >= 0
    assert float(entropy.min()) < 1e-6, "the test reaches the peaked end"


def test_impossible_tokens_contribute_nothing():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]], dtype=torch.float64, requires_grad=True)
    logp, entropy = token_logp_entropy(logits, torch.tensor([0]), entropy_gradient=True)
    assert float(entropy.detach()) == pytest.approx(math.log(2), abs=1e-12)
    (gradient,) = torch.autograd.grad((logp + entropy).sum(), logits)
    assert gradient.isfinite().all()
    # d log p_0 = (1 - p_0, -p_2) and the entropy of a uniform pair is at its maximum.
    assert gradient.tolist()[0] == pytest.approx([0.5, 0.0, -0.5], abs=1e-12)


def test_nan_logits_stay_nan():
    logp, entropy = token_logp_entropy(torch.tensor([[0.0, torch.nan]]), torch.tensor([0]))
    assert logp.isnan().all()
    assert entropy.isnan().all()


def test_entropy_carries_gradient_only_when_asked():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.zeros(3, dtype=torch.int64)
    assert not token_logp_entropy(logits, ids)[1].requires_grad
    assert token_logp_entropy(logits, ids)[0].requires_grad
    with torch.no_grad():
        assert not token_logp_entropy(logits, ids, entropy_gradient=True)[1].requires_grad
    assert torch.autograd.gradcheck(
        lambda x: token_logp_entropy(x, ids, entropy_gradient=True, temperature=0.7), (logits,)
    )


def test_entropy_gradient_is_the_textbook_one():
    """dH/dz_v = -p_v (log p_v + H)."""
    logits = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    _, entropy = token_logp_entropy(logits, torch.tensor([0]), entropy_gradient=True)
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    logp = torch.log_softmax(logits.detach(), -1)
    expected = -logp.exp() * (logp + entropy.detach())
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_entropy_of_uniform_and_certain():
    logp = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64).log()
    assert entropy_of(logp).tolist() == pytest.approx([math.log(4), 0.0], abs=1e-12)
