"""The tokens that the figures of one source look at: some batches as flat arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.measures.phases import answer_starts, text_answer_starts
from forkpoint.analyze.traces.trace import ANSWERING, TraceBatch
from forkpoint.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """N tokens of R responses, flat."""

    offsets: NDArray[np.int64]
    """(R + 1,)."""
    entropy: NDArray[np.float32]
    logp: NDArray[np.float32]
    advantage: NDArray[np.float32]
    """NaN where not known."""
    collision: NDArray[np.float64]
    """Σ_v p_v², NaN where not known."""
    attention: NDArray[np.float32]
    """Entropy of the attention, NaN where not known."""
    labels: list[str] | NDArray[np.int64]
    """Texts, or ids where some token has no text."""
    answer_start: NDArray[np.int64]
    """First token of the answer phase of every response; -1 where there is none."""
    phase_known: NDArray[np.bool_]
    """(R,): the source labels the phases of the response, or the marker between them is known."""
    marker: str | None
    """What was looked for where the source does not label phases."""
    problem: NDArray[np.int64]
    """A number for every problem: intervals are over problems."""
    step: NDArray[np.int64]
    """(R,): training step, -1 where not known."""
    completion: tuple[str | None, ...]
    """(R,): what was written."""
    verdict: tuple[str | None, ...]
    """(R,): `right`, `wrong` or something else."""
    finish: tuple[str | None, ...]
    """(R,): `stop`, `length`, or what the source says."""


def hold(batches: Sequence[TraceBatch], *, marker: str | None = None) -> Held:
    """Return the tokens of some batches as flat arrays.

    Args:
        batches: one or more.
        marker: text that ends the thinking phase, such as `</think>`, for responses whose phases are not labelled;
            a token's id in digits where tokens have no texts.

    Raises:
        InputError: an empty marker.
    """
    if marker == "":
        raise InputError("the marker between thinking and answer is empty: give its text, such as --marker '</think>'")
    lengths = np.concatenate([np.diff(batch.offsets_R) for batch in batches])
    named = all(bool((batch.text_N >= 0).all()) for batch in batches)
    labels: Any
    if named:
        labels = [batch.texts[index] for batch in batches for index in batch.text_N]
    else:
        labels = np.concatenate([batch.id_N for batch in batches]).astype(np.int64)
    names = [
        name or f"{number}/{response}"
        for number, batch in enumerate(batches)
        for response, name in enumerate(batch.prompt_id)
    ]
    starts, known = _phases(batches, marker)
    return Held(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        entropy=np.concatenate([batch.entropy_N for batch in batches]),
        logp=np.concatenate([batch.logp_N for batch in batches]),
        advantage=np.concatenate([_or_nan(batch.advantage_N, batch.tokens) for batch in batches]),
        collision=np.concatenate([_collision(batch) for batch in batches]),
        attention=np.concatenate([_or_nan(batch.attention_N, batch.tokens) for batch in batches]),
        labels=labels,
        answer_start=starts,
        phase_known=known,
        marker=marker,
        problem=np.unique(names, return_inverse=True)[1].astype(np.int64),
        step=np.concatenate([batch.step_R for batch in batches]),
        completion=tuple(_written(batch, response) for batch in batches for response in range(batch.responses)),
        verdict=tuple(verdict for batch in batches for verdict in batch.verdict),
        finish=tuple(finish for batch in batches for finish in batch.finish),
    )


def _phases(batches: Sequence[TraceBatch], marker: str | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where the answer phase of every response begins, and whose phases are known: labels before marker."""
    unknown = [np.full(batch.responses, -1, np.int64) for batch in batches]
    starts_R = np.concatenate(unknown if marker is None else [_after(batch, marker) for batch in batches])
    # A marker that never comes says nothing; one that comes elsewhere was not reached where it does not.
    known_R = np.full(starts_R.size, bool((starts_R >= 0).any()))
    places = ((batch, response) for batch in batches for response in range(batch.responses))
    for place, (batch, response) in enumerate(places):
        phase = batch.phase_N[batch.span(response)] if batch.phase_N is not None else None
        if phase is not None and phase.any():
            at = np.flatnonzero(phase == ANSWERING)
            starts_R[place], known_R[place] = (int(at[0]) if at.size else -1), True
    return starts_R, known_R


def _after(batch: TraceBatch, marker: str) -> NDArray[np.int64]:
    if not (batch.text_N >= 0).any() and marker.isdecimal() and len(marker) < 10:
        return answer_starts(batch.id_N, batch.offsets_R, [int(marker)])
    texts = [batch.texts[text] if text >= 0 else None for text in batch.text_N.tolist()]
    return text_answer_starts(texts, batch.offsets_R, marker)


def _written(batch: TraceBatch, response: int) -> str | None:
    """Return the text of a response, put together from its tokens where the source has no text."""
    if batch.completion[response] is not None:
        return batch.completion[response]
    codes = batch.text_N[batch.span(response)].tolist()
    return "".join(batch.texts[code] for code in codes) if codes and min(codes) >= 0 else None


def _collision(batch: TraceBatch) -> NDArray[np.float64]:
    """Return Σ_v p_v² in float64: near 1 the gradient's norm is in the digits that float32 does not have."""
    return np.exp(2.0 * batch.logp_N.astype(np.float64)) + _or_nan(batch.others_N, batch.tokens)


def _or_nan(values: NDArray[Any] | None, tokens: int) -> NDArray[np.float32]:
    return np.full(tokens, np.nan, np.float32) if values is None else np.asarray(values, np.float32)
