"""Linear layers of the policy: faster products on a CPU, no work for rows without gradient, less kept for backward.

The entropy head hands back a gradient for the tokens that learn and none for the others. In a transformer's last
layer that stays so, token by token, up to the attention's keys and values: there the backward pass of a linear
layer needs the learning rows only.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from forkpoint.products import matmul_t, rounded

DENSE = 0.75
"""Above this share of rows with gradient, gathering them costs more than it saves."""

GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
"""Classes of transformers whose MLP is down(act(gate(x)) * up(x)), with silu in released models."""


class RowLinear(nn.Linear):
    """`nn.Linear` with float32 products on a CPU through `forkpoint.products`; elsewhere it is `nn.Linear`."""

    drops_rows = False
    """Whether rows are likely to come without gradient, so that looking for them pays."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight.T + bias."""
        if not _ours(x):
            return super().forward(x)
        if torch.is_grad_enabled():
            return _Linear.apply(x, self.weight, self.bias, self.drops_rows)
        return _forward(x.reshape(-1, x.shape[-1]), self.weight, self.bias).reshape(*x.shape[:-1], -1)


def _ours(x: Tensor) -> bool:
    """Return whether products with x go through `forkpoint.products`: float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, drops_rows: bool) -> Tensor:
        flat_MK = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(flat_MK if weight.requires_grad else None, weight)
        ctx.drops_rows = drops_rows
        return _forward(flat_MK, weight, bias).reshape(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        flat_MK, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        g_MN = gradient.reshape(-1, gradient.shape[-1])
        rows = _rows_with_gradient(g_MN) if ctx.drops_rows else None
        g_RN = g_MN if rows is None else g_MN[rows]
        d_x = d_weight = None
        if wants_x:
            d_x = matmul_t(g_RN, weight.t())
            d_x = _spread(d_x, rows, len(g_MN)).reshape(*gradient.shape[:-1], -1)
        if wants_weight:
            d_weight = _outer(g_RN, flat_MK if rows is None else flat_MK[rows])
        return d_x, d_weight, g_RN.sum(0) if wants_bias else None, None


class Gated:
    """Forward pass of a gated MLP, down(silu(gate(x)) * up(x)), that keeps gate and up for the backward pass alone.

    What lies between them and the last matrix is computed again, which costs less than reading it back.
    """

    gate_proj: RowLinear
    up_proj: RowLinear
    down_proj: RowLinear

    def forward(self, x: Tensor) -> Tensor:
        """Return down(silu(gate(x)) * up(x))."""
        gate, up, down = self.gate_proj(x), self.up_proj(x), self.down_proj
        if not torch.is_grad_enabled() or not _ours(gate):
            return down(nn.functional.silu(gate) * up)
        return _Gated.apply(gate, up, down.weight, down.bias, down.drops_rows)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None, drops_rows: bool) -> Tensor:
        gate_MI, up_MI = gate.reshape(-1, gate.shape[-1]), up.reshape(-1, up.shape[-1])
        ctx.save_for_backward(gate_MI, up_MI, weight)
        ctx.drops_rows = drops_rows
        return _forward(nn.functional.silu(gate_MI).mul_(up_MI), weight, bias).reshape(*gate.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gate_MI, up_MI, weight = ctx.saved_tensors
        wants_gate, wants_up, wants_weight, wants_bias, _ = ctx.needs_input_grad
        g_MN = gradient.reshape(-1, gradient.shape[-1])
        rows = _rows_with_gradient(g_MN) if ctx.drops_rows else None
        g_RN, gate_RI, up_RI = (g_MN, gate_MI, up_MI) if rows is None else (g_MN[rows], gate_MI[rows], up_MI[rows])
        open_RI = nn.functional.silu(gate_RI)
        d_gate = d_up = None
        if wants_gate or wants_up:
            d_RI = matmul_t(g_RN, weight.t())
            d_up = _spread(d_RI * open_RI, rows, len(g_MN)).reshape(*gradient.shape[:-1], -1)
            d_gate = torch.ops.aten.silu_backward(d_RI.mul_(up_RI), gate_RI)
            d_gate = _spread(d_gate, rows, len(g_MN)).reshape(*gradient.shape[:-1], -1)
        d_weight = _outer(g_RN, open_RI.mul_(up_RI)) if wants_weight else None
        return d_gate, d_up, d_weight, g_RN.sum(0) if wants_bias else None, None


def _spread(x_RK: Tensor, rows: Tensor | None, count: int) -> Tensor:
    """Return `count` rows, those given where they belong and zero elsewhere."""
    return x_RK if rows is None else x_RK.new_zeros(count, x_RK.shape[1]).index_copy_(0, rows, x_RK)


def _forward(x_MK: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y_MN = matmul_t(x_MK, weight)
    return y_MN if bias is None else y_MN.add_(bias)


def _outer(g_RN: Tensor, x_RK: Tensor) -> Tensor:
    """Return g.T @ x. oneDNN copies its transposed left operand, so that is the smaller one."""
    if g_RN.shape[1] <= x_RK.shape[1]:
        return matmul_t(g_RN.t(), x_RK.t())
    return matmul_t(x_RK.t(), g_RN.t()).t().contiguous()


def _rows_with_gradient(g_MN: Tensor) -> Tensor | None:
    """Return the rows that are not all zero, or None where nearly all are.

    A few zero rows round the number up to a usual one: they add nothing but spare oneDNN a new kernel.
    """
    zero_M = (g_MN.amax(1) == 0) & (g_MN.amin(1) == 0)
    rows = (~zero_M).nonzero().squeeze(1)
    if rows.numel() > DENSE * g_MN.shape[0]:
        return None
    return torch.cat([rows, zero_M.nonzero().squeeze(1)[: rounded(rows.numel()) - rows.numel()]])


def row_linears(model: Any) -> Any:
    """Turn the model's linear layers into `RowLinear`, and gated MLPs made of them into `Gated`, in place.

    Weights, names and gradients stay. Only plain `nn.Linear` layers change, those inside LoRA layers too. Rows are
    looked at in the last layer alone: below it attention spreads the gradient over all earlier tokens. An MLP
    changes only where that leaves its output on a probe as it was.

    Args:
        model: a Hugging Face causal language model, wrapped by peft or not.

    Returns:
        The same model.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = getattr(base.base_model, "layers", None)
    last = {id(module) for module in layers[-1].modules()} if isinstance(layers, nn.ModuleList) else set()
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = RowLinear
            module.drops_rows = id(module) in last  # type: ignore[assignment]
    for module in model.modules():
        if _is_gated(module):
            module.__class__ = _gated_kind(module.__class__)
    return model


@functools.cache
def _gated_kind(kind: Any) -> Any:
    return type(kind.__name__, (Gated, kind), {})


@torch.no_grad()
def _is_gated(module: nn.Module) -> bool:
    """Return whether a module is an MLP that `Gated` computes, bit for bit."""
    if type(module).__name__ not in GATED or isinstance(module, Gated):
        return False
    gate, up, down = (module.get_submodule(name) for name in ("gate_proj", "up_proj", "down_proj"))
    if {type(layer) for layer in (gate, up, down)} != {RowLinear}:
        return False
    weight: Any = gate.weight
    probe = torch.linspace(-2, 2, 3 * weight.shape[1], dtype=weight.dtype, device=weight.device).view(1, 3, -1)
    return torch.equal(module(probe), down(nn.functional.silu(gate(probe)) * up(probe)))
