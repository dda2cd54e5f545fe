"""The decoder: continuous batching that records what the behaviour policy knew.

Log-prob and full-vocabulary entropy of every sampled token come from the logits that sampled it, so no second
scoring pass is needed. Finished rows leave the batch, waiting prompts take their place, and equal prompts are
read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forkpoint.decode.cache import merged, right_aligned, slot_cache
from forkpoint.decode.sample import sample_token
from forkpoint.errors import InputError, TrainingError, did_you_mean
from forkpoint.model import head_logits, hidden_states, plain
from forkpoint.seeds import uniforms

BLOCK = 64
"""Uniforms are drawn in blocks of this many tokens a row."""
SHRINK = 0.75
"""Finished rows are dropped once fewer than this share of the rows is still writing."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn."""

    max_tokens: int
    """Longest answer, in tokens."""
    stop_ids: tuple[int, ...]
    """Ids that end an answer; the end token is part of the answer."""
    temperature: float = 1.0
    """> 0; log-probs and entropies are those of softmax(logits / temperature). 0 is greedy, measured at 1."""
    top_p: float = 1.0
    """In (0, 1]."""
    top_k: int = 0
    """0 keeps all tokens."""
    slots: int = 256
    """Rows decoded at once."""
    stop_text: Callable[[list[int]], bool] | None = None
    """Called with the answer so far after every token when given; true ends it."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not self.temperature >= 0:
            raise InputError(f"temperature is {self.temperature} and must be >= 0")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p} and must be in (0, 1]")
        if self.top_k < 0 or self.max_tokens < 1 or self.slots < 1:
            raise InputError("top_k must be >= 0, max_tokens and slots >= 1")


class NotFiniteError(TrainingError):
    """The model's logits are NaN or infinite, so nothing can be drawn from them."""

    def __init__(self, *, request: int, token: int, what: str = "") -> None:
        super().__init__(
            f"the logits are not finite for {what or f'request {request}'}, answer token {token}: the weights have "
            "diverged or are damaged; lower the learning rate or go back to an earlier checkpoint"
        )
        self.request = request
        self.token = token


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One sampled answer."""

    ids: list[int]
    logp: list[float]
    entropy: list[float]
    finish: str
    """`stop` or `length`."""


@dataclass
class _Rows:
    """The rows that are being written; tensors of the same length R."""

    request_R: list[int]
    """Which request each row answers."""
    last_R: Tensor
    """Its newest token, not yet read by the model."""
    length_R: Tensor
    """Tokens the cache holds for it: prompt and answer but the newest."""
    written_R: Tensor
    """Tokens of the answer so far."""
    alive_R: Tensor
    """Whether the answer is still being written. A finished row may idle until dropping it pays."""
    ids_RT: Tensor
    logp_RT: Tensor
    entropy_RT: Tensor
    uniform_RU: Tensor
    """The current block of uniforms."""
    columns: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def select(self, index: Tensor) -> _Rows:
        rows = index.tolist()
        tensors: dict[str, Any] = {name: getattr(self, name)[index] for name in _TENSORS}
        return _Rows(request_R=[self.request_R[i] for i in rows], **tensors)

    def joined(self, other: _Rows) -> _Rows:
        tensors: dict[str, Any] = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in _TENSORS}
        return _Rows(request_R=self.request_R + other.request_R, **tensors)


_TENSORS = ("last_R", "length_R", "written_R", "alive_R", "ids_RT", "logp_RT", "entropy_RT", "uniform_RU")


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[int],
    sampling: Sampling,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Return one sampled answer for every prompt.

    Args:
        model: a Hugging Face causal language model with full or sliding-window attention.
        prompts: token ids of each request; the same prompt may appear many times.
        streams: one random stream a request (`forkpoint.seeds.key`). The answer is a function of weights, prompt,
            stream and sampling; the rows beside it change it only through the rounding of matrix products.
        sampling: temperature, cuts, stops and the number of rows at once.
        progress: called with (finished, total) after every finished answer.

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
        return _decode(model, prompts, streams, sampling, progress)
    finally:
        model.train(was_training)


def _decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[int],
    sampling: Sampling,
    progress: Callable[[int, int], None] | None,
) -> list[Answer]:
    answers: list[Answer | None] = [None] * len(prompts)
    # Neighbours in the queue share their prompt, so a refill reads it once.
    waiting = list(range(len(prompts)))[::-1]
    rows, cache, done = None, None, 0
    while waiting or rows is not None:
        if rows is not None:
            over_R = _finished(rows, sampling)
            for row in over_R.nonzero().squeeze(1).tolist():
                answers[rows.request_R[row]] = _answer(rows, row, sampling)
                done += 1
                if progress is not None:
                    progress(done, len(prompts))
            rows.alive_R &= ~over_R
        writing = int(rows.alive_R.sum()) if rows is not None else 0
        refill = bool(waiting) and sampling.slots - writing >= max(1, sampling.slots // 8)
        if rows is not None and writing < (len(rows.request_R) if refill else SHRINK * len(rows.request_R)):
            rows, cache = _leave(rows, cache)
        if refill:
            taken = [waiting.pop() for _ in range(min(sampling.slots - writing, len(waiting)))]
            rows, cache = _enter(rows, cache, _prefill(model, prompts, streams, taken, sampling), sampling)
        elif rows is not None:
            _step(model, rows, cache, streams, sampling)
    return [answer for answer in answers if answer is not None]


def _prefill(
    model: Any, prompts: Sequence[Sequence[int]], streams: Sequence[int], taken: list[int], sampling: Sampling
) -> _Rows:
    """Read the prompts of the requests `taken`, each distinct one once, and draw every row's first token."""
    from transformers.cache_utils import DynamicCache

    device = next(model.parameters()).device
    distinct = list(dict.fromkeys(tuple(prompts[index]) for index in taken))
    which = {prompt: number for number, prompt in enumerate(distinct)}
    length_U = torch.tensor([len(prompt) for prompt in distinct], device=device)
    ids_US = torch.zeros(len(distinct), int(length_U.max()), dtype=torch.int64, device=device)
    for number, prompt in enumerate(distinct):
        ids_US[number, : len(prompt)] = torch.tensor(prompt, device=device)
    cache = DynamicCache()
    # Right padding needs no mask: padding comes after every real token and causal attention looks back only.
    hidden_USH = hidden_states(model, input_ids=ids_US, past_key_values=cache, use_cache=True).last_hidden_state
    logits_UV = head_logits(model, hidden_USH[torch.arange(len(distinct), device=device), length_U - 1])
    row_R = torch.tensor([which[tuple(prompts[index])] for index in taken], device=device)
    R, T = len(taken), sampling.max_tokens
    rows = _Rows(
        request_R=list(taken),
        last_R=torch.zeros(R, dtype=torch.int64, device=device),
        length_R=length_U[row_R],
        written_R=torch.zeros(R, dtype=torch.int64, device=device),
        alive_R=torch.ones(R, dtype=torch.bool, device=device),
        ids_RT=torch.zeros(R, T, dtype=torch.int32, device=device),
        logp_RT=torch.zeros(R, T, device=device),
        entropy_RT=torch.zeros(R, T, device=device),
        uniform_RU=_block(streams, taken, [0] * R, device),
        columns=right_aligned(
            [(layer.keys[row_R], layer.values[row_R]) for layer in cache.layers],
            length_U[row_R],
            ids_US.shape[1],
        ),
    )
    _draw(rows, logits_UV[row_R], streams, sampling)
    return rows


