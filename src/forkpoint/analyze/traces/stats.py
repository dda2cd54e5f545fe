"""One pass over traces: everything that can be said of them without keeping their tokens."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.traces.sketch import Sketch, merged, sketch
from forkpoint.analyze.traces.trace import Note, TraceBatch, merged_notes


@dataclass(frozen=True, kw_only=True)
class TypeStats:
    """Entropy by token type: a type is a text, or an id where there is no text."""

    keys: tuple[str | int, ...] = ()
    count: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    total: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(0))
    """Sum of entropies in nats."""

    def ranked(self, *, least: int, most_uncertain: bool = True) -> list[tuple[str | int, int, float]]:
        """Return (type, count, mean entropy) of types that occur at least so often, by mean entropy."""
        chosen = np.flatnonzero(self.count >= max(1, least))
        mean = self.total[chosen] / self.count[chosen]
        order = np.argsort(-mean if most_uncertain else mean, kind="stable")
        return [(self.keys[i], int(self.count[i]), float(m)) for i, m in zip(chosen[order], mean[order], strict=True)]


def type_stats(batch: TraceBatch) -> TypeStats:
    """Return entropy by token type of a batch; tokens without text and id, or without entropy, are left out."""
    named, known = batch.text_N >= 0, ~np.isnan(batch.entropy_N)
    keys: list[str | int] = []
    parts = []
    for codes, use, name in (
        (batch.text_N, named & known, batch.texts.__getitem__),
        (batch.id_N, ~named & known & (batch.id_N >= 0), int),
    ):
        if not use.any():
            continue
        every = bool(use.all())
        chosen, entropy = (codes, batch.entropy_N) if every else (codes[use], batch.entropy_N[use])
        count = np.bincount(chosen)
        total = np.bincount(chosen, entropy)
        seen = np.flatnonzero(count)
        keys += [name(i) for i in seen.tolist()]
        parts.append((count[seen], total[seen]))
    if not parts:
        return TypeStats()
    counts, totals = (np.concatenate(column) for column in zip(*parts, strict=True))
    return TypeStats(keys=tuple(keys), count=counts.astype(np.int64), total=totals)


_NOTHING, _NO_TYPES = Sketch(), TypeStats()


@dataclass(frozen=True, kw_only=True)
class TraceStats:
    """Everything that one pass over traces tells without keeping their tokens."""

    responses: int = 0
    tokens: int = 0
    entropy: Sketch = _NOTHING
    surprisal: Sketch = _NOTHING
    """-log p of the tokens."""
    length: Sketch = _NOTHING
    """Tokens a response."""
    reward: Sketch = _NOTHING
    types: TypeStats = _NO_TYPES
    kinds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Tokens by kind of their entropy."""
    verdicts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    finishes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    @property
    def is_lower_bound(self) -> bool:
        """Whether an entropy of a part of the tokens is a lower bound, so that every figure must say so."""
        return self.kinds.get("lower-bound", 0) > 0


STATS_COLUMNS = ("ids", "tokens", "logp", "entropy", "reward", "verdict", "finish")
"""The columns `trace_stats` looks at, for `open_traces(columns=...)`."""


def batch_stats(batch: TraceBatch) -> TraceStats:
    """Return the statistics of one batch."""
    lengths = np.diff(batch.offsets_R)
    kinds: Counter[str] = Counter()
    for kind, length in zip(batch.entropy_kind, lengths.tolist(), strict=True):
        kinds[kind] += length
    return TraceStats(
        responses=batch.responses,
        tokens=batch.tokens,
        entropy=sketch(batch.entropy_N),
        surprisal=sketch(-batch.logp_N),
        length=sketch(lengths),
        reward=sketch(batch.reward_R),
        types=type_stats(batch),
        kinds=kinds,
        verdicts=Counter(verdict for verdict in batch.verdict if verdict is not None),
        finishes=Counter(finish for finish in batch.finish if finish is not None),
        notes=batch.notes,
    )


def merged_stats(parts: Sequence[TraceStats]) -> TraceStats:
    """Return the statistics of all parts together; the order of the parts does not matter for counts and quantiles."""
    whole: dict[str, Sketch] = {name: Sketch() for name in ("entropy", "surprisal", "length", "reward")}
    for part in parts:
        for name in whole:
            whole[name] = merged(whole[name], getattr(part, name))

    def counted(name: str) -> Counter[str]:
        return sum((Counter(getattr(part, name)) for part in parts), Counter())

    return TraceStats(
        responses=sum(part.responses for part in parts),
        tokens=sum(part.tokens for part in parts),
        types=merged_types([part.types for part in parts]),
        kinds=counted("kinds"),
        verdicts=counted("verdicts"),
        finishes=counted("finishes"),
        notes=merged_notes(note for part in parts for note in part.notes),
        entropy=whole["entropy"],
        surprisal=whole["surprisal"],
        length=whole["length"],
        reward=whole["reward"],
    )


def trace_stats(batches: Iterable[TraceBatch]) -> TraceStats:
    """Return the statistics of a stream, one batch in memory at a time."""
    found = TraceStats()
    for batch in batches:
        found = merged_stats([found, batch_stats(batch)])
    return found


def merged_types(parts: Sequence[TypeStats]) -> TypeStats:
    """Return entropy by token type over all parts."""
    filled = [part for part in parts if part.keys]
    if len(filled) < 2:
        return filled[0] if filled else TypeStats()
    place: dict[str | int, int] = {}
    at = np.array([place.setdefault(key, len(place)) for part in filled for key in part.keys], np.int64)
    count = np.bincount(at, np.concatenate([part.count for part in filled]))  # exact below 2^53
    total = np.bincount(at, np.concatenate([part.total for part in filled]))
    return TypeStats(keys=tuple(place), count=count.astype(np.int64), total=total.astype(np.float64))
