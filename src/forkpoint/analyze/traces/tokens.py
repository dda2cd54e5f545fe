"""A tokenizer beside a trace: texts for ids, and whether the two belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.traces.trace import Note, TraceBatch, Traces, utf8


def with_tokenizer(traces: Traces, tokenizer: Any) -> Traces:
    """Return traces with texts for the ids that come without; a tokenizer that is not theirs is noted once."""
    from forkpoint.tasks.prompts import token_text

    text, size = token_text(tokenizer), len(tokenizer)

    def batches() -> Iterator[TraceBatch]:
        said = False
        for batch in traces.batches():
            mismatch = None if said else tokenizer_mismatch(batch, text, size)
            filled = with_texts(batch, text, size)
            if mismatch is not None:
                said = True
                note = Note(what=mismatch, count=batch.responses, first=batch.where(0))
                filled = dataclasses.replace(filled, notes=(*filled.notes, note))
            yield filled

    return Traces(about=traces.about, batches=batches)


def with_texts(batch: TraceBatch, token_text: Callable[[int], str], size: int) -> TraceBatch:
    """Return the batch with the texts of its ids, where it has ids and no texts.

    Args:
        batch: some responses.
        token_text: id to text, such as `forkpoint.tasks.prompts.token_text(tokenizer)`; asked once per id.
        size: ids from 0 to size - 1 are in the vocabulary; others keep no text and are noted.
    """
    notes = list(batch.notes)
    outside_N = batch.id_N >= size
    if outside_N.any():
        rows = np.unique(batch.response_of_token()[outside_N])
        worst = int(batch.id_N.max())
        what = f"a token id is outside the tokenizer's vocabulary of {size}, up to {worst}"
        notes.append(Note(what=what, count=len(rows), first=batch.where(int(rows[0]))))
    texts = list(batch.texts)
    codes = {text: code for code, text in enumerate(texts)}

    def filled(ids: NDArray[np.int32], text: NDArray[np.int32]) -> NDArray[np.int32]:
        want = (text < 0) & (ids >= 0) & (ids < size)
        unique, inverse = np.unique(ids[want], return_inverse=True)
        new = np.empty(len(unique), np.int32)
        for place, token in enumerate(unique.tolist()):
            word = utf8(token_text(token))
            if word not in codes:
                codes[word] = len(texts)
                texts.append(word)
            new[place] = codes[word]
        out = text.copy()
        out[want] = new[inverse]
        return out

    text_N = filled(batch.id_N, batch.text_N)
    top = batch.top
    if top is not None:
        top = dataclasses.replace(top, text_M=filled(top.id_M, top.text_M))
    return dataclasses.replace(batch, texts=tuple(texts), text_N=text_N, top=top, notes=tuple(notes))


def tokenizer_mismatch(batch: TraceBatch, token_text: Callable[[int], str], size: int) -> str | None:
    """Return a sentence if a tokenizer does not belong to the ids and texts of a batch, else None.

    Leading and trailing space is not compared: tokenizers differ in how they show it.

    >>> from forkpoint.analyze.traces.records import batch_of
    >>> batch = batch_of([{"ids": [3, 4], "tokens": ["a", "b"]}], file="a.jsonl")
    >>> tokenizer_mismatch(batch, lambda token: "xyzab"[token], 5)
    >>> tokenizer_mismatch(batch, lambda token: "abxyz"[token], 5)
    "the tokenizer is not the trace's: id 3 is 'a' in the trace and 'y' in the tokenizer (2 of 2 ids differ)"
    """
    both = np.flatnonzero((batch.id_N >= 0) & (batch.text_N >= 0))
    ids, first = np.unique(batch.id_N[both], return_index=True)
    differ: list[str] = []
    count = 0
    for token, place in zip(ids.tolist(), both[first].tolist(), strict=True):
        theirs = batch.texts[batch.text_N[place]]
        ours = utf8(token_text(token)) if token < size else None
        if ours is None or ours.strip() != theirs.strip():
            count += 1
            shown = f"{ours!r} in the tokenizer" if ours is not None else f"outside the tokenizer's {size} ids"
            differ.append(f"id {token} is {theirs!r} in the trace and {shown}")
    # Special tokens have several spellings; a foreign vocabulary differs nearly everywhere.
    if count <= 0.05 * len(ids) or not count:
        return None
    return f"the tokenizer is not the trace's: {differ[0]} ({count} of {len(ids)} ids differ)"