def _enter(rows: _Rows | None, cache: Any, fresh: _Rows, sampling: Sampling) -> tuple[_Rows, Any]:
    """Place fresh rows right before the cursor, making room in front when their prompts are longer."""
    columns, fresh.columns = fresh.columns, []
    if rows is None:
        return fresh, slot_cache(columns, columns[0][0].shape[2] + min(sampling.max_tokens, 512))
    used, longest = cache.layers[0].length, int(rows.length_R.max())
    width = max(longest, columns[0][0].shape[2])
    pad = width - columns[0][0].shape[2]
    if pad:
        columns = [
            tuple(torch.cat([x.new_zeros(*x.shape[:2], pad, x.shape[3]), x], dim=2) for x in pair)  # type: ignore[misc]
            for pair in columns
        ]
    everyone = torch.arange(len(rows.request_R), device=rows.last_R.device)
    cache = merged(cache, everyone, used - width, columns, room=min(sampling.max_tokens, 512))
    return rows.joined(fresh), cache


def _leave(rows: _Rows, cache: Any) -> tuple[_Rows | None, Any]:
    """Drop finished rows and the columns that only they used."""
    stays_R = rows.alive_R.nonzero().squeeze(1)
    if stays_R.numel() == 0:
        return None, None
    staying = rows.select(stays_R)
    used, longest = cache.layers[0].length, int(staying.length_R.max())
    return staying, merged(cache, stays_R, used - longest, None, room=max(64, cache.layers[0].keys.shape[2] - used))


