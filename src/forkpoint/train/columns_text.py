"""Columns that are read off the text: where each token stands in it, and which step, phrase or phase it belongs to."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forkpoint.rollouts import Rollouts

PARTIAL = "�"
"""What decoders write for bytes that are no whole character."""
LONGEST_CHARACTER = 4
"""Most tokens one character can be cut into: UTF-8 has at most four bytes a character."""


@dataclass(frozen=True, kw_only=True)
class Spans:
    """The text of one answer and where each of its tokens stands in it."""

    text: str
    start: tuple[int, ...]
    """First character of every token."""
    end: tuple[int, ...]
    """One past its last character; equal to `start` for special tokens, which have no text."""


def token_spans(ids: Sequence[int], piece: Callable[[int], str], decode: Callable[[list[int]], str]) -> Spans:
    """Return the text of an answer and the characters every token covers.

    Tokens that only together make a character all cover it.

    Args:
        ids: of the answer.
        piece: a token's text within an answer, from `piece_of`.
        decode: the text of several tokens.

    >>> token_spans([1, 2], {1: "so", 2: " 7"}.get, None)
    Spans(text='so 7', start=(0, 2), end=(2, 4))
    """
    text, start, end = "", [], []
    at = 0
    while at < len(ids):
        taken, part = 1, piece(ids[at])
        if part.endswith(PARTIAL):
            taken, part = _whole_character(list(ids[at : at + LONGEST_CHARACTER]), part, decode)
        start += [len(text)] * taken
        text += part
        end += [len(text)] * taken
        at += taken
    return Spans(text=text, start=tuple(start), end=tuple(end))


def _whole_character(ids: list[int], alone: str, decode: Callable[[list[int]], str]) -> tuple[int, str]:
    """Return how many tokens make whole characters together, and their text; one token where none do."""
    for taken in range(2, len(ids) + 1):
        part = decode(ids[:taken])
        if not part.endswith(PARTIAL):
            return taken, part
    return 1, alone


def piece_of(tokenizer: Any, shown: str = "") -> Callable[[int], str]:
    """Return a function from a token id to its text within an answer, spaces before words included.

    Special tokens have none, as in `Rollouts.text`, but for the one whose text is `shown`.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.convert_tokens_to_ids(shown)}
    before = _plain_id(tokenizer, special)
    prefix = "" if before is None else tokenizer.decode([before])
    known: dict[int, str] = {}

    def piece(token: int) -> str:
        if token not in known:
            whole = tokenizer.decode([token] if before is None else [before, token])
            # Some decoders drop the blank before a first word, so a token is read behind another.
            inside = whole.startswith(prefix)
            known[token] = "" if token in special else whole[len(prefix) :] if inside else tokenizer.decode([token])
        return known[token]

    return piece


def _plain_id(tokenizer: Any, special: set[int]) -> int | None:
    """Return a token whose text is plain letters or digits, at whose end nothing merges."""
    return next(
        (token for token in range(len(tokenizer)) if token not in special and _is_plain(tokenizer.decode([token]))),
        None,
    )


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isalnum()


def spans_of(rollouts: Rollouts, tokenizer: Any, shown: str = "") -> list[Spans]:
    """Return the spans of every answer; `shown` as in `piece_of`."""
    piece = piece_of(tokenizer, shown)
    found = []
    for ids, length in zip(rollouts.ids_BT.tolist(), rollouts.mask_BT.sum(1).tolist(), strict=True):
        spans = token_spans(ids[:length], piece, tokenizer.decode)
        found.append(_without_first_blank(spans))
    return found


def _without_first_blank(spans: Spans) -> Spans:
    """Drop one blank before the first word: some tokenizers write one between words only, so none stands there."""
    if not spans.text.startswith(" "):
        return spans
    return Spans(
        text=spans.text[1:],
        start=tuple(max(at - 1, 0) for at in spans.start),
        end=tuple(max(at - 1, 0) for at in spans.end),
    )


def step_numbers(spans: Spans, boundary: re.Pattern[str]) -> list[int]:
    """Return the number of the step every token belongs to, from 0; a step ends where the expression ends.

    A token belongs to the step of its first character that is not blank. Steps of blanks alone do not count.

    >>> step_numbers(Spans(text="a. b. c", start=(0, 1, 4, 6), end=(1, 4, 6, 7)), re.compile("[.]"))
    [0, 0, 1, 2]
    """
    last = len(spans.text.rstrip())
    blank = len(spans.text) - len(spans.text.lstrip())
    cuts = sorted({match.end() for match in boundary.finditer(spans.text) if blank < match.end() < last})
    return [bisect_right(cuts, at) for at in _visible_starts(spans)]


def _visible_starts(spans: Spans) -> list[int]:
    """Return the first character of every token that is not blank, or its first where all are."""
    starts = []
    for start, end in zip(spans.start, spans.end, strict=True):
        part = spans.text[start:end]
        starts.append(end - len(part.lstrip()) if part.strip() else start)
    return starts


def header_numbers(spans: Spans, header: re.Pattern[str]) -> list[int]:
    """Return the number of the step every token belongs to, from 0, -1 before the first; a header opens a step.

    A token with the start of a header belongs to its step.

    >>> header_numbers(Spans(text="so # a # b", start=(0, 2, 5, 8), end=(2, 5, 8, 10)), re.compile("#"))
    [-1, 0, 1, 1]
    """
    cuts = sorted({match.start() for match in header.finditer(spans.text)})
    return [bisect_left(cuts, max(end, start + 1)) - 1 for start, end in zip(spans.start, spans.end, strict=True)]


def thinking_marks(spans: Spans, marker: str) -> list[bool]:
    """Return which tokens come before the end of the first marker; none where there is no marker.

    >>> thinking_marks(Spans(text="a</t>b", start=(0, 1, 5), end=(1, 5, 6)), "</t>")
    [True, True, False]
    """
    found = spans.text.find(marker)
    end = found + len(marker) if found >= 0 else 0
    return [at < end for at in spans.start]


def phrase_marks(spans: Spans, phrases: re.Pattern[str]) -> list[bool]:
    """Return which tokens share a character with a phrase."""
    marks = [False] * len(spans.start)
    for match in phrases.finditer(spans.text):
        first, last = bisect_right(spans.end, match.start()), bisect_left(spans.start, match.end())
        marks[first:last] = [True] * (last - first)
    return marks


def phrase_pattern(phrases: Sequence[str]) -> re.Pattern[str]:
    """Return the expression that finds any of the phrases as whole words, in any case and across any blanks.

    >>> phrase_pattern(["let's check"]).findall("Let's  check. Outlet's check")
    ["Let's  check"]
    """
    longest_first = sorted(phrases, key=len, reverse=True)
    either = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in longest_first)
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)


def token_of(spans: Spans, character: int) -> int:
    """Return the first token that covers a character, -1 where none does."""
    index = bisect_right(spans.end, character)
    return index if index < len(spans.end) else -1


def padded(rows: Sequence[Sequence[int | bool]], mask_BT: Tensor, fill: int | bool) -> Tensor:
    """Return one value a token as (B, T), with `fill` on padding."""
    T = mask_BT.shape[1]
    return torch.tensor([[*row, *[fill] * (T - len(row))] for row in rows], device=mask_BT.device).reshape(-1, T)
