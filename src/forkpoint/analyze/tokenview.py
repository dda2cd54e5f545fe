"""A few answers of a run, token by token, coloured by entropy or by credit.

Model output is hostile text: characters that would hide or reorder it are made visible here, and the template
escapes the rest, once.
"""

from __future__ import annotations

import bisect
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from forkpoint.analyze.rundata import column_tokens, is_list, number, table_rows
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from pyarrow import Table

ENTROPY_EDGES = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Borders of the nine colours of the token view, in nats: fixed, so that reports compare."""
COLUMNS = (
    "prompt_id", "sample", "prompt", "answer", "tokens", "logp", "entropy", "credit", "reward",
    "verdict", "finish",
)  # fmt: skip
"""The columns of a rollout file the token view needs."""
TOKENS_SHOWN, PROMPT_SHOWN = 600, 2000
_KEPT_FORMATS = {"\n", "\t", "\u200c", "\u200d"}


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """One coloured token: its visible text, the classes that colour it, and what hovering says."""

    text: str
    classes: str
    tip: str


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer as the page shows it."""

    verdict: str
    facts: str
    prompt: str
    answer: str
    tokens: tuple[TokenView, ...]
    hidden: int


def visible(text: str) -> str:
    r"""Return text with every character that could hide, reorder or end it shown instead of obeyed.

    Control characters, bidirectional marks, zero-width and unassigned characters become their code
    point. Line breaks, tabs and the joiners that scripts need stay.

    >>> visible("a\x00b\u202ec")
    'a⟨U+0000⟩b⟨U+202E⟩c'
    """
    return "".join(char if char.isprintable() else _visible(char) for char in text)


def _visible(char: str) -> str:
    if char in _KEPT_FORMATS or unicodedata.category(char) in ("Zs", "Co"):
        return char
    return f"⟨U+{ord(char):04X}⟩"


def completions(table: Table, each: int = 5) -> list[Completion]:
    """Return some right and some wrong answers of one rollout file, from different prompts where possible.

    Args:
        table: One rollout file with `COLUMNS`.
        each: How many right and how many wrong ones; unjudged ones fill up where there are too few.

    Returns:
        Right ones first, in the order of the file.

    Raises:
        InputError: a column is missing or does not hold a list for every answer.
    """
    require_columns(table)
    keys = table_rows(table.select(["prompt_id", "verdict"]), range(table.num_rows))
    right, wrong = (_choose(keys, verdict, each) for verdict in ("right", "wrong"))
    rest = _choose(keys, None, max(0, 2 * each - len(right) - len(wrong)))
    rows = table_rows(table.select(list(COLUMNS)), right + wrong + rest)
    credits = [abs(number(value)) for row in rows for value in row["credit"] or ()]
    scale = max((value for value in credits if math.isfinite(value)), default=0.0)
    return [_completion(row, scale) for row in rows]


def require_columns(table: Table) -> None:
    """Raise `InputError` naming what the token view lacks in a rollout file."""
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(f"the rollouts have no column {', '.join(missing)}")
    for name in ("entropy", "logp", "credit"):
        column_tokens(table, name)
    if not is_list(table.schema.field("tokens").type):
        raise InputError("column tokens does not hold a list of texts for every answer")


def _choose(keys: Sequence[dict[str, Any]], verdict: str | None, count: int) -> list[int]:
    """Return up to `count` rows of a verdict (None: neither right nor wrong), new prompts before repeated."""
    fits = [
        index
        for index, key in enumerate(keys)
        if key["verdict"] == verdict or (verdict is None and key["verdict"] not in ("right", "wrong"))
    ]
    first = {keys[index]["prompt_id"]: index for index in reversed(fits)}
    new = [index for index in fits if first[keys[index]["prompt_id"]] == index]
    repeated = [index for index in fits if first[keys[index]["prompt_id"]] != index]
    return sorted((new + repeated)[:count])


def _completion(row: dict[str, Any], scale: float) -> Completion:
    tokens = row["tokens"] or []
    columns = [[number(value) for value in row[name] or ()] for name in ("entropy", "logp", "credit")]
    # A short column leaves the tokens beyond its end without that number, never with a neighbour's.
    padded = [column + [math.nan] * (len(tokens) - len(column)) for column in columns]
    entropies = np.array(padded[0][: len(tokens)])
    mean = f"{np.nanmean(entropies):.3f} nats" if np.isfinite(entropies).any() else "n/a"
    shown = list(zip(tokens, *padded, strict=False))[:TOKENS_SHOWN]
    prompt = str(row["prompt"] or "")
    facts = {
        "prompt": row["prompt_id"],
        "sample": row["sample"],
        "reward": f"{number(row['reward']):.3g}",
        "tokens": len(tokens),
        "mean entropy": mean,
        "ended by": row["finish"],
    }
    return Completion(
        verdict=str(row["verdict"]),
        facts=" · ".join(f"{name} {value}" for name, value in facts.items()),
        prompt=prompt[:PROMPT_SHOWN] + (" …" if len(prompt) > PROMPT_SHOWN else ""),
        answer=str(row["answer"] if row["answer"] is not None else ""),
        tokens=tuple(_token(index, text, e, p, c, scale) for index, (text, e, p, c) in enumerate(shown, start=1)),
        hidden=len(tokens) - len(shown),
    )


def _token(index: int, text: str | None, entropy: float, logp: float, credit: float, scale: float) -> TokenView:
    classes = ["t"]
    if math.isfinite(entropy):
        classes.append(f"e{bisect.bisect_right(ENTROPY_EDGES, entropy)}")
    if math.isfinite(credit) and credit != 0 and scale > 0:
        strength = min(3, 1 + int(3 * abs(credit) / scale * (1 - 1e-9)))
        classes += ["k", f"{'p' if credit > 0 else 'n'}{strength}"]
    probability = math.exp(min(logp, 0.0)) if math.isfinite(logp) else math.nan
    tip = (
        f"token {index}: entropy {_digits(entropy, '.3f')} nats, "
        f"probability {_digits(100 * probability, '.2f')} %, "
        f"credit {_digits(credit, '+.3f') if credit else 'none'}"
    )
    # An empty token (half a character, say) still has to be seen and hovered.
    shown = visible(text or "▯").replace("\n", "↵\n").replace("\t", "⇥\t")
    return TokenView(text=shown, classes=" ".join(classes), tip=tip)


def _digits(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else "n/a"
