"""What the head does with tiles on each device: libraries, dtypes, synchronisations, saved bytes, bad values."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from forkpoint import products
from forkpoint.entropy import head, tiles
from forkpoint.entropy.head import head_logp_entropy
from forkpoint.entropy.token import token_logp_entropy
from forkpoint.errors import InputError

N, H, V = 96, 40, 700


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*s, generator=generator).to(dtype).requires_grad_() for s in ((N, H), (V, H)))
    return hidden, weight, torch.randint(V, (N,), generator=generator)


def reference(hidden, weight, ids, coefficients):
    """Return log-probs, dh and dW of Σ coefficient logp in float64."""
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    logp, _ = token_logp_entropy(hidden @ weight.t(), ids)
    return logp.detach(), *torch.autograd.grad((logp * coefficients).sum(), (hidden, weight))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize("library", ["torch", "onednn"])
def test_both_libraries_give_the_same_at_the_same_cost(monkeypatch, library):
    monkeypatch.setattr(products, "library", lambda: library)
    monkeypatch.setattr(products, "SMALL", 1)
    monkeypatch.setattr(head, "FAST_WORK", 0)
    monkeypatch.setattr(head, "STRIP", 16)
    monkeypatch.setattr(head, "LONG_STRIP", 100)
    hidden, weight, ids = tensors()
    coefficients = torch.linspace(-1, 1, N) * (torch.arange(N) < 48)
    with FlopCounterMode(display=False) as counter:
        logp = head_logp_entropy(hidden, weight, ids, tile_cells=48 * 256).logp_N
        (logp * coefficients).sum().backward()
    assert counter.get_total_flops() == (2 * N + 6 * 48) * H * V
    called = str(counter.get_flop_counts()["Global"])
    assert ("linear_pointwise" in called) == (library == "onednn")
    for ours, exact in zip((logp, hidden.grad, weight.grad), reference(hidden, weight, ids, coefficients), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_rounds_operands_and_nothing_else(dtype):
    """The weight is a float32 master: its gradient is float32 and so are the log-probs."""
    hidden, weight, ids = tensors()
    hidden = hidden.detach().to(dtype).requires_grad_()
    coefficients = torch.linspace(-1, 1, N)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp = head_logp_entropy(hidden, weight, ids).logp_N
        (logp * coefficients).sum().backward()
    exact, d_hidden, d_weight = reference(hidden.bfloat16(), weight.bfloat16(), ids, coefficients)
    assert (logp.dtype, hidden.grad.dtype, weight.grad.dtype) == (torch.float32, dtype, torch.float32)
    torch.testing.assert_close(logp.double(), exact, rtol=1e-5, atol=1e-5)
    # dL/dz is rounded to bfloat16 as an operand; the products are not.
    assert float((weight.grad - d_weight).norm() / d_weight.norm()) < 3e-3
    assert float((hidden.grad - d_hidden).norm() / d_hidden.norm()) < 4e-3
    assert not torch.equal(weight.grad, weight.grad.bfloat16().float())


def test_float64_is_left_alone_by_autocast():
    hidden, weight, ids = tensors(torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head_logp_entropy(hidden, weight, ids).logp_N.dtype == torch.float64


class Calls(TorchDispatchMode):
    """The names of all operations, and of products the dtypes of operands and result and its shape."""

    def __init__(self):
        super().__init__()
        self.names, self.products = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.append(func._schema.name)
        if func._schema.name in ("aten::mm", "aten::addmm"):
            a, b = [x.dtype for x in args if isinstance(x, torch.Tensor)][-2:]
            assert a == b
            self.products.append((a, out.dtype, tuple(out.shape)))
        return out


def test_one_host_synchronisation_a_pass():
    hidden, weight, ids = tensors()
    with Calls() as forward:
        out = head_logp_entropy(hidden, weight, ids, tile_cells=48 * 256, entropy_gradient=True)
    loss = (out.logp_N * (torch.arange(N) < 7)).sum()
    with Calls() as backward:
        loss.backward()
    syncs = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")
    assert [name for name in forward.names if name in syncs] == ["aten::_local_scalar_dense"]
    assert [name for name in backward.names if name in syncs] == ["aten::nonzero"]


@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
def test_what_cuda_does_gives_wide_tiles_from_narrow_operands(weight_dtype, monkeypatch):
    """The path for CUDA on tensors without content: shapes and dtypes of its products. It has not run on a GPU."""
    monkeypatch.setattr(head, "WIDE_PRODUCTS", ("meta",))
    rows, narrow, wide = 24, torch.bfloat16, torch.float32
    limits = head.Limits(rows * 256, N, V)
    tile = tiles.epilogues("torch", torch.device("meta"), wide)
    spec = head._Spec(tiles.Shape(1.0, 1.0, None), False, limits, narrow, wide, tile)
    hidden = torch.empty(N, H, dtype=narrow, device="meta")
    weight = torch.empty(V, H, dtype=weight_dtype, device="meta")
    ids, ones = torch.empty(N, dtype=torch.int64, device="meta"), torch.empty(rows, device="meta")
    upstream = tiles.Upstream(ones, None, ones)
    with Calls() as forward:
        head._fold(hidden, weight, None, ids, spec)
    with Calls() as backward:
        gradients = head._unfold(
            hidden[:rows], weight, None, (ids[:rows], ones, None), upstream, spec, (True, True, False)
        )
    assert {product[:2] for product in forward.products} == {(narrow, wide)}
    assert [gradient.dtype for gradient in gradients[:2]] == [wide, weight_dtype]
    expected = []
    for columns in (256, 256, V - 512):
        expected += [(narrow, wide, (rows, columns)), (narrow, wide, (rows, H)), (narrow, weight_dtype, (columns, H))]
    assert backward.products == expected


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_one_or_two_numbers_a_row_are_saved(entropy_gradient):
    hidden, weight, ids = tensors()
    inputs = {x.untyped_storage().data_ptr() for x in (hidden, weight, ids)}
    saved = []

    def pack(x):
        saved.append(0 if x.untyped_storage().data_ptr() in inputs else x.nbytes)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        head_logp_entropy(hidden, weight, ids, entropy_gradient=entropy_gradient)
    assert sum(saved) == (8 if entropy_gradient else 4) * N


def test_tile_of_a_gpu_is_bounded_and_even():
    limits = head.LIMITS["cuda"]
    for rows in (200, 1638, 13107, 65536):
        columns = head._columns(rows, 151936, limits)
        assert columns % 128 == 0 or columns == 151936
        assert rows * columns * 4 <= 256 * 2**20


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_a_target_on_a_masked_word_is_impossible_and_harms_nobody(softcap):
    hidden, weight, ids = tensors(torch.float64)
    bias = torch.zeros(V, dtype=torch.float64)
    bias[5] = -torch.inf
    ids = ids + (ids == 5)
    ids[3] = 5
    out = head_logp_entropy(
        hidden, weight, ids, bias_V=bias, softcap=softcap, entropy_gradient=True, tile_cells=N * 128
    )
    assert out.logp_N[3] == -torch.inf
    others = torch.arange(N) != 3
    assert bool(out.logp_N[others].isfinite().all())
    assert bool(out.entropy_N.isfinite().all())
    (out.logp_N.sum() + out.entropy_N.sum()).backward()
    assert bool(hidden.grad.isfinite().all())
    assert bool(weight.grad.isfinite().all())
    z = hidden.detach() @ weight.detach().t()
    z = (z if softcap is None else softcap * torch.tanh(z / softcap)).index_fill(1, torch.tensor([5]), -torch.inf)
    torch.testing.assert_close(out.log_partition_N.detach(), z.logsumexp(1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_is_named(value):
    hidden, weight, ids = (x.detach() for x in tensors())
    hidden[3, 0] = value
    with pytest.raises(InputError, match="row 3 has no finite log-partition"):
        head_logp_entropy(hidden, weight, ids, tile_cells=5000)


def test_a_vocabulary_masked_whole_is_named():
    with pytest.raises(InputError, match="row 0: every word of the vocabulary is masked"):
        head_logp_entropy(*(x.detach() for x in tensors()), bias_V=torch.full((V,), -torch.inf))


def test_ids_of_another_type_are_refused():
    hidden, weight, ids = tensors()
    with pytest.raises(InputError, match=r"ids are torch\.int32"):
        head_logp_entropy(hidden, weight, ids.int())


def test_a_head_with_gaps_between_its_rows_is_not_given_to_onednn(monkeypatch):
    """oneDNN multiplies such a matrix in plain loops, a thousand times slower."""
    monkeypatch.setattr(products, "library", lambda: "onednn")
    monkeypatch.setattr(head, "FAST_WORK", 0)
    wide = torch.randn(V, 2 * H)
    assert head._fast(N, wide)
    assert not head._fast(N, wide[:, :H])
