"""What every analysis reads: answers as flat arrays over their tokens, in batches of bounded size.

Suffixes: `R` responses, `N` tokens of all responses one after the other, `M` alternatives of all tokens one after
the other. Token texts are text of a model: they are looked up, counted and written, never interpreted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forkpoint.entropy.bound import entropy_lower_bound

SCHEMA = 1
"""Version of the trace format, in the metadata of every file."""
TraceEntropyKind = Literal["exact", "rescored", "lower-bound", "none"]
"""`exact`: full vocabulary, from the logits that sampled; `rescored`: full vocabulary, from one more pass of a model;
`lower-bound`: from the most likely tokens alone; `none`: not known, every value is NaN."""
ENTROPY_KINDS: tuple[TraceEntropyKind, ...] = ("exact", "rescored", "lower-bound", "none")
THINKING, ANSWERING = 1, 2
"""Values of `phase_N`; 0 is not known."""
_ROUNDING = 1e-3  # probabilities written with three digits
_CLOSE = 0.01  # nats: log-probs of one token, written twice with few digits


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something that was missing or wrong in some responses."""

    what: str
    """A clause such as `field 'logp' is missing`."""
    count: int
    """How many responses; 0 where that cannot be known."""
    first: str
    """The place of the first of them, such as `dump.jsonl line 7`."""

    def __str__(self) -> str:
        if self.count == 0:
            return self.what
        return f"{self.what} ({self.count} response{'s' * (self.count != 1)}; first: {self.first})"


@dataclass(frozen=True, kw_only=True)
class Alternatives:
    """The most likely tokens at every position, most likely first."""

    offsets_N: NDArray[np.int64]
    """(N + 1,): alternatives of token n are entries offsets_N[n] to offsets_N[n + 1]."""
    id_M: NDArray[np.int32]
    """Token ids, -1 where not known."""
    text_M: NDArray[np.int32]
    """Index into `TraceBatch.texts`, -1 where not known."""
    logp_M: NDArray[np.float32]
    """Natural log-probs."""


@dataclass(frozen=True, kw_only=True)
class TraceBatch:
    """Some responses. What a source does not say is NaN, -1, 0 (`rank`, `phase`), None, or an array that is None."""

    file: str
    """Where the responses come from, for messages."""
    unit: Literal["row", "line", "answer"]
    """What `place_R` counts."""
    place_R: NDArray[np.int64]
    """Row or line of each response, from 1."""
    offsets_R: NDArray[np.int64]
    """(R + 1,): tokens of response r are offsets_R[r] to offsets_R[r + 1]."""
    texts: tuple[str, ...]
    """The different token texts; `text_N` and `Alternatives.text_M` are indices into it."""
    text_N: NDArray[np.int32]
    """(N,): which text, -1 where not known."""
    id_N: NDArray[np.int32]
    """(N,): token id, -1 where not known."""
    logp_N: NDArray[np.float32]
    """(N,): log-prob of the token, NaN where not known."""
    entropy_N: NDArray[np.float32]
    """(N,): entropy in nats, NaN where not known; `entropy_kind` says what it is."""
    entropy_kind: tuple[TraceEntropyKind, ...]
    """(R,)"""
    rank_N: NDArray[np.int32]
    """(N,): 1 + how many tokens are more likely; 0 is not known."""
    top: Alternatives | None = None
    advantage_N: NDArray[np.float32] | None = None
    credit_N: NDArray[np.float32] | None = None
    """(N,): advantage times weight where the token is kept, else 0."""
    kept_N: NDArray[np.bool_] | None = None
    phase_N: NDArray[np.int8] | None = None
    """(N,): `THINKING`, `ANSWERING`, or 0."""
    others_N: NDArray[np.float32] | None = None
    """(N,): Σ_{v≠y} p_v² over the tokens that were not sampled; not kept in files."""
    attention_N: NDArray[np.float32] | None = None
    """(N,): normalised entropy of the attention at the position that predicts the token; not kept in files."""
    prompt_id: tuple[str | None, ...]
    sample_R: NDArray[np.int32]
    step_R: NDArray[np.int64]
    prompt: tuple[str | None, ...]
    answer: tuple[str | None, ...]
    """Reference answers."""
    completion: tuple[str | None, ...]
    reward_R: NDArray[np.float64]
    verdict: tuple[str | None, ...]
    """`right`, `wrong` or `unjudged`."""
    finish: tuple[str | None, ...]
    """`stop`, `length`, or what the source says."""
    notes: tuple[Note, ...] = ()
    """What was left out or is suspicious here, among these responses and those dropped before them."""

    @property
    def responses(self) -> int:
        """R."""
        return len(self.place_R)

    @property
    def tokens(self) -> int:
        """N."""
        return len(self.entropy_N)

    def where(self, response: int) -> str:
        """Return the place of a response, such as `dump.jsonl line 7`."""
        return f"{self.file} {self.unit} {int(self.place_R[response])}"

    def span(self, response: int) -> slice:
        """Return which of the N tokens belong to a response."""
        return slice(int(self.offsets_R[response]), int(self.offsets_R[response + 1]))

    def text(self, token: int) -> str | None:
        """Return the text of one of the N tokens."""
        return self.texts[self.text_N[token]] if self.text_N[token] >= 0 else None

    def response_of_token(self) -> NDArray[np.int64]:
        """Return (N,): which response every token belongs to."""
        return np.repeat(np.arange(self.responses), np.diff(self.offsets_R))


