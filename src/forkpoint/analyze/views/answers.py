"""Choosing the answers a page shows, and reading their tokens from a table of rollouts or traces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.rundata import column_tokens, is_list, number, table_rows
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from pyarrow import Table

COLUMNS = (
    "prompt_id", "sample", "prompt", "answer", "tokens", "logp", "entropy", "entropy_kind", "advantage", "credit",
    "weight", "kept", "rank", "top_tokens", "top_logp", "reward", "verdict", "finish",
)  # fmt: skip
"""The columns the token view uses; all but `tokens` may be missing."""
TOKENS_SHOWN, ALTERNATIVES_SHOWN = 4000, 5
_NUMBERS = ("logp", "entropy", "advantage", "credit", "weight", "rank")

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer with what is known of each of its tokens; None where nothing is."""

    source: str
    """Where it comes from, such as `step 1`."""
    verdict: str
    """`right`, `wrong`, `unjudged` or what the file says."""
    tokens: tuple[str | None, ...]
    """Texts of the tokens shown, N of them."""
    total: int
    """Tokens of the whole answer, >= N."""
    prompt_id: str = ""
    sample: str = ""
    prompt: str = ""
    reference: str = ""
    reward: float = math.nan
    finish: str = ""
    lower_bound: bool = False
    """The entropies come from the most likely tokens alone and may be too small."""
    logp: Floats | None = None
    """(N,) log-prob of the sampled token, NaN where not known; the other arrays likewise."""
    entropy: Floats | None = None
    """(N,) nats."""
    advantage: Floats | None = None
    credit: Floats | None = None
    """(N,) advantage times weight where the token is kept, else 0."""
    weight: Floats | None = None
    kept: NDArray[np.bool_] | None = None
    """(N,) whether the token counts in the loss."""
    rank: NDArray[np.uint32] | None = None
    """(N,) 1 for the most likely token, 0 where not known."""
    top_tokens: tuple[tuple[str | None, ...], ...] = ()
    """Per token its most likely alternatives, or nothing at all."""
    top_logp: tuple[tuple[float, ...], ...] = ()


def answers(table: Table, *, source: str, count: int = 100) -> list[Answer]:
    """Return some answers of a table: half of them right and half wrong, from different prompts where possible.

    Args:
        table: rollouts, evaluations or traces, with any of `COLUMNS`.
        source: what the page calls the table, such as `step 1`.
        count: how many at most; the other verdict and unjudged answers fill up where one is short.

    Returns:
        Answers in the order of the file.

    Raises:
        InputError: there are no tokens, or a column does not hold a list of numbers for every answer.
    """
    check_columns(table)
    chosen = choose(_texts(table, "prompt_id"), _texts(table, "verdict"), count)
    here = [name for name in COLUMNS if name in table.column_names]
    # Row by row: hundreds of long answers as Python objects at once would take hundreds of megabytes.
    return [_answer(row, source) for place in chosen for row in table_rows(table.select(here), [place])]


def check_columns(table: Table) -> None:
    """Raise `InputError` naming the first column that is missing or holds something else than it should."""
    if "tokens" not in table.column_names or not is_list(table.schema.field("tokens").type):
        raise InputError("the rollouts have no column tokens that holds a list of texts for every answer")
    for name in _NUMBERS:
        if recorded(table, name):
            column_tokens(table.slice(0, 0), name)


def recorded(table: Table, name: str) -> bool:
    """Return whether a table has a column that holds more than nulls by its type."""
    import pyarrow as pa

    if name not in table.column_names:
        return False
    kind = table.schema.field(name).type
    return not pa.types.is_null(kind.value_type if is_list(kind) else kind)


def choose(prompts: Sequence[str], verdicts: Sequence[str], count: int) -> list[int]:
    """Return the places of up to `count` answers, half right and half wrong, new prompts before repeated ones.

    >>> choose(["a", "a", "b", "b"], ["right", "right", "wrong", "right"], 3)
    [0, 2, 3]
    """
    half = {"right": (count + 1) // 2, "wrong": count // 2}
    picked = [place for verdict, size in half.items() for place in _new_first(prompts, verdicts, {verdict})[:size]]
    rest = [place for place in _new_first(prompts, verdicts, set(verdicts)) if place not in set(picked)]
    return sorted(picked + rest[: max(0, count - len(picked))])


def _new_first(prompts: Sequence[str], verdicts: Sequence[str], wanted: set[str]) -> list[int]:
    fits = [place for place, verdict in enumerate(verdicts) if verdict in wanted]
    first = {prompts[place]: place for place in reversed(fits)}
    return sorted(fits, key=lambda place: first[prompts[place]] != place)


def _answer(row: dict[str, Any], source: str) -> Answer:
    tokens = tuple(None if text is None else str(text) for text in (row["tokens"] or ())[:TOKENS_SHOWN])
    size = len(tokens)
    known: dict[str, Any] = {name: _numbers(row.get(name), size) for name in _NUMBERS}
    rank, kept = known.pop("rank"), row.get("kept")
    if known["weight"] is None:
        known["weight"] = weight_of(known["advantage"], known["credit"])
    return Answer(
        source=source,
        verdict=str(row.get("verdict") or "unjudged"),
        tokens=tokens,
        total=len(row["tokens"] or ()),
        prompt_id=_text(row.get("prompt_id")),
        sample=_text(row.get("sample")),
        prompt=_text(row.get("prompt")),
        reference=_text(row.get("answer")),
        reward=number(row.get("reward")),
        finish=_text(row.get("finish")),
        lower_bound=row.get("entropy_kind") == "lower-bound",
        kept=np.array([bool(k) for k in kept[:size]] + [False] * (size - len(kept)), bool) if kept else None,
        rank=None if rank is None else np.nan_to_num(np.maximum(rank, 0)).astype(np.uint32),
        **known,
        **_alternatives(row, size),
    )


def _texts(table: Table, name: str) -> list[str]:
    if name not in table.column_names:
        return [""] * table.num_rows
    return [str(row[name]) for row in table_rows(table.select([name]), range(table.num_rows))]


def _alternatives(row: dict[str, Any], size: int) -> dict[str, Any]:
    texts, logps = row.get("top_tokens"), row.get("top_logp")
    if not texts or not logps:
        return {}
    # Both lists are cut to the shorter one: a text never stands beside a neighbour's number.
    pairs = [
        list(zip(t or (), p or (), strict=False))[:ALTERNATIVES_SHOWN]
        for t, p in zip(texts[:size], logps[:size], strict=False)
    ]
    pairs += [[]] * (size - len(pairs))
    return {
        "top_tokens": tuple(tuple(None if t is None else str(t) for t, _ in found) for found in pairs),
        "top_logp": tuple(tuple(number(p) for _, p in found) for found in pairs),
    }


def _numbers(values: Sequence[Any] | None, size: int) -> Floats | None:
    """Return a list as (size,) numbers: a short one leaves NaN beyond its end, never a neighbour's number."""
    if values is None or not len(values):
        return None
    out = np.full(size, np.nan, np.float32)
    # The column holds numbers and nulls (`check_columns`), and numpy reads a null as NaN.
    kept = np.array(values[:size], dtype=np.float64)
    out[: len(kept)] = kept
    return out if np.isfinite(out).any() else None


def weight_of(advantage: Floats | None, credit: Floats | None) -> Floats | None:
    """Return credit over advantage, 0 where a token got no credit although its answer had an advantage."""
    if advantage is None or credit is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(advantage != 0, credit / advantage, np.float32(np.nan)).astype(np.float32)
    return weight if np.isfinite(weight).any() else None


def _text(value: object) -> str:
    return "" if value is None else str(value)
