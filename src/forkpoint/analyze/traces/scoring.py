"""What a model says of answers that somebody has written: one teacher-forced pass over the full vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forkpoint.analyze.traces.tokens import tokenizer_mismatch, with_texts
from forkpoint.analyze.traces.trace import Alternatives, Note, TraceBatch, Traces, checked
from forkpoint.decode.attention import attending
from forkpoint.entropy.token import entropy_of
from forkpoint.errors import InputError
from forkpoint.model import HeadKind, logits_of, plain, read

PASS_TOKENS = 16384
"""Most tokens, padding included, in one forward pass, one answer at least."""
LOGITS = 1 << 24
"""Most logits held at once."""
WEIGHTS = 1 << 26
"""Most attention weights of one layer held at once: 256 MiB in float32, several times while a layer computes them."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model says of N tokens that were written after given contexts."""

    logp_N: NDArray[np.float32]
    entropy_N: NDArray[np.float32]
    """Full vocabulary, nats."""
    rank_N: NDArray[np.int32]
    """1 + how many tokens are more likely."""
    others_N: NDArray[np.float32]
    """Σ_{v≠y} p_v² over the tokens that were not sampled: with log p it gives the norm of the gradient at the logits,
    and unlike Σ_v p_v² it keeps its digits where one token is nearly certain."""
    attention_N: NDArray[np.float32]
    """Entropy of what the position that predicts the token attends to; NaN where it was not asked for or not known."""
    top_id_NK: NDArray[np.int32]
    """The K most likely tokens, most likely first."""
    top_logp_NK: NDArray[np.float32]


