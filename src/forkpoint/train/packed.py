"""A forward pass without padding, in which the answers of a group share their prompt.

All tokens of a pass lie in one row: every distinct prompt once, then the answers. Linear layers, norms and
activations see real tokens only. Attention gathers queries and keys into (rows, columns) blocks of similar
length, where a row's keys are its prompt's followed by its own. Log-probs and gradients are those of one padded
row an answer, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forkpoint.decode.attention import attending
from forkpoint.model import hidden_states, plain
from forkpoint.products import rounded
from forkpoint.train.batches import length_buckets

NAME = "forkpoint_packed"
LONGEST = 1024
"""Longest prompt with answer, in tokens: attention here holds a mask of its square, so longer rows go padded."""
BLOCK_TOKENS = 256
"""What one more attention block costs, in padded tokens."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of similar length whose attention runs as one padded call."""

    query_RW: Tensor
    """int64, index of each query among the packed tokens; padding points to the last, which is never real."""
    key_RL: Tensor
    """int64, index of each key, prompt first."""
    mask_RWL: Tensor
    """float, 0 where a query sees a key and -inf elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """The packed tokens of a pass, how they attend, and what they predict."""

    ids_M: Tensor
    """int64 (M,)."""
    position_M: Tensor
    """int64 (M,), place in prompt and answer, from 0."""
    blocks: tuple[Block, ...]
    back_M: Tensor
    """int64 (M,), where each token's attention output lies among the blocks' outputs, flattened."""
    state_BT: Tensor
    """int64 (B, T), index of the packed token whose state predicts each answer token; padding repeats any."""


def pack(prompt_BS: Tensor, prompt_length_B: Tensor, prompt_B: Tensor, ids_BT: Tensor, length_B: Tensor) -> Packing:
    """Return the packing of some answers.

    Args:
        prompt_BS: int64 (B, S), prompts, right-padded.
        prompt_length_B: int64 (B,), at least 1.
        prompt_B: int64 (B,), equal for rows with the same prompt.
        ids_BT: int64 (B, T), answers, right-padded.
        length_B: int64 (B,), how many tokens of each answer are to be predicted, at least 1. The last of them is
            not read.
    """
    device = ids_BT.device
    _, first_P, owner_B = _distinct(prompt_B)
    prompt_length_P = prompt_length_B[first_P]
    column_S, column_T = torch.arange(prompt_BS.shape[1], device=device), torch.arange(ids_BT.shape[1], device=device)
    real_PS = column_S < prompt_length_P[:, None]
    real_BT = column_T < (length_B - 1)[:, None]
    prompts, answers = int(real_PS.sum()), int(real_BT.sum())
    size = rounded(prompts + answers + 1)
    ids_M = torch.zeros(size, dtype=torch.int64, device=device)
    position_M = torch.zeros_like(ids_M)
    ids_M[:prompts] = prompt_BS[first_P][real_PS]
    ids_M[prompts : prompts + answers] = ids_BT[real_BT]
    position_M[:prompts] = column_S.expand_as(real_PS)[real_PS]
    position_M[prompts : prompts + answers] = (column_T + prompt_length_B[:, None])[real_BT]
    at_PS = _numbered(real_PS, 0, size - 1)
    at_BT = _numbered(real_BT, prompts, size - 1)
    last_B = at_PS[torch.arange(first_P.numel(), device=device), prompt_length_P - 1][owner_B]
    nothing = at_PS.new_full((first_P.numel(), 0), size - 1)
    blocks = [_block(nothing, at_PS[:, : int(prompt_length_P.max())], size - 1)]
    for rows in length_buckets((length_B - 1).tolist(), BLOCK_TOKENS):
        index = torch.tensor(rows, device=device)
        width = int(length_B[index].max()) - 1
        if width:
            prefix = at_PS[owner_B[index], : int(prompt_length_B[index].max())]
            blocks.append(_block(prefix, at_BT[index, :width], size - 1))
    back_M = torch.zeros_like(ids_M)
    flat = torch.cat([block.query_RW.flatten() for block in blocks])
    back_M[flat] = torch.arange(flat.numel(), device=device)
    state_BT = torch.cat([last_B[:, None], at_BT[:, :-1]], dim=1)
    return Packing(ids_M=ids_M, position_M=position_M, blocks=tuple(blocks), back_M=back_M, state_BT=state_BT)


def packed_states(model: Any, packing: Packing) -> Tensor:
    """Return the last hidden state of every packed token, (M, H)."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)
    with attending(model, NAME):
        return hidden_states(
            model,
            input_ids=packing.ids_M[None],
            position_ids=packing.position_M[None],
            use_cache=False,
            packing=packing,
        ).last_hidden_state[0]


