"""Columns from one more pass of the weights that sampled: numbers of whole distributions, states and attention."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from forkpoint.decode.attention import attending
from forkpoint.entropy.nucleus import nucleus_entropy_of
from forkpoint.entropy.signals import attention_entropy, collision, sampled_flow
from forkpoint.errors import InputError
from forkpoint.model import HeadKind, hidden_states, logits_of, plain, precision
from forkpoint.rollouts import Rollouts
from forkpoint.train.policy import predicting, row_lengths
from forkpoint.train.rescore import evaluating, passes

LOGITS_HELD = 1 << 25
"""Most log-probs held at once: tokens times vocabulary."""
WEIGHTS_HELD = 1 << 26
"""Most attention weights of one layer held at once: rows times heads times the square of their length."""


def min_p_logp(logp_NV: Tensor, ids_N: Tensor, min_p: float) -> Tensor:
    """Return the log-prob of every sampled token under the policy without its noise.

        log q(y) = log π(y) - log Σ_{v in K} π_v  for y in K, else -inf,   K = {v: π_v >= min_p max π}

    Args:
        logp_NV: float (N, V), full log-probs in nats.
        ids_N: int64 (N,), sampled tokens.
        min_p: in (0, 1].

    Returns:
        float (N,), -inf where the filter removes the token.

    Source: arXiv 2510.03222 and its code.

    >>> p = torch.tensor([[0.6, 0.3, 0.1]]).log()
    >>> [round(float(min_p_logp(p, torch.tensor([y]), 0.5).exp()), 4) for y in (0, 1, 2)]
    [0.6667, 0.3333, 0.0]
    """
    top_N1 = logp_NV.amax(-1, keepdim=True)
    # Rounding must not drop a token that lies on the edge.
    edge_N1 = top_N1 + torch.tensor(min_p, dtype=logp_NV.dtype).log() - 8 * torch.finfo(logp_NV.dtype).eps
    kept_NV = torch.where(logp_NV >= edge_N1, logp_NV, -torch.inf)
    return kept_NV.gather(-1, ids_N[:, None])[:, 0] - kept_NV.logsumexp(-1)


Formula = Callable[[Tensor, Tensor, float], Tensor]
"""`(logp_NV, ids_N, min_p) -> (N,)`."""
FORMULAS: Mapping[str, Formula] = {
    "proxy_logp": min_p_logp,
    "sampled_flow": lambda logp_NV, _, __: sampled_flow(logp_NV, torch.special.entr(logp_NV.exp()).sum(-1)),
    "collision": lambda logp_NV, _, __: collision(logp_NV),
    "nucleus_entropy": lambda logp_NV, _, __: nucleus_entropy_of(logp_NV),
}
"""Columns that are functions of the distribution a token was drawn from."""


@torch.no_grad()
def distribution_columns(
    model: Any,
    rollouts: Rollouts,
    names: Collection[str],
    *,
    temperature: float,
    dtype: str = "float32",
    head: HeadKind = "fused",
    min_p: float = 0.02,
) -> dict[str, Tensor]:
    """Return the columns of those names in `FORMULAS`, float32 (B, T), from one pass for all of them.

    Args:
        model: the policy, with the weights that sampled.
        rollouts: the rows.
        names: keys of `FORMULAS`.
        temperature: the distribution is softmax(logits / temperature) over the full vocabulary; 0 counts as 1.
        dtype: of the products; the formulas run in float32.
        head: which lm-head.
        min_p: of `proxy_logp`.
    """
    B, T = rollouts.mask_BT.shape
    flat = {name: torch.zeros(B * T, device=rollouts.ids_BT.device) for name in names}
    with evaluating(model), precision(rollouts.ids_BT.device, dtype):
        for index, part in _some_rows(rollouts):
            for states_NX, ids_N, place_N in predicting(model, part, head=head):
                place_N = index[place_N // T] * T + place_N % T
                size = max(1, LOGITS_HELD // plain(model).config.get_text_config().vocab_size)
                for states, ids, place in zip(
                    states_NX.split(size), ids_N.split(size), place_N.split(size), strict=True
                ):
                    logits_NV = logits_of(model, head, states).float()
                    logp_NV = (logits_NV / (temperature or 1.0)).log_softmax(-1)
                    for name in flat:
                        flat[name][place] = FORMULAS[name](logp_NV, ids, min_p)
    return {name: value.reshape(B, T) for name, value in flat.items()}


@torch.no_grad()
def hidden_column(model: Any, rollouts: Rollouts, *, dtype: str = "float32") -> Tensor:
    """Return the last hidden state that predicts each token, float32 (B, T, H), 0 on padding.

    It is held whole: 4 B T H bytes.
    """
    B, T = rollouts.mask_BT.shape
    H = plain(model).config.get_text_config().hidden_size
    flat_NH = torch.zeros(B * T, H, device=rollouts.ids_BT.device)
    with evaluating(model), precision(rollouts.ids_BT.device, dtype):
        for index, part in _some_rows(rollouts):
            for states_NH, _, place_N in predicting(model, part):
                flat_NH[index[place_N // T] * T + place_N % T] = states_NH.float()
    return flat_NH.reshape(B, T, H)


def _some_rows(rollouts: Rollouts) -> Iterator[tuple[Tensor, Rollouts]]:
    """Yield row numbers and their rollouts at full width, at most `PASS_TOKENS` tokens at a time."""
    for rows in passes(row_lengths(rollouts).tolist()):
        index = torch.tensor(rows, device=rollouts.ids_BT.device)
        yield index, rollouts.select(index, trim=False)


@torch.no_grad()
def attention_column(model: Any, rollouts: Rollouts, *, dtype: str = "float32", layer: int | None = None) -> Tensor:
    """Return how evenly the position that predicts each token looks back in one layer, float32 (B, T), 0 on padding.

    The mean over heads of `forkpoint.entropy.signals.attention_entropy`, in [0, 1], over all positions up to that one
    or those in the layer's window.

    Args:
        model: the policy, with the weights that sampled.
        rollouts: the rows.
        dtype: of the products.
        layer: counted from 0; None takes number n // 2 of n.

    Raises:
        InputError: there is no such layer, or it does not show its attention.

    Source: arXiv 2605.07660; layer and mean over heads are ours.
    """
    module = attention_layer(model, layer)
    out_BT = torch.zeros(rollouts.mask_BT.shape, device=rollouts.ids_BT.device)
    seen: list[Tensor] = []

    def watch(_: Any, __: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4:
            raise InputError(
                f"{type(plain(model)).__name__} does not show its attention weights, so 'attention_entropy' cannot be "
                "taken from it: give that column from columns.program"
            )
        seen.append(weights)

    heads = plain(model).config.get_text_config().num_attention_heads
    window = getattr(module, "sliding_window", None)
    hook = module.register_forward_hook(watch)
    try:
        with evaluating(model), precision(rollouts.ids_BT.device, dtype), attending(model, "eager"):
            for rows in _square_passes(rollouts, heads):
                hidden_states(model, input_ids=_whole_ids(rollouts, rows), use_cache=False)
                for weights_HLL, row in zip(seen.pop(), rows, strict=True):
                    begin, size = int(rollouts.prompt_length_B[row]), int(rollouts.mask_BT[row].sum())
                    last = begin + size - 1
                    out_BT[row, :size] = _looks(weights_HLL[:, begin - 1 : last, :last], begin, window)
    finally:
        hook.remove()
    return out_BT


def attention_layer(model: Any, layer: int | None = None) -> Any:
    """Return the attention module of a layer, the middle one for None."""
    found = {
        module.layer_idx: module
        for module in plain(model).modules()
        if type(module).__name__.endswith("Attention") and isinstance(getattr(module, "layer_idx", None), int)
    }
    number = len(found) // 2 if layer is None else layer
    if number not in found:
        raise InputError(
            f"columns.attention_layer = {number}, and {type(plain(model)).__name__} has attention in layers "
            f"{', '.join(map(str, sorted(found))) or 'none'}: name one of them"
        )
    return found[number]


def _looks(weights_HTL: Tensor, begin: int, window: int | None) -> Tensor:
    heads, size, width = weights_HTL.shape
    context_T = torch.arange(begin, begin + size, device=weights_HTL.device).clamp(max=window or begin + size)
    flat_NL = weights_HTL.float().reshape(heads * size, width)
    return attention_entropy(flat_NL, context_T.repeat(heads)).reshape(heads, size).mean(0)


def _square_passes(rollouts: Rollouts, heads: int) -> list[list[int]]:
    """Cut rows of similar length into passes whose attention weights fit, one row at least."""
    lengths = row_lengths(rollouts).tolist()
    cuts: list[list[int]] = [[]]
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        # Lengths rise, so a row is the longest of the pass it joins.
        if cuts[-1] and (len(cuts[-1]) + 1) * heads * lengths[row] ** 2 > WEIGHTS_HELD:
            cuts.append([])
        cuts[-1].append(row)
    return cuts


def _whole_ids(rollouts: Rollouts, rows: list[int]) -> Tensor:
    """Return prompt and answer of some rows as right-padded ids; causal attention never looks at padding."""
    parts = []
    for row in rows:
        prompt, size = int(rollouts.prompt_length_B[row]), int(rollouts.mask_BT[row].sum())
        parts.append(torch.cat([rollouts.prompt_BS[row, :prompt], rollouts.ids_BT[row, :size]]))
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
