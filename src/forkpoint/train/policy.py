"""The forward pass of the update: log-prob and entropy of recorded answers under the current weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from forkpoint.entropy.nucleus import nucleus_entropy, nucleus_entropy_of
from forkpoint.entropy.token import token_logp_entropy
from forkpoint.errors import NotFiniteRowError, TrainingError
from forkpoint.model import HeadKind, head_of, head_values, plain, read
from forkpoint.rollouts import Forward, Rollouts
from forkpoint.train.batches import length_buckets
from forkpoint.train.packed import LONGEST, pack, packed_states


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
    needs_BT: Tensor | None = None,
    head: HeadKind = "fused",
    packed: bool = False,
    hidden: bool = False,
    nucleus: bool = False,
) -> Forward:
    """Return log-prob and entropy of recorded tokens, with gradient where grad mode is on.

    The head sees answer positions only: no prompt, no padding.

    Args:
        model: a Hugging Face causal language model.
        rollouts: the rows.
        temperature: of the behaviour policy; both policies are softmax(logits / temperature).
        entropy_gradient: whether the entropy carries gradient.
        learns_B: bool (B,), rows whose values may carry gradient; the others run without one, which saves their
            backward pass. None means all.
        needs_BT: bool (B, T), tokens whose values are asked for; what comes after the last of a row is not read,
            and a row without any does not run. None means every token of the answers.
        head: which head.
        packed: run without padding, prompts shared by their group; for models where
            `forkpoint.train.packed.can_pack` holds, and the fused head. Rows beyond its limit go padded.
        hidden: also return the last hidden state that predicts each token, as `extra["hidden"]` (B, T, H); with the
            fused head alone.
        nucleus: also return the entropy of the nucleus of mass 0.8, as `extra["nucleus_entropy"]` (B, T); it carries
            gradient where `entropy_gradient` says so.

    Returns:
        `Forward` with (B, T) tensors, 0 where nothing was asked for.

    Raises:
        TrainingError: the logits of a recorded token are not finite; the message names problem and sample.
    """
    needs_BT = rollouts.mask_BT if needs_BT is None else needs_BT & rollouts.mask_BT
    length_B = torch.where(needs_BT, torch.arange(needs_BT.shape[1], device=needs_BT.device) + 1, 0).amax(1)
    learns_B = torch.ones_like(rollouts.group_B, dtype=torch.bool) if learns_B is None else learns_B
    logp, entropy, where = [], [], []
    states, nuclei = [], []
    for some_B, gradient in ((learns_B, torch.is_grad_enabled()), (~learns_B, False)):
        rows = (some_B & (length_B > 0)).nonzero().squeeze(1)
        if not rows.numel():
            continue
        asked = _Asked(rollouts, rows, length_B[rows], needs_BT[rows])
        with torch.set_grad_enabled(gradient):
            for part in _parts(model, asked, head, packed):
                try:
                    logp_N, entropy_N = _measured(model, part, head, temperature, entropy_gradient)
                except NotFiniteRowError as error:
                    raise _not_finite(int(part.position_N[error.row]), rollouts) from error
                bad_N = ~(logp_N.isfinite() & entropy_N.isfinite())
                if bool(bad_N.any()):
                    raise _not_finite(int(part.position_N[bad_N.nonzero()[0, 0]]), rollouts)
                logp.append(logp_N)
                entropy.append(entropy_N)
                where.append(part.position_N)
                if hidden:
                    states.append(part.states_NX)
                if nucleus:
                    with torch.set_grad_enabled(gradient and entropy_gradient):
                        nuclei.append(_nucleus(model, part.states_NX, head, temperature))

    def placed(parts: list[Tensor]) -> Tensor:
        flat = torch.zeros(rollouts.mask_BT.numel(), device=rollouts.mask_BT.device)
        if parts:
            values_N = torch.cat(parts)
            flat = flat.to(values_N.dtype).index_put((torch.cat(where),), values_N)
        return flat.reshape(rollouts.mask_BT.shape)

    extra = {"hidden": _placed_states(model, states, where, rollouts)} if hidden else {}
    if nucleus:
        extra["nucleus_entropy"] = placed(nuclei)
    return Forward(logp_BT=placed(logp), entropy_BT=placed(entropy), extra=extra)


def _placed_states(model: Any, states: list[Tensor], where: list[Tensor], rollouts: Rollouts) -> Tensor:
    B, T = rollouts.mask_BT.shape
    if not states:
        return torch.zeros(B, T, plain(model).config.get_text_config().hidden_size, device=rollouts.mask_BT.device)
    states_NH = torch.cat(states)
    flat = torch.zeros(B * T, states_NH.shape[1], dtype=states_NH.dtype, device=states_NH.device)
    return flat.index_put((torch.cat(where),), states_NH).reshape(B, T, -1)


def predicting(model: Any, rollouts: Rollouts, *, head: HeadKind = "fused") -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield what predicts the answers' tokens, some rows at a time: states (N, X), ids (N,) and flat places (N,).

    Args:
        model: a Hugging Face causal language model.
        rollouts: the rows.
        head: `fused` yields last hidden states, `plain` the model's own logits.
    """
    rows = torch.arange(rollouts.rows, device=rollouts.mask_BT.device)
    asked = _Asked(rollouts, rows, rollouts.mask_BT.sum(1), rollouts.mask_BT)
    for part in _parts(model, asked, head, packed=False):
        yield part.states_NX, part.ids_N, part.position_N


