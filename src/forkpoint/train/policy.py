"""The forward pass of the update: log-prob and entropy of recorded answers under the current weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from forkpoint.entropy.token import token_logp_entropy
from forkpoint.errors import TrainingError
from forkpoint.model import head_logits, hidden_states
from forkpoint.rollouts import Forward, Rollouts
from forkpoint.train.batches import length_buckets

LOGIT_CELLS = 1 << 25
"""Logits held at once, in cells: beyond this the head runs in chunks that the backward pass recomputes."""


def row_lengths(rollouts: Rollouts) -> Tensor:
    """Return the tokens of prompt and answer of every row, int64 (B,)."""
    return rollouts.prompt_length_B + rollouts.mask_BT.sum(1)


def forward_rows(
    model: Any,
    rollouts: Rollouts,
    *,
    temperature: float = 1.0,
    entropy_gradient: bool = False,
    learns_B: Tensor | None = None,
) -> Forward:
    """Return log-prob and entropy of every recorded token, with gradient where grad mode is on.

    Rows run in buckets of similar length. The head sees answer positions only: no prompt, no padding.

    Args:
        model: a Hugging Face causal language model.
        rollouts: the rows.
        temperature: of the behaviour policy; both policies are softmax(logits / temperature).
        entropy_gradient: whether the entropy carries gradient.
        learns_B: bool (B,), rows whose values may carry gradient; the others run without one, which saves their
            backward pass. None means all.

    Returns:
        `Forward` with (B, T) tensors, 0 on padding.

    Raises:
        TrainingError: the logits of a recorded token are not finite; the message names problem and sample.
    """
    length_B = row_lengths(rollouts)
    logp, entropy, where = [], [], []
    everyone = torch.ones_like(rollouts.group_B, dtype=torch.bool)
    learns_B = everyone if learns_B is None else learns_B
    for some_B, gradient in ((learns_B, torch.is_grad_enabled()), (~learns_B, False)):
        index = some_B.nonzero().squeeze(1)
        for bucket in length_buckets(length_B[index].tolist()):
            with torch.set_grad_enabled(gradient):
                hidden_NH, ids_N, position_N = _answer_states(model, rollouts, index[bucket])
                logp_N, entropy_N = _head(model, hidden_NH, ids_N, temperature, entropy_gradient)
            _check_finite(logp_N, entropy_N, position_N, rollouts)
            logp.append(logp_N)
            entropy.append(entropy_N)
            where.append(position_N)
    index_N = torch.cat(where)

    def placed(values_N: Tensor) -> Tensor:
        flat = values_N.new_zeros(rollouts.mask_BT.numel())
        return flat.index_put((index_N,), values_N).reshape(rollouts.mask_BT.shape)

    return Forward(logp_BT=placed(torch.cat(logp)), entropy_BT=placed(torch.cat(entropy)))


def _answer_states(model: Any, rollouts: Rollouts, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the states that predict the answers' tokens, those tokens, and their flat positions in (B, T)."""
    prompt_B, answer_B = rollouts.prompt_length_B[rows], rollouts.mask_BT[rows].sum(1)
    width = int((prompt_B + answer_B).max())
    column_L = torch.arange(width, device=rows.device)[None]
    in_prompt = column_L < prompt_B[:, None]
    in_answer = ~in_prompt & (column_L < (prompt_B + answer_B)[:, None])
    answer_column = (column_L - prompt_B[:, None]).clamp(min=0, max=rollouts.ids_BT.shape[1] - 1)
    prompt_column = column_L.clamp(max=rollouts.prompt_BS.shape[1] - 1).expand_as(answer_column)
    ids_BL = torch.where(in_prompt, rollouts.prompt_BS[rows].gather(1, prompt_column), 0)
    ids_BL = torch.where(in_answer, rollouts.ids_BT[rows].gather(1, answer_column), ids_BL)
    # Right padding needs no mask: padding comes after every real token and causal attention looks back only.
    # The last token predicts nothing that was recorded, so it is not read.
    hidden_BLH = hidden_states(model, input_ids=ids_BL[:, :-1], use_cache=False).last_hidden_state
    predicts = in_answer[:, 1:]
    position = (rows[:, None] * rollouts.ids_BT.shape[1] + answer_column)[:, 1:]
    return hidden_BLH[predicts], ids_BL[:, 1:][predicts], position[predicts]


def _head(
    model: Any, hidden_NH: Tensor, ids_N: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    def head(hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return token_logp_entropy(
            head_logits(model, hidden), ids, temperature=temperature, entropy_gradient=entropy_gradient
        )

    vocabulary = model.get_output_embeddings().weight.shape[0]
    chunk = max(1, LOGIT_CELLS // vocabulary)
    if hidden_NH.shape[0] <= chunk:
        return head(hidden_NH, ids_N)
    parts = [
        checkpoint(head, hidden, ids, use_reentrant=False)
        for hidden, ids in zip(hidden_NH.split(chunk), ids_N.split(chunk), strict=True)
    ]
    return torch.cat([logp for logp, _ in parts]), torch.cat([entropy for _, entropy in parts])


def _check_finite(logp_N: Tensor, entropy_N: Tensor, position_N: Tensor, rollouts: Rollouts) -> None:
    bad_N = ~(logp_N.isfinite() & entropy_N.isfinite())
    if bool(bad_N.any()):
        position = int(position_N[bad_N.nonzero()[0, 0]])
        row, token = divmod(position, rollouts.ids_BT.shape[1])
        prompt = rollouts.prompts[int(rollouts.group_B[row])]
        raise TrainingError(
            f"the logits are not finite for problem {prompt.id!r}, sample {int(rollouts.sample_B[row])} (row {row}), "
            f"answer token {token}: nothing can be learned from this batch; lower train.lr or check the weights"
        )
