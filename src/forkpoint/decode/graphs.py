"""Decoding with steps whose shapes and addresses never change, so that a CUDA graph can replay them.

Rows and columns are fixed. The columns are a ring: the step writes at the cursor, a row sees the last `length`
columns before it, and cursor, lengths and last tokens live in tensors that the step itself moves on. Between
replays the host reads several tokens at once, and puts waiting prompts into finished rows.

Keys and values take 2 * layers * rows * heads * capacity * width numbers, with rows at most the slots (one and a
half times that for a moment when the rows are halved) and capacity the longest prompt plus the longest answer,
rounded up to `ROUND`.

Tests run the same step without capturing it. Capture and replay have not been run: nothing here has a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from forkpoint.decode.answers import Book, Sampling
from forkpoint.decode.sample import drawn, wide
from forkpoint.model import logits_of, plain, read

AHEAD = 8
"""Tokens between two looks of the host. A finished row idles up to one less."""
REFILL = 1 / 8
"""Waiting prompts enter once this share of the rows is free."""
LEAST = 8
"""Rows are halved as they finish, down to this many."""
ROUND = 64
"""Capacities are multiples of this, and at least the warm-up's columns above what the longest answer needs."""
WARM = 2
"""Steps run before a capture."""


class RingLayer(CacheLayerMixin):
    """Keys and values of one layer, (rows, heads, capacity, width), written at a cursor that is a tensor."""

    is_sliding = False
    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, cursor_1: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.cursor_1 = keys, values, cursor_1
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: a ring is born whole."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one column at the cursor and return the whole ring."""
        self.keys.index_copy_(2, self.cursor_1, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self.cursor_1, value_states.to(self.values.dtype))
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (columns, offset): the mask hides what a row must not see."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        """Return the number of columns."""
        return self.keys.shape[2]

    def get_max_length(self) -> int:
        """Return the number of columns."""
        return self.keys.shape[2]


@dataclass(frozen=True, kw_only=True)
class Static:
    """What a step reads and writes in place."""

    cursor_1: Tensor
    """The column to write next."""
    tick_1: Tensor
    """The place in the host's batch of tokens."""
    last_R: Tensor
    length_R: Tensor
    uniform_RK: Tensor
    drawn_3RK: Tensor
    cache: Any


def understands(model: Any) -> bool:
    """Return whether the static step can run this model: plain softmax attention over all columns, as sdpa."""
    config = plain(model).config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ("full_attention",))
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return config._attn_implementation == "sdpa" and kinds == {"full_attention"} and not windowed


def static_step(model: Any, state: Static, sampling: Sampling) -> None:
    """Read every row's newest token and draw the next one; no shape, address or host value depends on the data."""
    capacity = state.cache.layers[0].keys.shape[2]
    age_C = (state.cursor_1 - torch.arange(capacity, device=state.cursor_1.device)) % capacity
    seen_RC = age_C[None] <= state.length_R[:, None]
    states_R1X = read(
        model,
        sampling.head,
        input_ids=state.last_R[:, None],
        position_ids=state.length_R[:, None],
        attention_mask=seen_RC[:, None, None, :],
        past_key_values=state.cache,
        use_cache=True,
    )
    uniform_R = state.uniform_RK.index_select(1, state.tick_1).squeeze(1)
    id_R, drawn_3R = drawn(logits_of(model, sampling.head, states_R1X[:, 0]), uniform_R, sampling)
    state.drawn_3RK.index_copy_(2, state.tick_1, drawn_3R[:, :, None])
    state.last_R.copy_(id_R)
    # A finished row goes on until the host sees it, but never beyond the ring.
    state.length_R.add_(1).clamp_(max=capacity - 1)
    state.cursor_1.add_(1).remainder_(capacity)
    state.tick_1.add_(1).remainder_(state.uniform_RK.shape[1])


def runner(model: Any, state: Static, sampling: Sampling) -> Callable[[], None]:
    """Return what runs the step: a captured graph on CUDA, the step itself elsewhere or where capture fails."""

    def plainly() -> None:
        static_step(model, state, sampling)

    if not _capturable(state):
        return plainly
    moved = (state.cursor_1, state.tick_1, state.last_R, state.length_R)
    before = [x.clone() for x in moved]
    try:
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM):
                plainly()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            plainly()
    except RuntimeError as error:
        line = str(error).strip().partition("\n")[0]
        warnings.warn(f"decoding without CUDA graphs, since capture failed: {line}", stacklevel=2)
        run = plainly
    else:
        run = graph.replay
    # The columns the warm-up wrote lie beyond every row, and are written again before any row sees them.
    for x, old in zip(moved, before, strict=True):
        x.copy_(old)
    return run


def _capturable(state: Static) -> bool:
    return state.last_R.device.type == "cuda"


