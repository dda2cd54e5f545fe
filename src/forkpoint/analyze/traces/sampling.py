"""A model as a source: sample it, and record what it knew at every token.

Log-probs and entropies come from the logits that sampled; ranks and alternatives from one more pass over the finished
answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from forkpoint.analyze.traces.scoring import Scores, alternatives, score_tokens
from forkpoint.analyze.traces.tokens import with_texts
from forkpoint.analyze.traces.trace import TraceBatch, TraceInfo, Traces, checked
from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import sample_rollouts
from forkpoint.errors import InputError
from forkpoint.rollouts import Prompt, Rollouts


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a model is loaded and sampled."""

    group: int = 8
    """Answers to each prompt."""
    max_tokens: int = 1024
    """Longest answer, in tokens."""
    temperature: float = 1.0
    """> 0, or 0 for the most likely token, measured at 1."""
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end an answer, besides the tokenizer's end token."""
    slots: int = 64
    """Answers decoded at once, which make one batch."""
    top: int = 10
    """Alternatives recorded at every token; 0 saves the pass that finds them, and ranks."""
    attention: bool = False
    """Also record the entropy of the attention, in the pass that finds the alternatives."""
    seed: int = 0
    template: str = "auto"
    """See `forkpoint.tasks.prompts`."""
    max_prompt: int = 2048
    """Longest prompt, in tokens."""
    dtype: str = "float32"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you trust its author."""


def open_model(path: str | Path, prompts: Sequence[Prompt], settings: ModelSettings | None = None) -> Traces:
    """Return answers of the model at a path, or of that hub name, to prompts.

    Raises:
        InputError: model, tokenizer or prompts cannot be used.
    """
    from forkpoint.model import load_model, pick_device
    from forkpoint.tasks.prompts import end_token_ids, load_tokenizer, stop_text

    chosen = settings or ModelSettings()
    trust = {"revision": chosen.revision, "trust_remote_code": chosen.trust_remote_code}
    model: Any = load_model(path, dtype=chosen.dtype, device=pick_device(chosen.device), **trust)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(path, **trust)  # type: ignore[arg-type]
    sampling = Sampling(
        max_tokens=chosen.max_tokens,
        stop_ids=end_token_ids(tokenizer, model.generation_config, chosen.stop),
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        top_k=chosen.top_k,
        slots=chosen.slots,
        stop_text=stop_text(tokenizer, chosen.stop),
    )
    return sampled_traces(
        model, tokenizer, prompts, sampling, group=chosen.group, top=chosen.top, attention=chosen.attention,
        seed=chosen.seed, template=chosen.template, max_prompt=chosen.max_prompt, name=str(path),
    )  # fmt: skip


def sampled_traces(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    group: int = 1,
    top: int = 10,
    attention: bool = False,
    seed: int = 0,
    template: str = "auto",
    max_prompt: int = 2048,
    name: str = "model",
) -> Traces:
    """Return answers of a model to prompts, decoded as they are asked for.

    Args:
        model: a Hugging Face causal language model (`forkpoint.model.load_model`).
        tokenizer: its tokenizer.
        prompts: problems, at least one.
        sampling: how tokens are drawn; `slots` answers are decoded at once and make one batch.
        group: answers to each prompt, >= 1.
        top: alternatives recorded at every token; 0 saves the pass that finds them, and ranks.
        attention: also record the entropy of the attention (`score_tokens`).
        seed: of the draws: the same seed and slots give the same answers in every pass.
        template: see `forkpoint.tasks.prompts`.
        max_prompt: longest prompt, in tokens.
        name: what to call the model.

    Raises:
        InputError: no prompts, or one that is empty or too long.
    """
    from forkpoint.tasks.prompts import encode_prompts

    if not prompts:
        raise InputError(f"there are no prompts to sample {name} with: give at least one")
    if group < 1 or top < 0:
        raise InputError(f"group is {group} and top is {top}: use a group of at least 1 and a top of at least 0")
    encoded = encode_prompts(prompts, tokenizer, template=template, max_tokens=max_prompt)
    at_once = max(1, sampling.slots // group)

    def batches() -> Iterator[TraceBatch]:
        for start in range(0, len(prompts), at_once):
            part = slice(start, start + at_once)
            rollouts = sample_rollouts(
                model, tokenizer, prompts[part], encoded[part], sampling, group=group, stream=(seed, "analyze", start)
            )
            yield scored_trace(
                model, tokenizer, rollouts, sampling, top=top, attention=attention, name=name, first=start * group + 1
            )

    return Traces(about=model_info(name, sampling, top=top), batches=batches)


def model_info(name: str, sampling: Sampling, *, top: int, judged: bool = False) -> TraceInfo:
    """Return what is known of the answers of a model before they are read."""
    lacks = (*(() if judged else ("reward", "verdict")), "advantage", "credit", "kept", "phase")
    lacks += () if top else ("rank", "top")
    return TraceInfo(kind="model", name=name, lacks=lacks, model=name, temperature=sampling.temperature or 1.0)


def scored_trace(
    model: Any,
    tokenizer: Any,
    rollouts: Rollouts,
    sampling: Sampling,
    *,
    top: int,
    attention: bool = False,
    name: str,
    first: int = 1,
) -> TraceBatch:
    """Return a model's answers as a trace batch, with the texts of their tokens, their ranks and alternatives.

    Args:
        model: what wrote them.
        tokenizer: its tokenizer.
        rollouts: the answers, verified or not.
        sampling: how they were drawn.
        top: alternatives at every token; 0 saves the pass that finds them, and ranks.
        attention: also record the entropy of the attention (`score_tokens`).
        name: of the model, for messages.
        first: number of the first answer, for messages.
    """
    from forkpoint.tasks.prompts import token_text

    scores = None
    if top:
        prompts, answers = ids_of(rollouts)
        scores = score_tokens(
            model, prompts, answers, temperature=sampling.temperature or 1.0, top=top, attention=attention,
            head=sampling.head,
        )  # fmt: skip
    batch = trace_of(rollouts, scores, name=name, first=first)
    return with_texts(batch, token_text(tokenizer), len(tokenizer))


def ids_of(rollouts: Rollouts) -> tuple[list[list[int]], list[list[int]]]:
    """Return the token ids of every row's prompt and of its answer."""
    lengths = rollouts.prompt_length_B.tolist()
    prompts = [row[:length] for row, length in zip(rollouts.prompt_BS.tolist(), lengths, strict=True)]
    answers = [row[mask].tolist() for row, mask in zip(rollouts.ids_BT, rollouts.mask_BT, strict=True)]
    return prompts, answers


