"""Linear layers with faster products: the same numbers, less work."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from forkpoint import products
from forkpoint.linear import DENSE, Gated, RowLinear, row_linears
from tiny import qwen3

LIBRARIES = ["torch", *(["onednn"] if torch.backends.mkldnn.is_available() else [])]


@pytest.fixture(params=LIBRARIES)
def library(request, monkeypatch):
    monkeypatch.setattr(products, "library", lambda: request.param)
    monkeypatch.setattr(products, "SMALL", 1)
    return request.param


@pytest.mark.parametrize("shape", [(1, 3, 5), (32, 8, 4), (200, 16, 24), (64, 1, 1), (40, 0, 3)])
def test_products_are_those_of_torch(shape, library):
    M, K, N = shape
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(M, K, generator=generator), torch.randn(N, K, generator=generator)
    torch.testing.assert_close(products.matmul_t(a, b), a @ b.t(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(products.matmul_t(b.t().contiguous().t(), a), b @ a.t(), rtol=1e-5, atol=1e-5)


def test_products_that_come_again_go_to_onednn_earlier(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(products, "library", lambda: "onednn")
    seen = []
    monkeypatch.setattr(products, "_dense", lambda x: seen.append(x.shape[0]) or x)
    a, b = torch.randn(256, 128), torch.randn(128, 128)
    assert products.SMALL_REPEATED == 256 * 128 * 128 < products.SMALL
    products.matmul_t(a, b)
    assert not seen
    products.matmul_t(a[:255], b, small=products.SMALL_REPEATED)
    assert not seen
    products.matmul_t(a, b, small=products.SMALL_REPEATED)
    assert seen == [128]


def test_the_second_factor_has_no_gaps_when_onednn_reads_it():
    wide = torch.arange(24.0).reshape(4, 6)
    for x in (wide, wide.t()):
        assert products._dense(x) is x
    for x in (wide[:, :3], wide.t()[:3], wide[::2]):
        assert products._dense(x).is_contiguous()
        assert torch.equal(products._dense(x), x)


def test_products_are_counted(library):
    a, b = torch.randn(64, 8), torch.randn(16, 8)
    with FlopCounterMode(display=False) as counter:
        products.matmul_t(a, b)
    assert counter.get_total_flops() == 2 * 64 * 8 * 16


def test_other_kinds_of_tensors_take_torchs_product(monkeypatch):
    monkeypatch.setattr(products, "library", lambda: "onednn")
    monkeypatch.setattr(products, "SMALL", 1)
    for dtype in (torch.float64, torch.bfloat16):
        a = torch.randn(40, 8).to(dtype)
        assert torch.equal(products.matmul_t(a, a), a @ a.t())


def grown(share, rows=256, bias=True):
    torch.manual_seed(0)
    plain = torch.nn.Linear(24, 40, bias=bias)
    ours = copy.deepcopy(plain)
    ours.__class__ = RowLinear
    ours.drops_rows = True
    x = torch.randn(4, rows // 4, 24)
    gradient = torch.randn(rows, 40)
    gradient[int(share * rows) :] = 0.0
    # A row without any positive number still learns.
    gradient[: int(share * rows) // 2].clamp_(max=0.0)
    return plain, ours, x, gradient[torch.randperm(rows)].reshape(4, rows // 4, 40)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 1.0])
def test_gradients_are_those_of_a_plain_layer(share, bias, library):
    plain, ours, x, gradient = grown(share, bias=bias)
    grads = []
    for layer in (plain, ours):
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        out.backward(gradient)
        grads.append([out.detach(), leaf.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_rows_without_gradient_cost_nothing(library):
    def flops(share):
        _, ours, x, gradient = grown(share, rows=1024)
        out = ours(x.requires_grad_())
        with FlopCounterMode(display=False) as counter:
            out.backward(gradient)
        return counter.get_total_flops()

    whole = 2 * 2 * 1024 * 24 * 40
    assert flops(1.0) == flops((DENSE * 1024 + 1) / 1024) == whole
    assert flops(0.0) == 0
    # 205 rows, rounded up to 256 so that few different shapes occur
    assert flops(205 / 1024) == whole * 256 / 1024


def test_a_gradient_that_is_not_a_number_is_not_dropped(library):
    _, ours, x, gradient = grown(0.1)
    gradient[0, 0] = float("nan")
    leaf = x.clone().requires_grad_()
    ours(leaf).backward(gradient)
    assert leaf.grad[0, 0].isnan().all()
    assert ours.weight.grad.isnan().all()


def test_a_model_keeps_its_numbers_and_names(library):
    plain = qwen3()
    model = row_linears(copy.deepcopy(plain))
    assert list(model.state_dict()) == list(plain.state_dict())
    ids = torch.arange(3, 23)[None].repeat(3, 1)
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)
    for one in (plain, model):
        one(ids).logits[0, 2:4].logsumexp(-1).sum().backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    kinds = {name: module.drops_rows for name, module in model.named_modules() if isinstance(module, RowLinear)}
    assert len(kinds) == 15
    assert {name for name, drops in kinds.items() if drops} == {name for name in kinds if ".layers.1." in name}


def test_autocast_and_double_take_the_plain_layer():
    _, ours, x, _ = grown(1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
    assert ours.double()(x.double()).dtype == torch.float64


def test_the_choice_of_a_library_is_a_rule(monkeypatch, tmp_path):
    """AMD with AVX-512 takes oneDNN; everything else what torch takes."""
    real = products.library.__wrapped__
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(products, "Path", lambda _: info)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for vendor, capability, expected in (
        ("AuthenticAMD", "AVX512", "onednn"),
        ("AuthenticAMD", "AVX2", "torch"),
        ("GenuineIntel", "AVX512", "torch"),
    ):
        info.write_text(f"vendor_id : {vendor}\n")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert real() == expected
    info.unlink()
    assert real() == "torch"


def mlps(act="silu"):
    """Two equal MLPs of transformers."""
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

    torch.manual_seed(0)
    own = Qwen3MLP(Qwen3Config(hidden_size=24, intermediate_size=40, hidden_act=act))
    return own, copy.deepcopy(own)


def turned(mlp, drops_rows=False):
    holder = torch.nn.ModuleDict({"mlp": mlp})
    holder.base_model = torch.nn.Module()
    row_linears(holder)
    for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        layer.drops_rows = drops_rows
    return mlp


def ungated(mlp):
    """Return the MLP with transformers' own forward pass and our linear layers."""
    mlp.__class__ = next(kind for kind in type(mlp).__mro__ if not issubclass(kind, Gated))
    return mlp


