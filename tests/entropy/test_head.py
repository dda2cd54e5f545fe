"""The entropy head against materialised logits in float64, and its counted cost."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from forkpoint.entropy.head import head_logp_entropy
from forkpoint.entropy.token import token_logp_entropy
from forkpoint.errors import InputError

N, H, V = 13, 8, 37
VARIANTS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "bias": {"bias": True},
    "softcap": {"softcap": 2.0},
    "scale": {"scale": 0.3},
    "everything": {"temperature": 1.7, "bias": True, "softcap": 3.0, "scale": 1.4},
}


def tensors(dtype=torch.float64, rows=N):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return draw(rows, H), draw(V, H), draw(V), torch.randint(V, (rows,), generator=generator)


def reference(hidden, weight, bias, ids, *, temperature=1.0, softcap=None, scale=1.0, **_):
    z = hidden @ weight.t()
    z = (z + bias if bias is not None else z) * scale
    z = softcap * torch.tanh(z / softcap) if softcap is not None else z
    logp, entropy = token_logp_entropy(z, ids, temperature=temperature, entropy_gradient=True)
    return logp, entropy, torch.logsumexp(z / temperature, -1)


def both(variant, upstream, *, tile_cells=1 << 24, entropy_gradient=True, dtype=torch.float64):
    """Return outputs and gradients of the head and of the reference for given upstream gradients."""
    settings = dict(VARIANTS[variant])
    use_bias = settings.pop("bias", False)
    out = []
    for ours in (True, False):
        hidden, weight, bias, ids = tensors(dtype)
        bias = bias if use_bias else None
        if ours:
            found = head_logp_entropy(
                hidden, weight, ids, bias_V=bias, tile_cells=tile_cells, entropy_gradient=entropy_gradient, **settings
            )
        else:
            found = reference(hidden, weight, bias, ids, **settings)
        terms = zip(found, upstream, strict=True)
        sum((value * g).sum() for value, g in terms if g is not None and value.requires_grad).backward()
        leaves = [leaf.grad for leaf in (hidden, weight, bias) if leaf is not None]
        out.append(([value.detach() for value in found], leaves))
    return out


def upstreams(share=1.0, entropy=True):
    generator = torch.Generator().manual_seed(1)

    def draw():
        # Each output has rows of its own that carry gradient.
        keep = torch.rand(N, generator=generator) < share
        return torch.randn(N, generator=generator, dtype=torch.float64) * keep

    return [draw(), draw() if entropy else None, draw()]


def test_by_hand():
    """Logits 0, ln 2, ln 5 have partition 8, so p = 1/8, 2/8, 5/8 and log Z = ln 8."""
    weight = torch.tensor([[0.0], [math.log(2)], [math.log(5)]], dtype=torch.float64)
    out = head_logp_entropy(torch.ones(2, 1, dtype=torch.float64), weight, torch.tensor([1, 2]), tile_cells=2)
    h = (math.log(8) + 2 * math.log(4) + 5 * math.log(8 / 5)) / 8
    assert out.logp_N.tolist() == pytest.approx([math.log(2 / 8), math.log(5 / 8)], abs=1e-12)
    assert out.entropy_N.tolist() == pytest.approx([h, h], abs=1e-12)
    assert out.log_partition_N.tolist() == pytest.approx([math.log(8)] * 2, abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tile_cells", [1, 40, 97, 1 << 24])
def test_values_and_gradients_are_those_of_materialised_logits(variant, tile_cells):
    (ours, our_grads), (theirs, their_grads) = both(variant, upstreams(), tile_cells=tile_cells)
    for a, b in zip(ours + our_grads, theirs + their_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_rows_without_gradient_are_dropped_exactly(share):
    (_, ours), (_, theirs) = both("everything", upstreams(share), tile_cells=100)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_entropy_without_gradient_is_a_constant():
    hidden, weight, _, ids = tensors()
    out = head_logp_entropy(hidden, weight, ids)
    assert not out.entropy_N.requires_grad
    assert out.logp_N.requires_grad


def test_errors_against_float64():
    (ours, grads), _ = both("plain", [g.float() if g is not None else None for g in upstreams()], dtype=torch.float32)
    _, (theirs, their_grads) = both("plain", upstreams())
    for a, b in zip(ours + grads, theirs + their_grads, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-6)


def test_bfloat16_states_keep_log_probs_to_a_thousandth():
    hidden, weight, _, ids = tensors(torch.bfloat16)
    out = head_logp_entropy(hidden, weight, ids)
    exact, *_ = reference(hidden.double(), weight.double(), None, ids)
    assert out.logp_N.dtype == torch.float32
    assert float((out.logp_N.double() - exact).detach().abs().max()) < 1e-3


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_operations_are_two_plus_six_share(share):
    rows = 40
    hidden, weight, _, ids = tensors(torch.float32, rows)
    learns = torch.zeros(rows)
    learns[: int(share * rows)] = 1.0
    with FlopCounterMode(display=False) as counter:
        (head_logp_entropy(hidden, weight, ids, tile_cells=300).logp_N * learns).sum().backward()
    assert counter.get_total_flops() == round((2 + 6 * share) * rows * H * V)


def test_a_frozen_head_saves_its_gradient():
    rows = 40
    hidden, weight, _, ids = tensors(torch.float32, rows)
    weight = weight.detach()
    learns = (torch.arange(rows) < 8).float()
    with FlopCounterMode(display=False) as counter:
        (head_logp_entropy(hidden, weight, ids).logp_N * learns).sum().backward()
    assert counter.get_total_flops() == (2 * rows + 4 * 8) * H * V
    assert hidden.grad[8:].abs().sum() == 0


class Largest(TorchDispatchMode):
    """The largest tensor any operation makes, apart from those as large as the weight."""

    cells = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor) and value.shape not in ((V, H), (H, V)):
                self.cells = max(self.cells, value.numel())
        return out


def test_logits_are_never_held_whole():
    rows, cells = 200, 600
    hidden, weight, _, ids = tensors(torch.float32, rows)
    mode = Largest()
    with mode:
        head_logp_entropy(hidden, weight, ids, tile_cells=cells).logp_N[:100].sum().backward()
    assert max(cells, rows * H) >= mode.cells
    assert mode.cells < rows * V / 4


def test_masked_words_have_no_probability_and_no_nan():
    hidden, weight, bias, ids = tensors()
    with torch.no_grad():
        bias[::2] = -torch.inf
    ids = ids // 2 * 2 + 1
    ids = ids.clamp(max=V - 2)
    out = head_logp_entropy(hidden, weight, ids, bias_V=bias, entropy_gradient=True, tile_cells=50)
    z = (hidden @ weight.t())[:, 1::2] + bias[1::2]
    logp, entropy = token_logp_entropy(z, (ids - 1) // 2)
    torch.testing.assert_close(out.logp_N, logp)
    torch.testing.assert_close(out.entropy_N, entropy)
    (out.logp_N.sum() + out.entropy_N.sum()).backward()
    assert bool(hidden.grad.isfinite().all())
    assert bool((weight.grad[::2] == 0).all())


def test_no_rows_and_rows_without_gradient():
    _, weight, _, _ = tensors(torch.float32)
    hidden = torch.zeros(0, H, requires_grad=True)
    out = head_logp_entropy(hidden, weight, torch.zeros(0, dtype=torch.int64))
    assert out.logp_N.shape == (0,)
    (out.logp_N.sum() * 0).backward()
    assert bool((weight.grad == 0).all())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden": torch.zeros(3, 5)}, "do not fit"),
        ({"ids": torch.zeros(2, dtype=torch.int64)}, "one entry a hidden state"),
        ({"ids": torch.tensor([0, V, 1])}, f"id {V} is outside the vocabulary"),
        ({"ids": torch.tensor([0, -1, 1])}, "id -1 is outside"),
        ({"temperature": 0.0}, "greater than 0"),
        ({"softcap": -1.0}, "greater than 0"),
    ],
)
def test_what_does_not_fit_is_named(change, sentence):
    settings = {"hidden": torch.zeros(3, H), "ids": torch.zeros(3, dtype=torch.int64)} | change
    hidden, ids = settings.pop("hidden"), settings.pop("ids")
    with pytest.raises(InputError, match=sentence):
        head_logp_entropy(hidden, torch.zeros(V, H), ids, **settings)