def can_pack(model: Any) -> bool:
    """Return whether packed states equal the model's own on a probe of three answers to two prompts.

    False where the model computes attention in another way (recurrent layers, sinks, soft-capped scores, biases
    by position) or does not take a function for it.
    """
    vocabulary = plain(model).config.get_text_config().vocab_size
    device = plain(model).get_input_embeddings().weight.device
    ids = torch.arange(27, device=device).reshape(3, 9) * 7 % vocabulary
    prompt_BS, ids_BT = ids[[0, 1, 1], :4], ids[:, 4:]
    prompt_length_B, length_B = torch.tensor([3, 4, 4], device=device), torch.tensor([5, 2, 4], device=device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            packing = pack(prompt_BS, prompt_length_B, torch.tensor([0, 1, 1], device=device), ids_BT, length_B)
            ours_MH = packed_states(model, packing)
            for row, (prompt, length) in enumerate(zip(prompt_length_B.tolist(), length_B.tolist(), strict=True)):
                whole = torch.cat([prompt_BS[row, :prompt], ids_BT[row, : length - 1]])
                own_TH = hidden_states(model, input_ids=whole[None], use_cache=False).last_hidden_state[0, prompt - 1 :]
                mine_TH = ours_MH[packing.state_BT[row, :length]]
                # bfloat16 models differ by rounding alone; a wrong mask differs by far more.
                if not torch.allclose(own_TH.float(), mine_TH.float(), rtol=5e-2, atol=5e-2 * float(own_TH.std())):
                    return False
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, IndexError):
        return False
    finally:
        model.train(training)
    return True


def _distinct(prompt_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct values, the first row of each, and which of them every row has."""
    value_P, owner_B = torch.unique(prompt_B, return_inverse=True)
    row_B = torch.arange(prompt_B.numel(), device=prompt_B.device)
    first_P = torch.full_like(value_P, prompt_B.numel()).scatter_reduce(0, owner_B, row_B, "amin")
    return value_P, first_P, owner_B


def _numbered(real_RW: Tensor, start: int, padding: int) -> Tensor:
    """Return consecutive numbers from `start` where `real_RW` is true, `padding` elsewhere."""
    count_RW = real_RW.flatten().cumsum(0).reshape(real_RW.shape) - 1 + start
    return torch.where(real_RW, count_RW, padding)


def _block(prefix_RS: Tensor, own_RW: Tensor, padding: int) -> Block:
    """Return the block whose queries are `own` and whose keys are `prefix` and `own`."""
    width = own_RW.shape[1]
    causal_WW = torch.ones(width, width, dtype=torch.bool, device=own_RW.device).tril()
    sees_RWL = torch.cat(
        [(prefix_RS != padding)[:, None].expand(-1, width, -1), causal_WW.expand(own_RW.shape[0], -1, -1)], dim=2
    )
    mask_RWL = torch.zeros(sees_RWL.shape, device=own_RW.device).masked_fill_(~sees_RWL, -torch.inf)
    return Block(query_RW=own_RW, key_RL=torch.cat([prefix_RS, own_RW], dim=1), mask_RWL=mask_RWL)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention over a packing, in the form transformers asks for: (1, heads, M, D) in, (1, M, heads, D) out."""
    asked = [name for name in ("softcap", "s_aux", "position_bias", "cache") if others.get(name) is not None]
    if asked:
        raise ValueError(f"packed attention has no {asked[0]}")
    heads, shared, tokens, depth = query.shape[1], key.shape[1], query.shape[2], query.shape[3]
    repeats = heads // shared
    flat = [x[0].transpose(0, 1).reshape(tokens, -1) for x in (query, key, value)]
    outputs = []
    for block in packing.blocks:
        rows, width = block.query_RW.shape
        # embedding gathers rows as indexing does; its backward pass adds them up an order of magnitude faster.
        q, k, v = (
            F.embedding(index, x, padding_idx=tokens - 1).reshape(rows, index.shape[1], -1, depth)
            for index, x in zip((block.query_RW, block.key_RL, block.key_RL), flat, strict=True)
        )
        # Query heads that share a key head become further queries, so that keys are not repeated.
        q = q.reshape(rows, width, shared, repeats, depth).permute(0, 2, 3, 1, 4)
        mask = _windowed(block, packing, sliding_window).to(query.dtype)
        out = F.scaled_dot_product_attention(
            q.reshape(rows, shared, repeats * width, depth),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask.repeat(1, repeats, 1)[:, None],
            dropout_p=dropout,
            scale=scaling,
        )
        out = out.reshape(rows, heads, width, -1).transpose(1, 2)
        outputs.append(out.reshape(rows * width, -1))
    gathered = F.embedding(packing.back_M, torch.cat(outputs))
    return gathered.reshape(1, tokens, heads, -1), None


def _windowed(block: Block, packing: Packing, window: int | None) -> Tensor:
    if window is None:
        return block.mask_RWL
    distance_RWL = packing.position_M[block.query_RW][:, :, None] - packing.position_M[block.key_RL][:, None]
    return block.mask_RWL.masked_fill(distance_RWL >= window, -torch.inf)