@dataclass(frozen=True, kw_only=True)
class TraceInfo:
    """What is known of a source before it is read."""

    kind: Literal["run", "trace", "trl", "verl", "logprobs", "plain", "model"]
    name: str
    """Path or model name."""
    lacks: tuple[str, ...] = ()
    """What the source cannot say, such as `entropy` or `advantage`."""
    notes: tuple[str, ...] = ()
    """Sentences for whoever looks at figures made from it."""
    model: str | None = None
    """What sampled, where the source says so."""
    temperature: float | None = None
    """Log-probs and entropies are of softmax(logits / temperature), where the source says so."""


@dataclass(frozen=True, kw_only=True)
class Traces:
    """A source that can be read, as often as wanted, in batches of bounded size."""

    about: TraceInfo
    batches: Callable[[], Iterator[TraceBatch]]
    """Starts a pass; passes over the same files give the same batches."""

    def __iter__(self) -> Iterator[TraceBatch]:
        return self.batches()


def merged_notes(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Return one note for each thing, with summed counts and the first place.

    >>> a = Note(what="field 'logp' is missing", count=1, first="a line 2")
    >>> str(*merged_notes([a, dataclasses.replace(a, first="a line 9")]))
    "field 'logp' is missing (2 responses; first: a line 2)"
    """
    found: dict[str, Note] = {}
    for note in notes:
        old = found.get(note.what)
        found[note.what] = note if old is None else dataclasses.replace(old, count=old.count + note.count)
    return tuple(found.values())


def lower_bound(logp_N: NDArray[np.floating], known: Alternatives, in_top_N: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a lower bound of every position's entropy from the log-probs that are known there.

    Known are the alternatives, and the sampled token where it is not among them. The bound is that of
    `forkpoint.entropy.bound.entropy_lower_bound`: no unknown token is likelier than the last of the alternatives. Where
    that last one may be the sampled token, which servers append to the most likely ones, the one before it is taken.

    Args:
        logp_N: of the sampled token, NaN where not known.
        known: the alternatives, most likely first.
        in_top_N: where the sampled token is among them.

    Returns:
        Nats, (N,); NaN where nothing is known, or where the known probabilities add up to more than 1.

    >>> none = Alternatives(offsets_N=np.zeros(2, np.int64), id_M=np.zeros(0, np.int32),
    ...     text_M=np.zeros(0, np.int32), logp_M=np.zeros(0, np.float32))
    >>> lower_bound(np.log([0.5]), none, np.array([False]))
    array([0.6931472], dtype=float32)
    """
    positions = len(logp_N)
    there_M = ~np.isnan(known.logp_M)
    token_M = np.repeat(np.arange(positions), np.diff(known.offsets_N))[there_M]
    logp_M = known.logp_M[there_M].astype(np.float64)
    least_N = np.full(positions, np.inf)
    np.minimum.at(least_N, token_M, logp_M)
    appended_N = in_top_N & ~(logp_N > least_N + _CLOSE)
    extra = np.flatnonzero(~in_top_N & ~np.isnan(logp_N))
    likely = np.concatenate([~(appended_N[token_M] & (logp_M == least_N[token_M])), np.zeros(len(extra), bool)])
    where = np.concatenate([token_M, extra])
    order = np.argsort(where, kind="stable")
    offsets_N = np.concatenate([[0], np.cumsum(np.bincount(where, minlength=positions))]).astype(np.int64)
    values = np.concatenate([logp_M, np.asarray(logp_N, dtype=np.float64)[extra]])
    return entropy_lower_bound(values[order], offsets_N, likely[order]).astype(np.float32)


def checked(batch: TraceBatch) -> TraceBatch:
    """Return the batch with impossible values replaced by NaN, and notes that say where and how many.

    Impossible are log-probs above 0 and entropies below 0 (both beyond rounding) or infinite. NaN that was there
    before is noted too, unless a whole response has nothing else, which is how a value that is not known is written.
    """
    high_N = batch.logp_N > _ROUNDING
    odd_N = (batch.entropy_N < -_ROUNDING) | np.isinf(batch.entropy_N)
    unknown_N, blank_N = np.isnan(batch.logp_N), np.isnan(batch.entropy_N)
    promised_R = np.array([kind != "none" for kind in batch.entropy_kind], dtype=bool)
    found = {
        "a log-prob is above 0 and was left out": _responses_with(batch, high_N),
        "an entropy is negative or infinite and was left out": _responses_with(batch, odd_N),
        "a log-prob is NaN": _responses_with(batch, unknown_N) & ~_responses_with(batch, unknown_N, every=True),
        "an entropy is NaN": _responses_with(batch, blank_N) & promised_R,
        "the answer is empty": (np.diff(batch.offsets_R) == 0)
        & np.array([not text for text in batch.completion], bool),
    }
    notes = [
        Note(what=what, count=int(rows_R.sum()), first=batch.where(int(rows_R.argmax())))
        for what, rows_R in found.items()
        if rows_R.any()
    ]
    logp_N = np.where(high_N, np.float32(np.nan), batch.logp_N) if high_N.any() else batch.logp_N
    entropy_N = np.where(odd_N, np.float32(np.nan), batch.entropy_N) if odd_N.any() else batch.entropy_N
    return dataclasses.replace(batch, logp_N=logp_N, entropy_N=np.maximum(entropy_N, 0), notes=(*batch.notes, *notes))


def _responses_with(batch: TraceBatch, flag_N: NDArray[np.bool_], *, every: bool = False) -> NDArray[np.bool_]:
    """Return (R,): whether any, or every, token of a response has a flag; no token has every flag."""
    if not every and not flag_N.any():
        return np.zeros(batch.responses, bool)
    total = np.concatenate([[0], np.cumsum(flag_N)])
    count_R = total[batch.offsets_R[1:]] - total[batch.offsets_R[:-1]]
    return count_R == np.diff(batch.offsets_R) if every else count_R > 0


def utf8(text: str) -> str:
    r"""Return text that can be written: lone surrogates, which JSON can hold, become visible escapes.

    >>> utf8("a\ud800")
    'a\\ud800'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