def _step(model: Any, rows: _Rows, cache: Any, streams: Sequence[int], sampling: Sampling) -> None:
    """Read every row's newest token and draw the next one, in place."""
    width = cache.layers[0].length + 1
    column_W = torch.arange(width, device=rows.last_R.device)
    seen_RW = column_W[None] >= width - 1 - rows.length_R[:, None]
    hidden_R1H = hidden_states(
        model,
        input_ids=rows.last_R[:, None],
        position_ids=rows.length_R[:, None],
        attention_mask=_mask(model, seen_RW),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    rows.length_R += 1
    _draw(rows, head_logits(model, hidden_R1H[:, 0]), streams, sampling)


def _draw(rows: _Rows, logits_RV: Tensor, streams: Sequence[int], sampling: Sampling) -> None:
    """Draw the next token of every row and record its log-prob and entropy, in place."""
    at_R = torch.where(rows.alive_R, rows.written_R, 0)
    inside_R = at_R % BLOCK
    begins_R = (inside_R == 0) & rows.alive_R & (at_R > 0)
    if bool(begins_R.any()):
        starts = [(i, int(at_R[i]) // BLOCK) for i in begins_R.nonzero().squeeze(1).tolist()]
        index = [i for i, _ in starts]
        rows.uniform_RU[index] = _block(
            streams, [rows.request_R[i] for i in index], [block for _, block in starts], at_R.device
        )
    uniform_R = rows.uniform_RU.gather(1, inside_R[:, None]).squeeze(1)
    id_R, logp_R, entropy_R = sample_token(
        logits_RV,
        uniform_R,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
    )
    finite_R = entropy_R.isfinite() & logp_R.isfinite() | ~rows.alive_R
    if not bool(finite_R.all()):
        row = int((~finite_R).nonzero()[0])
        raise NotFiniteError(request=rows.request_R[row], token=int(at_R[row]))
    rows.last_R = id_R
    # A finished row keeps writing in place 0 of a copy nobody reads: its answer has been taken.
    rows.ids_RT.scatter_(1, at_R[:, None], id_R[:, None].to(rows.ids_RT.dtype))
    rows.logp_RT.scatter_(1, at_R[:, None], logp_R[:, None])
    rows.entropy_RT.scatter_(1, at_R[:, None], entropy_R[:, None])
    rows.written_R = at_R + 1


def _block(streams: Sequence[int], requests: list[int], blocks: list[int], device: torch.device) -> Tensor:
    drawn = [uniforms(streams[request], block, BLOCK) for request, block in zip(requests, blocks, strict=True)]
    # mps has no float64; a float32 uniform still separates 2^24 outcomes.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.from_numpy(np.stack(drawn)).to(device=device, dtype=dtype)


def _finished(rows: _Rows, sampling: Sampling) -> Tensor:
    stops_N = torch.tensor(sampling.stop_ids, device=rows.last_R.device)
    over_R = torch.isin(rows.last_R, stops_N) | (rows.written_R >= sampling.max_tokens)
    over_R &= rows.alive_R
    if sampling.stop_text is not None:
        for row in (rows.alive_R & ~over_R).nonzero().squeeze(1).tolist():
            if sampling.stop_text(rows.ids_RT[row, : int(rows.written_R[row])].tolist()):
                over_R[row] = True
    return over_R


def _answer(rows: _Rows, row: int, sampling: Sampling) -> Answer:
    length = int(rows.written_R[row])
    ids = rows.ids_RT[row, :length].tolist()
    stopped = ids[-1] in sampling.stop_ids or (sampling.stop_text is not None and sampling.stop_text(ids))
    return Answer(
        ids=ids,
        logp=rows.logp_RT[row, :length].tolist(),
        entropy=rows.entropy_RT[row, :length].tolist(),
        finish="stop" if stopped else "length",
    )


def _mask(model: Any, seen_RW: Tensor) -> Tensor:
    """Return the attention mask of one step: ready-made for plain attention, (rows, columns) otherwise."""
    config = plain(model).config.get_text_config()
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ()) or getattr(
        config, "sliding_window", None
    )
    if config._attn_implementation == "sdpa" and not sliding:
        return seen_RW[:, None, None, :]
    return seen_RW.to(torch.int64)


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
