"""Entropy of the nucleus: by hand in float64, its gradient against autograd and finite differences, its cost."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from forkpoint.entropy.nucleus import nucleus_edges, nucleus_entropy, nucleus_entropy_of, nucleus_member
from forkpoint.entropy.token import token_logp_entropy
from forkpoint.errors import InputError

N, H, V = 11, 8, 37
VARIANTS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "softcap": {"softcap": 2.0},
    "everything": {"temperature": 1.7, "bias": True, "softcap": 3.0, "scale": 1.4},
}


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def tensors(dtype=torch.float64, rows=N):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return draw(rows, H), draw(V, H), draw(V)


def entropy(*q):
    total = sum(q)
    return -sum(x / total * math.log(x / total) for x in q)


def test_by_hand():
    """Mass 0.8 of (0.5, 0.25, 0.15, 0.1): 0.5 + 0.25 do not have it, with 0.15 they do."""
    p = double([0.5, 0.25, 0.15, 0.1], [0.1, 0.9, 0.0, 0.0], [0.79, 0.01, 0.2, 0.0])
    got = nucleus_entropy_of(p.log())
    assert got.tolist() == pytest.approx([entropy(0.5, 0.25, 0.15), 0.0, entropy(0.79, 0.2)], abs=1e-15)
    assert float(nucleus_entropy_of(p[:1].log(), 0.5)) == 0.0
    assert float(nucleus_entropy_of(p[:1].log(), 1.0)) == pytest.approx(entropy(0.5, 0.25, 0.15, 0.1))
    assert float(nucleus_entropy_of(p[:1].log() + 7.0)) == pytest.approx(entropy(0.5, 0.25, 0.15))


def test_gradient_by_hand():
    """Nucleus (0.6, 0.3), q = (2/3, 1/3): ∂H/∂z = -q (log q + H), of opposite sign, 0 for the word outside."""
    z = double([0.6, 0.3, 0.1]).log().requires_grad_()
    nucleus_entropy_of(z).sum().backward()
    h = entropy(0.6, 0.3)
    expected = [-(2 / 3) * (math.log(2 / 3) + h), -(1 / 3) * (math.log(1 / 3) + h), 0.0]
    assert z.grad[0].tolist() == pytest.approx(expected, abs=1e-15)
    assert expected[0] == pytest.approx(-expected[1])


def test_equally_likely_words_of_which_some_fit():
    """Mass 0.6 of (0.5, 0.25, 0.25): one of two words fits, so each belongs to the nucleus by half."""
    z = double([0.5, 0.25, 0.25]).log().requires_grad_()
    got = nucleus_entropy_of(z, 0.6)
    assert float(got.detach()) == pytest.approx(entropy(0.5, 0.25))
    assert nucleus_member(z, nucleus_edges(z.detach(), 0.6)).tolist() == [[1.0, 0.5, 0.5]]
    got.sum().backward()
    assert float(z.grad[0, 1]) == float(z.grad[0, 2]) > 0
    assert float(z.grad.sum()) == pytest.approx(0.0, abs=1e-15)
    assert float(nucleus_entropy_of(double([0.0] * 10), 0.55)) == pytest.approx(math.log(6))


@pytest.mark.parametrize("look", [1, 3, 64])
@pytest.mark.parametrize("mass", [0.05, 0.8, 0.999, 1.0])
def test_the_edge_does_not_depend_on_how_it_is_looked_for(look, mass):
    z = torch.randn(50, 90, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    z[:10] = z[:10].round()
    member = nucleus_member(z, nucleus_edges(z, mass, look=look))
    p = z.softmax(-1)
    order = z.sort(-1, descending=True)
    sorted_p = p.gather(1, order.indices)
    count = (sorted_p.cumsum(-1) - sorted_p < mass).sum(-1)
    torch.testing.assert_close(member.sum(-1), count.double())
    assert bool(((member * p).sum(-1) >= mass - 1e-12).all())
    first_p = torch.where(torch.arange(90) < count[:, None], sorted_p, 0.0)
    q = first_p / first_p.sum(-1, keepdim=True)
    torch.testing.assert_close(nucleus_entropy_of(z, mass), torch.special.entr(q).sum(-1))


@pytest.mark.parametrize("cells", [1, 3 * V, 1 << 20])
@pytest.mark.parametrize("variant", VARIANTS)
def test_values_and_gradients_are_those_of_materialised_logits(variant, cells):
    settings = dict(VARIANTS[variant])
    use_bias = settings.pop("bias", False)
    upstream = torch.randn(N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    upstream[::3] = 0.0
    out = []
    for ours in (True, False):
        hidden, weight, bias = tensors()
        if use_bias:
            with torch.no_grad():
                bias[5] = -torch.inf
        used = bias if use_bias else None
        if ours:
            value = nucleus_entropy(hidden, weight, bias_V=used, cells=cells, **settings)
        else:
            z = (hidden @ weight.t() + (0 if used is None else used)) * settings.get("scale", 1.0)
            cap = settings.get("softcap")
            z = z if cap is None else (cap * torch.tanh(z / cap)).masked_fill(z == -torch.inf, -torch.inf)
            value = nucleus_entropy_of(z / settings.get("temperature", 1.0))
        (value * upstream).sum().backward()
        out.append(
            [value.detach(), hidden.grad, weight.grad, *([] if used is None else [bias.grad[:5], bias.grad[6:]])]
        )
    for got, expected in zip(*out, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert not out[0][1][::3].any()


def test_gradient_against_finite_differences():
    hidden, weight, bias = tensors()
    assert torch.autograd.gradcheck(
        lambda h, w, b: nucleus_entropy(h, w, bias_V=b, softcap=4.0, temperature=0.7, cells=100),
        (hidden[:4].detach().requires_grad_(), weight, bias),
    )


def test_a_nucleus_of_mass_one_is_the_distribution():
    hidden, weight, _ = tensors()
    one = token_logp_entropy(hidden @ weight.t(), torch.zeros(N, dtype=torch.int64), entropy_gradient=True)[1]
    (expected,) = torch.autograd.grad(one.sum(), weight)
    value = nucleus_entropy(hidden, weight, mass=1.0)
    torch.testing.assert_close(value, one)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), weight)[0], expected)


def test_bfloat16_is_rounded_once():
    hidden, weight, _ = tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = nucleus_entropy(hidden, weight)
    assert got.dtype == torch.float32
    expected = nucleus_entropy_of(hidden.bfloat16().float() @ weight.bfloat16().float().t())
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    got.sum().backward()
    assert hidden.grad.dtype == torch.float32


class Largest(TorchDispatchMode):
    """The largest tensor any operation makes, apart from weight, states and values a row."""

    cells = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor) and value.ndim == 2 and value.shape[1] > 1 and H not in value.shape:
                self.cells = max(self.cells, value.numel())
        return out


@pytest.mark.parametrize("cells", [1, 20 * V])
def test_logits_are_never_held_whole(cells):
    hidden, weight, _ = tensors(torch.float32, 60)
    mode = Largest()
    with mode:
        nucleus_entropy(hidden, weight, cells=cells).sum().backward()
    # One column more than the row: what stands behind the last word.
    assert max(cells, V) <= mode.cells <= max(cells, V) * (V + 1) / V


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_operations_are_two_plus_six_share(share):
    hidden, weight, _ = tensors(torch.float32, 40)
    learns = (torch.arange(40) < 40 * share).float()
    with FlopCounterMode(display=False) as counter:
        (nucleus_entropy(hidden, weight, cells=100) * learns).sum().backward()
    assert counter.get_total_flops() == round((2 + 6 * share) * 40 * H * V)


def test_no_rows_and_a_mass_that_is_none():
    hidden, weight, _ = tensors()
    assert nucleus_entropy(hidden[:0], weight).shape == (0,)
    for mass in (0.0, 1.5, math.nan):
        with pytest.raises(InputError, match=r"must be in \(0, 1\]"):
            nucleus_entropy(hidden, weight, mass=mass)
