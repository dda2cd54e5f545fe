"""Answers for the token view from a batch of traces, whatever source they came from."""

from __future__ import annotations

from typing import Any

import numpy as np

from forkpoint.analyze.traces.trace import TraceBatch
from forkpoint.analyze.views.answers import ALTERNATIVES_SHOWN, TOKENS_SHOWN, Answer, choose, weight_of


def answers_of_batch(batch: TraceBatch, *, source: str, count: int = 200) -> list[Answer]:
    """Return some answers of a batch: half of them right and half wrong, from different prompts where possible.

    Args:
        batch: responses with any of the values a trace may have.
        source: what the page calls them, such as the name of a file.
        count: how many at most; the other verdict and unjudged answers fill up where one is short.

    Returns:
        Answers in the order of the batch; a token without text is shown by its id.
    """
    chosen = choose([str(prompt) for prompt in batch.prompt_id], [str(verdict) for verdict in batch.verdict], count)
    return [_answer(batch, response, source) for response in chosen]


def _answer(batch: TraceBatch, response: int, source: str) -> Answer:
    whole = batch.span(response)
    span = slice(whole.start, min(whole.stop, whole.start + TOKENS_SHOWN))
    named: dict[str, Any] = {
        name: None if values is None else np.asarray(values[span], np.float32)
        for name, values in (
            ("logp", batch.logp_N),
            ("entropy", batch.entropy_N),
            ("advantage", batch.advantage_N),
            ("credit", batch.credit_N),
        )
    }
    step, sample = int(batch.step_R[response]), int(batch.sample_R[response])
    return Answer(
        source=f"{source}, step {step}" if step >= 0 else source,
        verdict=batch.verdict[response] or "unjudged",
        tokens=tuple(_text(batch, token) for token in range(span.start, span.stop)),
        total=whole.stop - whole.start,
        prompt_id=batch.prompt_id[response] or batch.where(response),
        sample=str(sample) if sample >= 0 else "",
        prompt=batch.prompt[response] or "",
        reference=batch.answer[response] or "",
        reward=float(batch.reward_R[response]),
        finish=batch.finish[response] or "",
        lower_bound=batch.entropy_kind[response] == "lower-bound",
        weight=weight_of(named["advantage"], named["credit"]),
        kept=None if batch.kept_N is None else batch.kept_N[span],
        rank=batch.rank_N[span].astype(np.uint32),
        **named,
        **_alternatives(batch, span),
    )


def _text(batch: TraceBatch, token: int) -> str:
    text = batch.text(token)
    return f"⟨id {int(batch.id_N[token])}⟩" if text is None else text


def _alternatives(batch: TraceBatch, span: slice) -> dict[str, Any]:
    top = batch.top
    if top is None:
        return {}
    found: list[list[tuple[str, float]]] = []
    for token in range(span.start, span.stop):
        first = int(top.offsets_N[token])
        last = min(int(top.offsets_N[token + 1]), first + ALTERNATIVES_SHOWN)
        found.append(
            [
                (
                    batch.texts[top.text_M[m]] if top.text_M[m] >= 0 else f"⟨id {int(top.id_M[m])}⟩",
                    float(top.logp_M[m]),
                )
                for m in range(first, last)
            ]
        )
    return {
        "top_tokens": tuple(tuple(text for text, _ in pairs) for pairs in found),
        "top_logp": tuple(tuple(logp for _, logp in pairs) for pairs in found),
    }