def trace_of(rollouts: Rollouts, scores: Scores | None = None, *, name: str, first: int = 1) -> TraceBatch:
    """Return rollouts as a trace batch, without token texts (`traces.with_texts` adds them).

    Args:
        rollouts: sampled answers, verified or not.
        scores: ranks and alternatives of their tokens, row after row.
        name: of the model, for messages.
        first: number of the first answer, for messages.
    """
    mask_BT = rollouts.mask_BT
    lengths = mask_BT.sum(1).cpu().numpy()
    total = int(lengths.sum())

    def flat(values_BT: Tensor, kind: Any) -> NDArray[Any]:
        return values_BT[mask_BT].cpu().numpy().astype(kind)

    prompts = [rollouts.prompts[group] for group in rollouts.group_B.tolist()]
    reward_B = rollouts.reward_B
    return checked(
        TraceBatch(
            file=name,
            unit="answer",
            place_R=np.arange(first, first + rollouts.rows, dtype=np.int64),
            offsets_R=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            texts=(),
            text_N=np.full(total, -1, np.int32),
            id_N=flat(rollouts.ids_BT, np.int32),
            logp_N=flat(rollouts.logp_BT, np.float32),
            entropy_N=flat(rollouts.entropy_BT, np.float32),
            entropy_kind=(rollouts.entropy_kind,) * rollouts.rows,
            rank_N=np.zeros(total, np.int32) if scores is None else scores.rank_N,
            top=None if scores is None else alternatives(scores),
            others_N=None if scores is None else scores.others_N,
            attention_N=None if scores is None or np.isnan(scores.attention_N).all() else scores.attention_N,
            prompt_id=tuple(prompt.id for prompt in prompts),
            sample_R=rollouts.sample_B.cpu().numpy().astype(np.int32),
            step_R=np.full(rollouts.rows, -1, np.int64),
            prompt=tuple(prompt.text for prompt in prompts),
            answer=tuple(prompt.answer for prompt in prompts),
            completion=rollouts.text,
            reward_R=np.full(rollouts.rows, np.nan) if reward_B is None else reward_B.cpu().numpy().astype(np.float64),
            verdict=tuple(map(str, rollouts.verdicts)) or (None,) * rollouts.rows,
            finish=rollouts.finish,
        )
    )
