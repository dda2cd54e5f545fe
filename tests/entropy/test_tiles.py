"""The epilogues of a tile by hand and against autograd, block by block."""

import math

import pytest
import torch

from forkpoint.entropy.tiles import Shape, Upstream, fold, running, to_dlogits

N, V = 5, 12
SHAPES = {
    "plain": Shape(1.0, 1.0, None),
    "all": Shape(0.7, 1.3, 2.0),
}


def products(seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(N, V, generator=generator, dtype=torch.float64)
    return u, torch.randn(V, generator=generator, dtype=torch.float64), torch.arange(N) * 2


def logits(u, bias, shape):
    u = shape.scale * (u + bias)
    return (u if shape.softcap is None else shape.softcap * torch.tanh(u / shape.softcap)) / shape.temperature


def folded(u, bias, ids, shape, blocks):
    sums = running(N, u, u.dtype)
    for first, last in zip(blocks, [*blocks[1:], V], strict=True):
        fold(u[:, first:last].clone(), sums, ids, bias[first:last], first, shape)
    return sums


def test_two_words_by_hand():
    """Logits ln 1, ln 3: maximum ln 3, sum 1/3 + 1, centred sum (1/3) ln(1/3)."""
    sums = running(1, torch.zeros(1), torch.float64)
    u = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    for word in (1, 0):
        fold(u[:, word : word + 1].clone(), sums, torch.tensor([0]), None, word, SHAPES["plain"])
    expected = [math.log(3), 4 / 3, math.log(1 / 3) / 3, 0.0]
    assert [float(x) for x in sums] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("blocks", [[0], [0, 5], [0, 1, 2, 11]])
def test_sums_do_not_depend_on_the_blocks(name, blocks):
    u, bias, ids = products()
    sums = folded(u, bias, ids, SHAPES[name], blocks)
    z = logits(u, bias, SHAPES[name])
    torch.testing.assert_close(sums.top_N, z.amax(1))
    torch.testing.assert_close(sums.top_N + sums.total_N.log(), z.logsumexp(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sums.target_N, z.gather(1, ids[:, None]).squeeze(1))
    centred = ((z - z.amax(1, keepdim=True)).exp() * (z - z.amax(1, keepdim=True))).sum(1)
    torch.testing.assert_close(sums.centred_N, centred, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("blocks", [[0], [0, 4, 8]])
def test_masked_blocks_leave_no_trace(blocks):
    u, bias, ids = products()
    bias[:4] = -torch.inf
    sums = folded(u, bias, ids, SHAPES["plain"], blocks)
    z = (u + bias)[:, 4:]
    torch.testing.assert_close(sums.top_N + sums.total_N.log(), z.logsumexp(1))
    assert bool(sums.centred_N.isfinite().all())
    assert sums.target_N[0] == -torch.inf


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_gradient_of_a_tile_is_that_of_autograd(name, entropy):
    shape = SHAPES[name]
    u, bias, ids = products()
    u.requires_grad_()
    log_p = torch.log_softmax(logits(u, bias, shape), 1)
    outputs = (
        log_p.gather(1, ids[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(1), logits(u, bias, shape).logsumexp(1)
    )  # fmt: skip
    a, b, c = torch.randn(3, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    loss = (outputs[0] * a).sum() + (outputs[2] * c).sum() + ((outputs[1] * b).sum() if entropy else 0)
    (expected,) = torch.autograd.grad(loss, u)
    upstream = Upstream(a, b if entropy else None, c)
    statistics = (ids, outputs[2].detach(), outputs[1].detach() if entropy else None)
    for first, last in ((0, 7), (7, V)):
        tile = u.detach()[:, first:last].clone()
        found = to_dlogits(tile, *statistics, upstream, bias[first:last], first, shape, torch.float64)
        assert found.data_ptr() == tile.data_ptr()
        torch.testing.assert_close(found, expected[:, first:last], rtol=1e-12, atol=1e-13)