class _Asked(NamedTuple):
    """Some rows, how far each is read, and which tokens count."""

    rollouts: Rollouts
    rows: Tensor
    length_B: Tensor
    needs_BT: Tensor

    def some(self, index: list[int]) -> _Asked:
        at = torch.tensor(index, device=self.rows.device)
        return _Asked(self.rollouts, self.rows[at], self.length_B[at], self.needs_BT[at])


class _Part(NamedTuple):
    """What predicts N tokens (hidden states, or logits for the plain head), their ids and flat places in (B, T)."""

    states_NX: Tensor
    ids_N: Tensor
    position_N: Tensor


def _parts(model: Any, asked: _Asked, head: HeadKind, packed: bool) -> Iterator[_Part]:
    total_B = asked.rollouts.prompt_length_B[asked.rows] + asked.length_B
    if packed and head == "fused" and int(total_B.max()) <= LONGEST:
        yield _packed(model, asked)
        return
    for bucket in length_buckets(total_B.tolist()):
        yield _padded(model, asked.some(bucket), head)


def _packed(model: Any, asked: _Asked) -> _Part:
    rollouts, rows, length_B, needs_BT = asked
    width = int(length_B.max())
    ids_BT, needs_BT = rollouts.ids_BT[rows, :width], needs_BT[:, :width]
    packing = pack(rollouts.prompt_BS[rows], rollouts.prompt_length_B[rows], rollouts.group_B[rows], ids_BT, length_B)
    # embedding gathers rows as indexing does, with a faster backward pass.
    states_NH = F.embedding(packing.state_BT[needs_BT], packed_states(model, packing))
    place_BT = rows[:, None] * rollouts.ids_BT.shape[1] + torch.arange(width, device=rows.device)
    return _Part(states_NH, ids_BT[needs_BT], place_BT[needs_BT])


def _padded(model: Any, asked: _Asked, head: HeadKind) -> _Part:
    rollouts, rows, length_B, needs_BT = asked
    prompt_B = rollouts.prompt_length_B[rows]
    column_L = torch.arange(int((prompt_B + length_B).max()), device=rows.device)[None]
    in_prompt = column_L < prompt_B[:, None]
    in_answer = ~in_prompt & (column_L < (prompt_B + length_B)[:, None])
    answer_column = (column_L - prompt_B[:, None]).clamp(min=0, max=rollouts.ids_BT.shape[1] - 1)
    prompt_column = column_L.clamp(max=rollouts.prompt_BS.shape[1] - 1).expand_as(answer_column)
    ids_BL = torch.where(in_prompt, rollouts.prompt_BS[rows].gather(1, prompt_column), 0)
    ids_BL = torch.where(in_answer, rollouts.ids_BT[rows].gather(1, answer_column), ids_BL)
    predicts = (in_answer & needs_BT.gather(1, answer_column))[:, 1:]
    position = (rows[:, None] * rollouts.ids_BT.shape[1] + answer_column)[:, 1:]
    # Right padding needs no mask: padding comes after every real token and causal attention looks back only.
    # The last token predicts nothing that is asked for, so it is not read.
    states_BLX = read(model, head, input_ids=ids_BL[:, :-1], use_cache=False)
    return _Part(states_BLX[predicts], ids_BL[:, 1:][predicts], position[predicts])


def _measured(
    model: Any, part: _Part, head: HeadKind, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    if head == "plain":
        return token_logp_entropy(
            part.states_NX, part.ids_N, temperature=temperature, entropy_gradient=entropy_gradient
        )
    out = head_values(model, part.states_NX, part.ids_N, temperature=temperature, entropy_gradient=entropy_gradient)
    return out.logp_N, out.entropy_N


def _nucleus(model: Any, states_NX: Tensor, head: HeadKind, temperature: float) -> Tensor:
    if head == "plain":
        return nucleus_entropy_of(states_NX.to(torch.promote_types(states_NX.dtype, torch.float32)) / temperature)
    parts = head_of(model)
    return nucleus_entropy(
        states_NX, parts.weight_VH, bias_V=parts.bias_V, temperature=temperature, scale=parts.scale,
        softcap=parts.softcap,
    )  # fmt: skip


def _not_finite(position: int, rollouts: Rollouts) -> TrainingError:
    row, token = divmod(position, rollouts.ids_BT.shape[1])
    prompt = rollouts.prompts[int(rollouts.group_B[row])]
    return TrainingError(
        f"the logits are not finite for problem {prompt.id!r}, sample {int(rollouts.sample_B[row])} (row {row}), "
        f"answer token {token}: nothing can be learned from this batch; lower train.lr or check the weights"
    )