def learned(mlp, share=1.0, rows=256):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, rows // 2, 24, generator=generator).requires_grad_()
    wanted = (torch.rand(rows, 1, generator=generator) < share).float()
    y = mlp(x)
    (y.reshape(rows, -1) * wanted * torch.randn(rows, 24, generator=generator)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in mlp.parameters())]


@pytest.mark.parametrize("share", [1.0, 0.2, 0.0])
def test_a_gated_mlp_gives_the_same_values_and_gradients(share, library):
    own, ours = mlps()
    own = ungated(turned(own))
    ours = turned(ours, drops_rows=share < 1)
    assert isinstance(ours, Gated)
    assert not isinstance(own, Gated)
    assert type(ours).__name__ == "Qwen3MLP"
    assert ours.state_dict().keys() == own.state_dict().keys()
    for got, expected in zip(learned(ours, share), learned(own, share), strict=True):
        if share == 1:
            assert torch.equal(got, expected)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_gated_mlp_keeps_gate_and_up_alone():
    kept = {}
    for name, mlp in zip(("own", "ours"), mlps(), strict=True):
        mlp = turned(mlp) if name == "ours" else ungated(turned(mlp))
        seen = {}
        weights = {p.data_ptr() for p in mlp.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, seen=seen: seen.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
        ):
            out = mlp(torch.randn(64, 24))
        kept[name] = sum(t.numel() for at, t in seen.items() if at not in weights)
        del out
    # The input, and per token: gate, silu(gate), up and their product; or gate and up.
    assert kept == {"own": 64 * (24 + 4 * 40), "ours": 64 * (24 + 2 * 40)}


def test_other_mlps_stay_as_they_are():
    mlp, _ = mlps(act="gelu")
    assert not isinstance(turned(mlp), Gated)
    mlp, _ = mlps()
    mlp.__class__ = type("OtherMLP", (type(mlp),), {})
    assert not isinstance(turned(mlp), Gated)


def test_a_gated_mlp_in_other_types_is_the_plain_one():
    own, ours = mlps()
    ours = turned(ours).double()
    x = torch.randn(3, 24, dtype=torch.float64)
    assert torch.equal(ours(x), own.double()(x))
    own, ours = mlps()
    x = torch.randn(3, 24)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = turned(ours)(x), own(x)
    assert torch.equal(found, expected)
    found.sum().backward()
    expected.sum().backward()
    assert torch.equal(ours.gate_proj.weight.grad, own.gate_proj.weight.grad)
