"""The decoder: continuous batching that records what the behaviour policy knew.

Log-prob and full-vocabulary entropy of every sampled token come from the logits that sampled it, so no second
scoring pass is needed. Finished rows leave the batch, waiting prompts take their place, and equal prompts are
read once. The host looks at the device once a token: at the tokens themselves, from which it knows who is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forkpoint.decode.answers import BLOCK, Answer, Book, NotFiniteError, Sampling
from forkpoint.decode.body import Body, token_body
from forkpoint.decode.cache import rebuilt, right_aligned
from forkpoint.decode.graphs import decode_static, understands
from forkpoint.decode.sample import drawn, wide
from forkpoint.errors import InputError, did_you_mean
from forkpoint.model import logits_of, plain, read

__all__ = ["BLOCK", "Answer", "NotFiniteError", "Sampling", "decode"]

SHRINK = 0.75
"""Finished rows are dropped once fewer than this share of the rows is still writing."""
REFILL = 1 / 8
"""Waiting prompts enter once this share of the slots is free: each time, keys and values are copied."""
ROWS = 16
"""Above two times this, the number of rows stays a multiple of it: some libraries compile for every new shape."""


@dataclass(kw_only=True)
class _Batch:
    """R rows that are being written. What the host decides on lives on the host."""

    request_R: NDArray[np.int64]
    """Which request each row answers."""
    length_R: NDArray[np.int64]
    """Tokens the cache holds for it: prompt and answer but the newest."""
    alive_R: NDArray[np.bool_]
    """Whether the answer is still being written. A finished row may idle until dropping it pays."""
    last_R: Tensor
    """Its newest token, not yet read by the model."""
    cache: Any
    """Its keys and values; of a fresh batch, a right-aligned (keys, values) pair a layer."""


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[int],
    sampling: Sampling,
    *,
    progress: Callable[[int, int], None] | None = None,
    static: bool | None = None,
) -> list[Answer]:
    """Return one sampled answer for every prompt.

    Args:
        model: a Hugging Face causal language model with full or sliding-window attention.
        prompts: token ids of each request; the same prompt may appear many times.
        streams: one random stream a request (`forkpoint.seeds.key`). The answer is a function of weights, prompt,
            stream and sampling; the rows beside it change it only through the rounding of matrix products.
        sampling: temperature, cuts, stops and the number of rows at once.
        progress: called with (finished, total) after every finished answer.
        static: whether steps keep their shapes and addresses (`forkpoint.decode.graphs`); None does so on CUDA, where
            they are captured, for models that allow it.

    Returns:
        Answers in the order of the requests.

    Raises:
        InputError: an empty prompt, or a model whose cache is not keys and values.
        NotFiniteError: the model's logits are not finite; the message names the request and position.
    """
    if len(prompts) != len(streams):
        raise InputError(f"{len(prompts)} prompts but {len(streams)} random streams")
    for index, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise InputError(f"prompt {index} is empty: a prompt needs at least one token")
    _check_attention(model)
    was_training = model.training
    model.eval()
    try:
        book = Book(streams, sampling, progress)
        on_cuda = next(model.parameters()).device.type == "cuda"
        if prompts and (static or (static is None and on_cuda)) and understands(model):
            decode_static(model, prompts, book, prefill=_prefill)
        else:
            _decode(model, prompts, book)
        return [book.answers[request] for request in range(len(prompts))]
    finally:
        model.train(was_training)


def _decode(model: Any, prompts: Sequence[Sequence[int]], book: Book) -> None:
    slots, (body, split) = book.sampling.slots, token_body(model, book.sampling.head)
    # Neighbours in the queue share their prompt, so a refill reads it once.
    waiting = list(range(len(prompts)))[::-1]
    batch = None
    while waiting or batch is not None:
        writing = int(batch.alive_R.sum()) if batch is not None else 0
        free = slots - writing
        if waiting and free >= max(1, int(slots * REFILL)):
            taken = [waiting.pop() for _ in range(min(free, len(waiting)))]
            fresh = _prefill(model, prompts, taken, book)
            batch = _regrouped(batch, fresh, split=split, sampling=book.sampling)
        elif batch is not None:
            if writing < SHRINK * len(batch.alive_R) and len(_kept(batch, 0, slots)) < len(batch.alive_R):
                batch = _regrouped(batch, None, split=split, sampling=book.sampling)
            if batch is not None:
                _step(model, body, batch, book)


def _prefill(model: Any, prompts: Sequence[Sequence[int]], taken: list[int], book: Book) -> _Batch:
    """Read the prompts of the requests `taken`, each distinct one once, and draw every row's first token."""
    from transformers.cache_utils import DynamicCache

    device = next(model.parameters()).device
    distinct = list(dict.fromkeys(tuple(prompts[index]) for index in taken))
    which = {prompt: number for number, prompt in enumerate(distinct)}
    length_U = np.array([len(prompt) for prompt in distinct])
    padded_US = np.zeros((len(distinct), int(length_U.max())), dtype=np.int64)
    for number, prompt in enumerate(distinct):
        padded_US[number, : len(prompt)] = prompt
    cache = DynamicCache()
    # Right padding needs no mask: padding comes after every real token and causal attention looks back only.
    head = book.sampling.head
    states_USX = read(model, head, input_ids=_put(padded_US, device), past_key_values=cache, use_cache=True)
    last_UX = states_USX[torch.arange(len(distinct), device=device), _put(length_U - 1, device)]
    logits_UV = logits_of(model, head, last_UX)
    row_R = np.array([which[tuple(prompts[index])] for index in taken])
    row = _put(row_R, device)
    columns = [(layer.keys[row], layer.values[row]) for layer in cache.layers]
    if len(set(length_U.tolist())) > 1:
        columns = right_aligned(columns, _put(length_U[row_R], device), padded_US.shape[1])
    batch = _Batch(
        request_R=np.array(taken),
        length_R=length_U[row_R],
        alive_R=np.ones(len(taken), dtype=bool),
        last_R=row,
        cache=columns,
    )
    _draw(batch, logits_UV[row], book)
    return batch


