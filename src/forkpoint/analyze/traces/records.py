"""Records of single responses, from wherever, as trace batches.

A record is a dict of one response: `tokens` (texts), `ids`, `logp`, `entropy`, `rank`, `advantage`, `credit`, `kept`
and `phase` are lists over its tokens, `top` a list of (text, id, log-prob) tuples for each token; the rest are the
columns of the trace format. Whatever is not there is not known. Everything comes from strangers and is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.rundata import number
from forkpoint.analyze.traces.trace import (
    ENTROPY_KINDS,
    Alternatives,
    Note,
    TraceBatch,
    TraceEntropyKind,
    checked,
    lower_bound,
    utf8,
)

Record = dict[str, Any]

_NUMBERS = ("logp", "entropy", "rank", "advantage", "credit", "kept", "phase")


class BadRecordError(ValueError):
    """A response that cannot be used; the message is a clause such as `field 'logp' is missing`."""


@np.errstate(over="ignore", invalid="ignore")  # numbers that float32 cannot hold become infinite, which is noted
def batch_of(
    records: Sequence[Record],
    *,
    file: str,
    places: Sequence[int] | None = None,
    unit: Literal["row", "line", "answer"] = "line",
    notes: Sequence[Note] = (),
    entropy_kind: TraceEntropyKind | None = None,
) -> TraceBatch:
    """Return records as one batch; a record that cannot be used is left out and noted.

    Args:
        records: see the module.
        file: where they come from.
        places: row or line of each, from 1; 1, 2, ... where not given.
        unit: what places count.
        notes: of what was left out before.
        entropy_kind: of entropies whose record does not say; a lower bound where not given, since the entropy of
            a cut distribution cannot be told from that of the whole one.
    """
    kept: list[Record] = []
    kept_places: list[int] = []
    left_out = list(notes)
    for record, place in zip(records, places or range(1, len(records) + 1), strict=True):
        try:
            kept.append(_normal(record, entropy_kind or "lower-bound"))
            kept_places.append(place)
        except BadRecordError as error:
            left_out.append(Note(what=str(error), count=1, first=f"{file} {unit} {place}"))
    codes: dict[str, int] = {}
    lengths = [record["length"] for record in kept]
    total = sum(lengths)
    text_N = [_code(codes, text) for record in kept for text in record["tokens"] or [None] * record["length"]]
    logp_N = _flat(kept, "logp", np.float32, math.nan)
    entropy_N = _flat(kept, "entropy", np.float32, math.nan)
    top, in_top_N = _top(kept, codes, logp_N, total)
    bound_N = lower_bound(logp_N, top, in_top_N)
    bounded_N = np.repeat(np.array([record["bounded"] for record in kept], bool), lengths)
    optional = {
        f"{name}_N": _flat(kept, name, kind, fill) if any(record.get(name) for record in kept) else None
        for name, kind, fill in _OPTIONAL
    }
    return checked(
        TraceBatch(
            file=file,
            unit=unit,
            place_R=np.array(kept_places, np.int64),
            offsets_R=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            texts=tuple(codes),
            text_N=np.array(text_N, np.int32),
            id_N=_flat(kept, "ids", np.int32, -1),
            logp_N=logp_N,
            entropy_N=np.where(bounded_N, bound_N, entropy_N),
            entropy_kind=tuple(record["kind"] for record in kept),
            rank_N=np.maximum(_flat(kept, "rank", np.int32, 0), _rank(logp_N, top, in_top_N)),
            top=top if len(top.logp_M) else None,
            **cast(Any, optional),
            **cast(Any, {name: tuple(as_text(record.get(name)) for record in kept) for name in _TEXTS}),
            sample_R=np.array([_whole(record.get("sample")) for record in kept], np.int32),
            step_R=np.array([_whole(record.get("step")) for record in kept], np.int64),
            reward_R=np.array([number(record.get("reward")) for record in kept], np.float64),
            notes=tuple(left_out),
        )
    )


_TEXTS = ("prompt_id", "prompt", "answer", "completion", "verdict", "finish")
_OPTIONAL: tuple[tuple[str, Any, Any], ...] = (
    ("advantage", np.float32, math.nan), ("credit", np.float32, math.nan), ("kept", np.bool_, False),
    ("phase", np.int8, 0),
)  # fmt: skip


def _normal(record: Record, unsaid: TraceEntropyKind) -> Record:
    """Return a record whose lists are of one length and hold numbers, and which says what its entropy is."""
    out = dict(record)
    lists = {name: record[name] for name in ("tokens", "ids", "top", *_NUMBERS) if record.get(name) is not None}
    lengths = {name: len(as_sequence(value, name)) for name, value in lists.items()}
    first = next(iter(lengths), None)
    out["length"] = lengths[first] if first is not None else 0
    for name, length in lengths.items():
        if length != out["length"]:
            raise BadRecordError(f"field {name!r} has {length} entries for {out['length']} tokens in field {first!r}")
    out["tokens"] = [as_token(value) for value in lists["tokens"]] if "tokens" in lists else None
    out["ids"] = [as_id(value) for value in lists["ids"]] if "ids" in lists else None
    for name in _NUMBERS:
        if name in lists:
            out[name] = [as_number(value, name) for value in lists[name]]
    kind = record.get("entropy_kind")
    if kind is not None and kind not in ENTROPY_KINDS:
        raise BadRecordError(f"entropy_kind is none of {', '.join(ENTROPY_KINDS)}")
    own = "entropy" in lists
    out["bounded"] = not own and ("logp" in lists or "top" in lists)
    out["kind"] = (kind or unsaid) if own else "lower-bound" if out["bounded"] and out["length"] else "none"
    return out


def _top(
    records: Sequence[Record], codes: dict[str, int], logp_N: NDArray[np.float32], total: int
) -> tuple[Alternatives, NDArray[np.bool_]]:
    """Return all alternatives, and where the sampled token is (or may be) among them."""
    counts, ids, texts, logps = [], [], [], []
    in_top_N, n = np.zeros(total, bool), 0
    for record in records:
        entries = record.get("top") or [()] * record["length"]
        for place, entry in enumerate(entries):
            counts.append(len(entry))
            text = record["tokens"][place] if record["tokens"] else None
            token = record["ids"][place] if record["ids"] else -1
            for other, other_id, logp in entry:
                ids.append(other_id)
                texts.append(_code(codes, other))
                logps.append(logp)
                # Counted twice the sum would be no lower bound, so equal texts count as the same token.
                by_id = other_id >= 0 and token >= 0
                in_top_N[n] |= other_id == token if by_id else other is not None and other == text
            # A token at least as likely as the last of the list belongs to the list, whatever its text.
            in_top_N[n] |= bool(entry) and bool(logp_N[n] >= entry[-1][2])
            n += 1
    offsets = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)
    return Alternatives(
        offsets_N=offsets, id_M=np.array(ids, np.int32), text_M=np.array(texts, np.int32),
        logp_M=np.array(logps, np.float32),
    ), in_top_N  # fmt: skip


def _rank(logp_N: NDArray[np.float32], top: Alternatives, in_top_N: NDArray[np.bool_]) -> NDArray[np.int32]:
    token_M = np.repeat(np.arange(len(logp_N)), np.diff(top.offsets_N))
    above = np.bincount(token_M, top.logp_M > logp_N[token_M], minlength=len(logp_N))
    return np.where(in_top_N & (np.diff(top.offsets_N) > 0), above + 1, 0).astype(np.int32)


def _flat(records: Sequence[Record], name: str, kind: Any, fill: Any) -> NDArray[Any]:
    values = (v for r in records for v in (r.get(name) or [fill] * r["length"]))
    return np.array([fill if v != v else v for v in values], dtype=kind)


def _code(codes: dict[str, int], text: str | None) -> int:
    return -1 if text is None else codes.setdefault(text, len(codes))


def as_sequence(value: Any, name: str) -> Sequence[Any]:
    """Return a list as it is."""
    if not isinstance(value, list | tuple):
        raise BadRecordError(f"field {name!r} is not a list")
    return value


def as_number(value: Any, name: str) -> float:
    """Return an entry of a list of numbers, NaN for null."""
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or (abs(value) >= 2**31 and name in ("rank", "phase")):
        raise BadRecordError(f"field {name!r} holds something that is not a number, or too large a one")
    return value if isinstance(value, int) and abs(value) < 2**31 else number(value)


def as_token(value: Any) -> str | None:
    """Return a token text that can be written."""
    if value is not None and not isinstance(value, str):
        raise BadRecordError("field 'tokens' holds something that is not text")
    return None if value is None else utf8(value)


def as_id(value: Any) -> int:
    """Return a token id, -1 where it is not known."""
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 2**31:
        raise BadRecordError("field 'ids' holds something that is not a token id")
    return value


def as_text(value: Any) -> str | None:
    """Return a value as text: None stays None, the contents of chat messages are joined by line breaks.

    >>> as_text([{"role": "user", "content": "2 + 2"}]), as_text(4)
    ('2 + 2', '4')
    """
    if value is None:
        return None
    if isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value):
        parts = (item.get("content") for item in value)
        return utf8("\n".join(part for part in parts if isinstance(part, str)))
    return utf8(value if isinstance(value, str) else str(value))


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else -1