@torch.inference_mode()
def score_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    top: int = 10,
    attention: bool = False,
    head: HeadKind = "fused",
) -> Scores:
    """Return log-prob, entropy, rank and alternatives of every token of every answer, teacher-forced.

    The attention entropy is that of the middle layer, normalised and averaged over heads as in `attention_entropy`,
    where the model can say its attention weights. It takes transformers' eager attention, which holds the square of
    a row's length for every head: rows with more than `WEIGHTS` of them are read without.

    Args:
        model: a Hugging Face causal language model in evaluation mode.
        prompts: what was read before each answer, at least one token.
        answers: token ids.
        temperature: > 0; everything is of softmax(logits / temperature).
        top: K, alternatives a token, >= 0; at most the vocabulary.
        attention: also measure the attention.
        head: `plain` asks the model itself for its logits.

    Returns:
        Values over the tokens of all answers, one after the other.

    Raises:
        InputError: an empty prompt.
    """
    for index, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise InputError(f"prompt {index} is empty: a prompt needs at least one token")
    device = next(model.parameters()).device
    config = plain(model).config.get_text_config()
    vocabulary = int(config.vocab_size)
    k, found = min(top, vocabulary), []
    heads = int(getattr(config, "num_attention_heads", 0) or 0) if attention else 0
    for rows in _passes([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)], heads):
        # Padding on the right cannot be seen by a causal model, so no mask is needed.
        width = max(len(prompts[row]) + len(answers[row]) for row in rows)
        ids_BL = torch.zeros(len(rows), width, dtype=torch.int64)
        before_BL = torch.zeros(len(rows), width, dtype=torch.bool)
        for place, row in enumerate(rows):
            start, end = len(prompts[row]), len(prompts[row]) + len(answers[row])
            ids_BL[place, :end] = torch.tensor([*prompts[row], *answers[row]])
            before_BL[place, start - 1 : end - 1] = True
        inputs = {"input_ids": ids_BL.to(device), "use_cache": False}
        there_BL = before_BL.to(device)
        if heads and len(rows) * heads * width**2 <= WEIGHTS:
            with _watched(model, config) as seen:
                states_BLX = read(model, head, **inputs)
            attention_BL = seen[0] if seen else None
        else:
            states_BLX, attention_BL = read(model, head, **inputs), None
        states_NX = states_BLX[there_BL]
        ids_N = ids_BL.roll(-1, 1)[before_BL].to(device)
        attention_N = ids_N.new_full(ids_N.shape, torch.nan, dtype=torch.float32)
        if attention_BL is not None:
            attention_N = attention_BL[there_BL]
        step = max(1, LOGITS // vocabulary)
        for start in range(0, len(ids_N), step):
            part = slice(start, start + step)
            logits_NV = logits_of(model, head, states_NX[part])
            found.append((*_measured(logits_NV, ids_N[part], temperature, k), attention_N[part]))
    none, nones = torch.zeros(0), torch.zeros(0, k)
    columns = zip(*(found or [(none, none, none, none, nones, nones, none)]), strict=True)
    logp, entropy, rank, others, ids, logps, seen_N = (torch.cat(column).cpu().numpy() for column in columns)
    return Scores(
        logp_N=logp,
        entropy_N=entropy,
        rank_N=rank.astype(np.int32),
        others_N=others,
        attention_N=seen_N,
        top_id_NK=ids.astype(np.int32),
        top_logp_NK=logps,
    )


@contextmanager
def _watched(model: Any, config: Any) -> Iterator[list[Tensor]]:
    """Collect the attention entropy (B, L) of every position in the middle layer of a pass made inside."""
    middle, seen = int(config.num_hidden_layers) // 2, []

    def look(_module: Any, _inputs: Any, out: Any) -> None:
        weights = out[1] if isinstance(out, tuple) and len(out) > 1 else None
        if isinstance(weights, Tensor) and weights.ndim == 4 and weights.shape[2] == weights.shape[3]:
            seen.append(_attention_entropy(weights))

    layers = [module for module in plain(model).modules() if getattr(module, "layer_idx", None) == middle]
    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        with attending(model, "eager"):
            yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _attention_entropy(weights_BHLL: Tensor) -> Tensor:
    """Return -Σ_k a_k ln a_k over ln(keys seen), mean over heads, float32 (B, L); 0 for a position with one key."""
    found = []
    for weights_HLL in weights_BHLL:  # a row at a time: its squares are the largest thing here
        h_L = -torch.special.xlogy(weights_HLL, weights_HLL).sum(-1).mean(0)
        found.append(h_L / (weights_HLL > 0).any(0).sum(-1).clamp(min=2).log())
    return torch.stack(found).float()


def scored_traces(
    traces: Traces,
    model: Any,
    tokenizer: Any,
    *,
    temperature: float = 1.0,
    top: int = 10,
    attention: bool = False,
    name: str = "model",
) -> Traces:
    """Return traces with the log-probs, entropies, ranks and alternatives of a model that reads their answers.

    Where a response has token ids they are read as they are; else its text is cut into tokens by the tokenizer,
    which may cut it differently from what was sampled. The prompt is read as plain text, without a chat template.

    Args:
        traces: any source.
        model: whose entropies are wanted.
        tokenizer: the model's.
        temperature: > 0.
        top: alternatives at every token.
        attention: also measure the attention (`score_tokens`).
        name: what to call the model.

    Raises:
        InputError: while reading: the ids of a response are not the tokenizer's.
    """
    about = dataclasses.replace(
        traces.about,
        lacks=tuple(
            name for name in traces.about.lacks if name not in ("tokens", "ids", "logp", "entropy", "rank", "top")
        ),
        notes=(
            f"Log-probs and entropies are those of {name} reading the answers, over the full vocabulary; prompts are "
            "read as plain text.",
        ),
        temperature=temperature,
    )
    return Traces(
        about=about,
        batches=lambda: (_scored(b, model, tokenizer, temperature, top, attention) for b in traces.batches()),
    )


def _scored(batch: TraceBatch, model: Any, tokenizer: Any, temperature: float, top: int, attention: bool) -> TraceBatch:
    from forkpoint.tasks.prompts import token_text

    text, size = token_text(tokenizer), len(tokenizer)
    mismatch = tokenizer_mismatch(batch, text, size)
    if mismatch is not None:
        raise InputError(f"{batch.file}: {mismatch}; score it with the model that wrote it")
    limit = getattr(plain(model).config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    prompts, answers, notes = [], [], list(batch.notes)
    for row in range(batch.responses):
        ids = batch.id_N[batch.span(row)].tolist()
        if not ids or min(ids) < 0:
            ids = tokenizer(batch.completion[row] or "", add_special_tokens=False)["input_ids"]
        read = tokenizer(batch.prompt[row] or "")["input_ids"] or [
            tokenizer.bos_token_id or tokenizer.eos_token_id or 0
        ]
        what = None
        if ids and max(ids) >= size:
            what = f"token id {max(ids)} is outside the tokenizer's vocabulary of {size}, so it was not scored"
        elif len(read) + len(ids) > limit:
            what = f"prompt and answer are longer than the {limit} tokens the model reads, so it was not scored"
        if what is not None:
            notes.append(Note(what=what, count=1, first=batch.where(row)))
            ids = []
        prompts.append(list(read))
        answers.append(list(ids))
    scores = score_tokens(model, prompts, answers, temperature=temperature, top=top, attention=attention)
    total = len(scores.logp_N)
    same = np.array_equal(np.diff(batch.offsets_R), [len(ids) for ids in answers])
    cleared: dict[str, Any] = {} if same else dict.fromkeys(("advantage_N", "credit_N", "kept_N", "phase_N"))
    found = dataclasses.replace(
        batch,
        offsets_R=np.concatenate([[0], np.cumsum([len(ids) for ids in answers])]).astype(np.int64),
        id_N=np.array([token for ids in answers for token in ids], np.int32),
        texts=batch.texts if same else (),
        text_N=batch.text_N if same else np.full(total, -1, np.int32),
        logp_N=scores.logp_N,
        entropy_N=scores.entropy_N,
        entropy_kind=tuple("rescored" if ids else "none" for ids in answers),
        rank_N=scores.rank_N,
        top=alternatives(scores),
        others_N=scores.others_N,
        attention_N=scores.attention_N if attention else None,
        notes=tuple(notes),
        **cleared,
    )
    return with_texts(checked(found), text, size)


def _measured(logits_NV: Tensor, ids_N: Tensor, temperature: float, k: int) -> tuple[Tensor, ...]:
    logp_NV = torch.log_softmax(logits_NV.float() / temperature, dim=-1)
    logp_N1 = logp_NV.gather(1, ids_N[:, None])
    top = logp_NV.topk(k, dim=-1)
    rank_N = (logp_NV > logp_N1).sum(1) + 1
    others_N = logp_NV.scatter(1, ids_N[:, None], -torch.inf).mul_(2).exp_().sum(-1)
    return logp_N1[:, 0], entropy_of(logp_NV), rank_N, others_N, top.indices, top.values


def alternatives(scores: Scores) -> Alternatives:
    """Return the top tokens as a trace batch holds them, without texts."""
    n, k = scores.top_id_NK.shape
    blank = np.full(n * k, -1, np.int32)
    return Alternatives(
        offsets_N=np.arange(n + 1, dtype=np.int64) * k, id_M=scores.top_id_NK.reshape(-1), text_M=blank,
        logp_M=scores.top_logp_NK.reshape(-1),
    )  # fmt: skip


def _passes(lengths: Sequence[int], heads: int = 0) -> Iterator[list[int]]:
    """Cut rows 0, 1, ... into runs of neighbours, one row at least.

    A run fills at most `PASS_TOKENS` when padded; where heads are given it also holds at most `WEIGHTS` attention
    weights, unless its first row has more by itself: that one is read without them.
    """
    rows: list[int] = []
    width = 0

    def full(width: int, count: int) -> bool:
        return width * count > PASS_TOKENS or heads * width**2 * count > WEIGHTS

    for row, length in enumerate(lengths):
        width = max(width, length)
        if rows and full(width, len(rows) + 1):
            yield rows
            rows, width = [], length
        rows.append(row)
    if rows:
        yield rows