def _regrouped(batch: _Batch | None, fresh: _Batch | None, *, split: bool, sampling: Sampling) -> _Batch | None:
    """Return the rows that still write, and a few that do not, followed by fresh ones; None when there are none."""
    entering = 0 if fresh is None else len(fresh.alive_R)
    keep = _kept(batch, entering, sampling.slots) if batch is not None else np.zeros(0, dtype=np.int64)
    kept = _select(batch, keep) if batch is not None else None
    parts = [part for part in (kept, fresh) if part is not None and len(part.alive_R)]
    if not any(part.alive_R.any() for part in parts):
        return None
    cache = rebuilt(
        batch.cache if batch is not None else None,
        keep.tolist(),
        [] if kept is None else kept.length_R.tolist(),
        None if fresh is None else fresh.cache,
        split=split,
        room=sampling.max_tokens,
    )
    return _Batch(
        request_R=np.concatenate([part.request_R for part in parts]),
        length_R=np.concatenate([part.length_R for part in parts]),
        alive_R=np.concatenate([part.alive_R for part in parts]),
        last_R=torch.cat([part.last_R for part in parts]),
        cache=cache,
    )


def _kept(batch: _Batch, entering: int, slots: int) -> NDArray[np.int64]:
    """Return the rows that stay: those that write, and as many idle ones as keep the shape a usual one."""
    writing = batch.alive_R.nonzero()[0]
    rows = len(writing) + entering
    idle = (~batch.alive_R).nonzero()[0]
    more = min(-rows % ROWS, max(slots - rows, 0)) if rows > 2 * ROWS else 0
    return np.sort(np.concatenate([writing, idle[max(len(idle) - more, 0) :]])) if more else writing


def _select(batch: _Batch, keep: NDArray[np.int64]) -> _Batch:
    return _Batch(
        request_R=batch.request_R[keep],
        length_R=batch.length_R[keep],
        alive_R=batch.alive_R[keep],
        last_R=batch.last_R[_put(keep, batch.last_R.device)],
        cache=None,
    )


def _step(model: Any, body: Body, batch: _Batch, book: Book) -> None:
    """Read every row's newest token and draw the next one, in place."""
    device = batch.last_R.device
    width = batch.cache.layers[0].length + 1
    seen_RW = torch.arange(width, device=device) >= _put(width - 1 - batch.length_R, device)[:, None]
    states_RX = body(batch.last_R, _put(batch.length_R, device), seen_RW, batch.cache)
    # A finished row stands still: its answer has been taken, and its positions must stay in range.
    batch.length_R += batch.alive_R
    _draw(batch, logits_of(model, book.sampling.head, states_RX), book)


def _draw(batch: _Batch, logits_RV: Tensor, book: Book) -> None:
    """Draw the next token of every row and write it down, in place."""
    writing = batch.alive_R.nonzero()[0]
    uniform_R = np.zeros(len(batch.alive_R))
    uniform_R[writing] = book.uniforms(batch.request_R[writing])
    # mps has no float64; a float32 uniform still separates 2^24 outcomes.
    device = logits_RV.device
    batch.last_R, drawn_3R = drawn(logits_RV, _put(uniform_R, device, wide(device)), book.sampling)
    # The one look at the device in a token.
    seen_3R = drawn_3R.cpu().numpy()
    over_R = book.record(batch.request_R[writing], seen_3R[:, writing])
    batch.alive_R[writing] = ~over_R


def _put(x: NDArray[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    return torch.from_numpy(x).to(device=device, dtype=dtype, non_blocking=True)


def _check_attention(model: Any) -> None:
    """Refuse models whose state is not keys and values (recurrent or linear attention layers)."""
    config = plain(model).config.get_text_config()
    known = ("full_attention", "sliding_attention", "chunked_attention")
    for kind in dict.fromkeys(getattr(config, "layer_types", None) or ()):
        if kind not in known:
            raise InputError(
                f"the embedded decoder cannot run {type(plain(model)).__name__}: its {kind!r} layers keep no keys "
                f"and values ({did_you_mean(kind, known)})"
            )
