"""How the model's body reads one new token a row: tried on the model first, and its own code where in doubt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from forkpoint.decode.attention import NAME, NotUnderstoodError, attending, block_attention
from forkpoint.decode.cache import rebuilt
from forkpoint.decode.lean import lean, step
from forkpoint.model import HeadKind, hidden_states, plain, read

PROBE = 4
"""Tokens on which a faster way must agree with the model's own."""

Body = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""(ids (rows,), positions (rows,), whether a row sees a column (rows, columns), cache) -> hidden states (rows, H), or
logits (rows, V) for the plain head."""


def token_body(model: Any, head: HeadKind = "fused") -> tuple[Body, bool]:
    """Return what reads one token a row, and whether it wants the cache in blocks.

    On a CPU in float32 two faster ways are tried on a few tokens: the body in few operations
    (`forkpoint.decode.lean`), then the model's code with block attention. Elsewhere the model's own attention is
    the fast one, and in reduced precision the two would round differently.
    """
    weight = plain(model).get_input_embeddings().weight
    own = partial(_own, model, head)
    if head == "plain":
        return own, False
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return own, False
    small = lean(model)
    ways: list[Body] = [partial(_blocks, model)] if small is None else [partial(_lean, small), partial(_blocks, model)]
    return next(((way, True) for way in ways if _agrees(model, way)), (own, False))


def _own(model: Any, head: HeadKind, ids_R: Tensor, position_R: Tensor, seen_RW: Tensor, cache: Any) -> Tensor:
    plainly = not _sliding(model) and plain(model).config.get_text_config()._attn_implementation == "sdpa"
    return read(
        model,
        head,
        input_ids=ids_R[:, None],
        position_ids=position_R[:, None],
        attention_mask=seen_RW[:, None, None, :] if plainly else seen_RW.to(torch.int64),
        past_key_values=cache,
        use_cache=True,
    )[:, 0]


def _blocks(model: Any, ids_R: Tensor, position_R: Tensor, seen_RW: Tensor, cache: Any) -> Tensor:
    with attending(model, NAME):
        hidden: Tensor = hidden_states(
            model,
            input_ids=ids_R[:, None],
            position_ids=position_R[:, None],
            attention_mask=seen_RW.to(torch.int64) if _sliding(model) else _bias(seen_RW),
            past_key_values=cache,
            use_cache=True,
            blocks=cache.layers,
        ).last_hidden_state[:, 0]
    return hidden


def _lean(body: Any, ids_R: Tensor, position_R: Tensor, seen_RW: Tensor, cache: Any) -> Tensor:
    return step(body, ids_R, position_R, _bias(seen_RW), cache.layers)


def _bias(seen_RW: Tensor) -> Tensor:
    return torch.zeros(seen_RW.shape).masked_fill_(~seen_RW, -torch.inf)[:, None, None, :]


def _sliding(model: Any) -> bool:
    """Whether some layers see only the last columns; then the model makes its masks from (rows, columns)."""
    config = plain(model).config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    return bool(kinds - {"full_attention"} or getattr(config, "sliding_window", None))


def _agrees(model: Any, way: Body) -> bool:
    """Return whether a way gives the model's own hidden state of the last of a few tokens."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.cache_utils import DynamicCache
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, block_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    ids = torch.arange(PROBE) % plain(model).config.get_text_config().vocab_size
    whole = DynamicCache()
    own = hidden_states(model, input_ids=ids[None], past_key_values=whole, use_cache=True).last_hidden_state[:, -1]
    columns = [(layer.keys[:, :, :-1], layer.values[:, :, :-1]) for layer in whole.layers]
    cache = rebuilt(None, [], [], columns, split=True, room=0)
    try:
        ours = way(ids[-1:], torch.tensor([PROBE - 1]), torch.ones(1, PROBE, dtype=torch.bool), cache)
    except (NotUnderstoodError, TypeError):
        return False
    return torch.allclose(ours, own, rtol=1e-3, atol=1e-4, equal_nan=True)
