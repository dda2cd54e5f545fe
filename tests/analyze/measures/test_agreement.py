from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from forkpoint.analyze.measures.agreement import (
    advantage_mass,
    agreement,
    attention_entropy,
    collision,
    gradient_norm,
    surprisal,
)
from forkpoint.errors import InputError

NAN = float("nan")


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradient_norm_equals_autograd(temperature):
    z = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y, advantage = torch.arange(6), torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -1.0], dtype=torch.float64)
    logp = torch.log_softmax(z / temperature, -1)
    (advantage * logp[torch.arange(6), y]).sum().backward()
    full = logp.detach().numpy()
    found = gradient_norm(full[np.arange(6), y], collision(full), advantage.numpy(), temperature=temperature)
    assert np.allclose(found, z.grad.norm(dim=1).numpy(), rtol=1e-12)
    mass = advantage_mass(full[np.arange(6), y], advantage.numpy()) / temperature
    assert np.allclose(2 * mass, z.grad.abs().sum(1).numpy(), rtol=1e-12)  # half the L1 norm
    assert (found >= mass - 1e-12).all()
    assert (found <= np.sqrt(2) * mass + 1e-12).all()


def test_gradient_norm_at_its_limits():
    assert gradient_norm(np.log([1.0]), [1.0], [5.0]).tolist() == [0.0]
    assert gradient_norm([0.0], [1.0 - 1e-16], [1.0]).tolist() == [0.0]  # rounding does not give NaN
    assert gradient_norm([-np.inf], [1.0], [1.0])[0] == pytest.approx(np.sqrt(2))  # a certain rival
    with pytest.raises(InputError, match="temperature"):
        gradient_norm([0.0], [1.0], temperature=0.0)


def test_surprisal_and_mass():
    assert surprisal([-0.5, 0.0]).tolist() == [0.5, 0.0]
    assert advantage_mass(np.log([0.25, 1.0]), [-2.0, 3.0]).tolist() == [1.5, 0.0]
    assert advantage_mass([-1e-12], [1.0])[0] == pytest.approx(1e-12, rel=1e-9, abs=0)  # no cancellation near p = 1


def test_attention_entropy_by_hand():
    even = [[0.25] * 4, [1.0, 0.0, 0.0, 0.0]]
    assert attention_entropy([even], normalised=False)[0] == pytest.approx(np.log(4) / 2)
    assert attention_entropy([even])[0] == pytest.approx(0.5)
    assert attention_entropy([[[0.5, 0.5, 0.0, 0.0]]])[0] == pytest.approx(1.0)  # of the two keys it sees
    assert attention_entropy([[[1.0, 0.0]]])[0] == 0.0
    assert np.isnan(attention_entropy([[[NAN, 0.5]]])[0])


X = [4.0, 3.0, 2.0, 1.0, 1.0, 5.0, 2.0, 7.0]
Y = [1.0, 3.0, 2.0, 4.0, 9.0, 9.0, 1.0, 7.0]


def test_agreement_by_hand():
    found = agreement({"x": X, "y": Y}, [0, 4, 8], share=0.5)
    (pair,) = found.pairs
    assert pair.correlation == pytest.approx(spearmanr(X, Y).statistic)
    each = [spearmanr(X[:4], Y[:4]).statistic, spearmanr(X[4:], Y[4:]).statistic]
    assert pair.correlation_each.value == pytest.approx(np.mean(each))
    # Tops of 4: x {7, 5, 0, 1}, y {4, 5, 7, 3}: 2 of 6.
    assert pair.jaccard.value == pytest.approx(2 / 6)
    # Per answer the top 2: x {0, 1 | 5, 7}, y {1, 3 | 4, 5}: 1 of 3 and 1 of 3.
    assert pair.jaccard_each.value == pytest.approx(2 / 6)
    assert found.chance == pytest.approx(0.5 / 1.5)


def test_ranks_within_responses_equal_scipy_with_ties():
    rng = np.random.default_rng(6)
    offsets = np.array([0, 1, 21, 21, 50, 90])
    x, y = rng.integers(0, 6, 90) * 1.0, rng.integers(0, 9, 90) * 1.0
    found = agreement({"x": x, "y": y}, offsets).pairs[0]
    each = [spearmanr(x[a:b], y[a:b]).statistic for a, b in ((1, 21), (21, 50), (50, 90))]
    assert found.correlation_each.value == pytest.approx(np.mean(each), rel=1e-12)
    assert found.correlation == pytest.approx(spearmanr(x, y).statistic, rel=1e-12)


def test_equal_values_of_neighbouring_responses_share_no_rank():
    x, y = [3.0, 2.0, 1.0, 1.0, 0.0, -1.0], [1.0, 3.0, 2.0, 1.0, 3.0, 2.0]
    found = agreement({"x": x, "y": y}, [0, 3, 6]).pairs[0]
    assert found.correlation_each.value == pytest.approx(spearmanr(x[:3], y[:3]).statistic)


def test_all_pairs_and_a_constant_score():
    found = agreement({"x": X, "flat": [1.0] * 8, "y": Y, "-x": [-v for v in X]}, [0, 8], share=0.25)
    assert found.constant == ("flat",)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("x", "y"), ("x", "-x"), ("y", "-x")]
    assert found.pairs[1].correlation == pytest.approx(-1.0)
    assert found.pairs[1].jaccard.value == 0.0
    assert np.isnan(found.pairs[0].correlation_each.low)  # one response


def test_scores_that_cannot_be_compared():
    with pytest.raises(InputError, match="1 of 2 do: all values of b are equal"):
        agreement({"a": X, "b": [0.0] * 8}, [0, 8])
    with pytest.raises(InputError, match="two scores"):
        agreement({"a": [1.0], "b": [2.0]}, [0, 1])
    assert agreement({"a": [*X, NAN], "b": [*Y, 1.0]}, [0, 9]).left_out == 1
