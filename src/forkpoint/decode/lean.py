"""The body of small Llama-like models for one new token a row, in few operations.

A model of a million parameters spends more time between matrix products than in them: one step of transformers'
code is a hundred modules. Here the weights are laid together once a decode (queries, keys and values; gate and up;
norms into the matrices after them), which the rounding of float32 sees and nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from forkpoint.decode.attention import over_blocks
from forkpoint.linear import RowLinear
from forkpoint.model import plain
from forkpoint.products import SMALL_REPEATED, matmul_t

FAMILIES = ("llama", "qwen3")
"""Families whose layers are written down here."""
ROTARY = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose frequencies do not depend on the length."""
LARGEST = 2**25
"""Parameters of the body up to which the weights are laid together: above it, a copy costs more than it saves."""

Product = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The matrices of a layer, each with the norm before it multiplied in."""

    qkv: Tensor
    norm: Tensor | None
    """(query and key heads, width), of the norm over each head."""
    out: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, kw_only=True)
class Lean:
    """A model's body, laid out for single tokens."""

    embedding: Tensor
    turns: Tensor
    """(width / 2,) radians a position."""
    stretch: float
    """What rotated queries and keys are multiplied by (YaRN)."""
    layers: tuple[Layer, ...]
    last: Any
    """The norm after the layers."""
    floor: Tensor
    """(n eps)^(1/2) of the hidden states."""
    head_floor: Tensor
    """The same of a head."""
    heads: int
    groups: int
    width: int
    product: Product


def lean(model: Any) -> Lean | None:
    """Return the body laid out for single tokens, or None for models this does not know.

    What is returned is a reading of the model's code and must be tried on the model before use.
    """
    base, config = plain(model).base_model, plain(model).config.get_text_config()
    if config.model_type not in FAMILIES or sum(p.numel() for p in base.parameters()) > LARGEST:
        return None
    linears = [module for name, module in base.named_modules() if name.endswith("_proj")]
    kinds = {type(module) for module in linears}
    plain_layers = kinds in ({nn.Linear}, {RowLinear}) and all(module.bias is None for module in linears)
    if not plain_layers or config.hidden_act != "silu" or getattr(config, "sliding_window", None):
        return None
    if getattr(base.rotary_emb, "rope_type", None) not in ROTARY:
        return None
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Lean(
        embedding=base.embed_tokens.weight,
        turns=base.rotary_emb.inv_freq,
        stretch=base.rotary_emb.attention_scaling,
        layers=tuple(_layer(layer, heads, groups, width) for layer in base.layers),
        last=base.norm,
        floor=torch.tensor((config.hidden_size * config.rms_norm_eps) ** 0.5),
        head_floor=torch.tensor((width * config.rms_norm_eps) ** 0.5),
        heads=heads,
        groups=groups,
        width=width,
        product=partial(matmul_t, small=SMALL_REPEATED) if kinds == {RowLinear} else nn.functional.linear,
    )


def _layer(layer: Any, heads: int, groups: int, width: int) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    norms = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
    before, between = (weight * weight.numel() ** 0.5 for weight in norms)
    q = attention.q_proj.weight
    norm = None
    if hasattr(attention, "q_norm"):
        # Scaling the normed queries here spares scaling the scores.
        of_q, of_k = attention.q_norm.weight * attention.scaling, attention.k_norm.weight
        norm = torch.cat([of_q.expand(heads, width), of_k.expand(groups, width)]) * width**0.5
    else:
        q = q * attention.scaling
    return Layer(
        qkv=torch.cat([q, attention.k_proj.weight, attention.v_proj.weight]) * before,
        norm=norm,
        out=attention.o_proj.weight,
        gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * between,
        down=mlp.down_proj.weight,
    )


def step(body: Lean, ids_R: Tensor, position_R: Tensor, bias: Tensor, layers: Any) -> Tensor:
    """Return the last hidden states (rows, H) of one new token a row, and write it into the cache.

    Args:
        body: the laid-out model.
        ids_R: the tokens.
        position_R: their positions.
        bias: (rows, 1, 1, columns), added to the scores.
        layers: the layers of the cache.
    """
    h_RH = nn.functional.embedding(ids_R, body.embedding)
    half, both = body.width // 2, body.heads + body.groups
    angle = position_R[:, None, None] * body.turns
    cos, sin = angle.cos(), angle.sin()
    if body.stretch != 1:
        cos, sin = cos * body.stretch, sin * body.stretch
    cos, turn = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    for layer, cache in zip(body.layers, layers, strict=True):
        y = body.product(_normed(h_RH, body.floor), layer.qkv).view(len(h_RH), both + body.groups, body.width)
        x = y[:, :both]
        if layer.norm is not None:
            x = _normed(x, body.head_floor).mul_(layer.norm)
        x = torch.addcmul(x * cos, torch.cat([x[..., half:], x[..., :half]], -1), turn)
        cache.write(x[:, body.heads :], y[:, both:])
        seen = over_blocks(cache, x[:, : body.heads], bias)
        h_RH = body.product(seen.reshape(len(h_RH), -1), layer.out).add_(h_RH)
        gate, up = body.product(_normed(h_RH, body.floor), layer.gate_up).chunk(2, -1)
        h_RH = body.product(nn.functional.silu(gate).mul_(up), layer.down).add_(h_RH)
    hidden: Tensor = body.last(h_RH)
    return hidden


def _normed(x: Tensor, floor: Tensor) -> Tensor:
    """Return x / (||x||^2 + n eps)^(1/2), the norm without its factor n^(1/2), which the weights after it carry."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(floor)
