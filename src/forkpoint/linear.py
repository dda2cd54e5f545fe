"""Linear layers of the policy: faster products on a CPU, and no work for rows without gradient.

The entropy head hands back a gradient for the tokens that learn and none for the others. In a transformer's last
layer that stays so, token by token, up to the attention's keys and values: there the backward pass of a linear
layer needs the learning rows only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from forkpoint.products import matmul_t, rounded

DENSE = 0.75
"""Above this share of rows with gradient, gathering them costs more than it saves."""


class RowLinear(nn.Linear):
    """`nn.Linear` with float32 products on a CPU through `forkpoint.products`; elsewhere it is `nn.Linear`."""

    drops_rows = False
    """Whether rows are likely to come without gradient, so that looking for them pays."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight.T + bias."""
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        if torch.is_grad_enabled():
            return _Linear.apply(x, self.weight, self.bias, self.drops_rows)
        return _forward(x.reshape(-1, x.shape[-1]), self.weight, self.bias).reshape(*x.shape[:-1], -1)


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
            if rows is not None:
                d_x = g_MN.new_zeros(g_MN.shape[0], weight.shape[1]).index_copy_(0, rows, d_x)
            d_x = d_x.reshape(*gradient.shape[:-1], -1)
        if wants_weight:
            d_weight = _outer(g_RN, flat_MK if rows is None else flat_MK[rows])
        return d_x, d_weight, g_RN.sum(0) if wants_bias else None, None


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
    """Turn the model's linear layers into `RowLinear`, in place.

    Weights, names and gradients stay. Only plain `nn.Linear` layers change, those inside LoRA layers too. Rows are
    looked at in the last layer alone: below it attention spreads the gradient over all earlier tokens.

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
    return model