def decode_static(
    model: Any,
    prompts: Sequence[Sequence[int]],
    book: Book,
    *,
    prefill: Callable[..., Any],
    ahead: int = AHEAD,
) -> None:
    """Write the answer of every prompt into the book.

    Args:
        model: one that `understands` accepts.
        prompts: token ids of each request.
        book: the record, with as many requests.
        prefill: `(model, prompts, requests, book)` to a fresh batch, its first tokens drawn.
        ahead: tokens between two looks of the host.
    """
    sampling = book.sampling
    rows = min(sampling.slots, len(prompts))
    need = max(map(len, prompts)) + sampling.max_tokens + WARM
    capacity = -(-need // ROUND) * ROUND
    waiting = list(range(len(prompts)))[::-1]
    request_R, alive_R = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=bool)
    state: Static | None = None
    run: Callable[[], None] | None = None
    cursor = 0
    while waiting or alive_R.any():
        free_F = (~alive_R).nonzero()[0]
        if waiting and len(free_F) >= max(1, int(rows * REFILL)):
            into_F = free_F[: len(waiting)]
            taken = [waiting.pop() for _ in into_F]
            fresh = prefill(model, prompts, taken, book)
            state = state or _empty(fresh, rows, capacity, ahead)
            _place(state, fresh, into_F, cursor)
            request_R[into_F], alive_R[into_F] = taken, fresh.alive_R
            continue
        if state is None:
            raise RuntimeError("rows are writing without a state")
        if not waiting and rows // 2 >= LEAST and alive_R.sum() <= rows // 2:
            rows //= 2
            keep = np.argsort(~alive_R, kind="stable")[:rows]
            state, run = _fewer(state, keep), None
            request_R, alive_R = request_R[keep], alive_R[keep]
        run = run or runner(model, state, sampling)
        _advance(run, state, book, request_R, alive_R)
        cursor = (cursor + ahead) % capacity


def _advance(
    run: Callable[[], None], state: Static, book: Book, request_R: NDArray[np.int64], alive_R: NDArray[np.bool_]
) -> None:
    """Draw the next K tokens of every row, and write down those of rows that had not finished."""
    ahead = state.uniform_RK.shape[1]
    uniform_RK = np.zeros((len(alive_R), ahead))
    writing = alive_R.nonzero()[0]
    for place in range(ahead):
        uniform_RK[writing, place] = book.uniforms(request_R[writing], place)
    state.uniform_RK.copy_(torch.from_numpy(uniform_RK), non_blocking=True)
    for _ in range(ahead):
        run()
    # The one look at the device in K tokens.
    seen_3RK = state.drawn_3RK.cpu().numpy()
    for place in range(ahead):
        writing = alive_R.nonzero()[0]
        alive_R[writing] = ~book.record(request_R[writing], seen_3RK[:, writing, place])


def _empty(fresh: Any, rows: int, capacity: int, ahead: int) -> Static:
    device = fresh.last_R.device
    cursor_1 = torch.zeros(1, dtype=torch.int64, device=device)

    def ring(x: Tensor) -> Tensor:
        return x.new_zeros(rows, x.shape[1], capacity, x.shape[3])

    return Static(
        cursor_1=cursor_1,
        tick_1=torch.zeros_like(cursor_1),
        last_R=torch.zeros(rows, dtype=torch.int64, device=device),
        length_R=torch.zeros(rows, dtype=torch.int64, device=device),
        uniform_RK=torch.zeros(rows, ahead, dtype=wide(device), device=device),
        drawn_3RK=torch.zeros(3, rows, ahead, device=device),
        cache=Cache(layers=[RingLayer(ring(keys), ring(values), cursor_1) for keys, values in fresh.cache]),
    )


def _place(state: Static, fresh: Any, into_F: NDArray[np.int64], cursor: int) -> None:
    """Put fresh rows into finished ones, their prompts right before the cursor."""
    device, capacity = state.last_R.device, state.cache.layers[0].keys.shape[2]
    row = torch.from_numpy(into_F).to(device)
    width = fresh.cache[0][0].shape[2]
    column = torch.from_numpy((cursor - width + np.arange(width)) % capacity).to(device)
    for layer, (keys, values) in zip(state.cache.layers, fresh.cache, strict=True):
        layer.keys[row[:, None], :, column[None]] = keys.transpose(1, 2)
        layer.values[row[:, None], :, column[None]] = values.transpose(1, 2)
    state.last_R[row] = fresh.last_R
    state.length_R[row] = torch.from_numpy(fresh.length_R).to(device)


def _fewer(state: Static, keep: NDArray[np.int64]) -> Static:
    """Return the state of the rows `keep` alone, in buffers of its own."""
    row = torch.from_numpy(keep).to(state.last_R.device)
    cursor_1 = state.cursor_1.clone()
    layers = [RingLayer(layer.keys[row], layer.values[row], cursor_1) for layer in state.cache.layers]
    return Static(
        cursor_1=cursor_1,
        tick_1=state.tick_1.clone(),
        last_R=state.last_R[row],
        length_R=state.length_R[row],
        uniform_RK=state.uniform_RK[row],
        drawn_3RK=state.drawn_3RK[:, row],
        cache=Cache(layers=layers),
    )
