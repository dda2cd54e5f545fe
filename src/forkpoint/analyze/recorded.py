"""Recorded answers as the rollouts they were: what a run's parquet files hold, as the values that credit reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from forkpoint.analyze.rundata import number, table_rows
from forkpoint.errors import InputError
from forkpoint.rollouts import EntropyKind, Prompt, Rollouts, Verdict

if TYPE_CHECKING:
    from pyarrow import Table

COLUMNS = (
    "prompt_id", "sample", "prompt", "answer", "completion", "ids", "logp", "entropy", "entropy_kind", "reward",
    "reward_parts", "verdict", "finish", "version",
)  # fmt: skip
"""What is read; `prompt_id`, `ids`, `logp`, `entropy` and `reward` must be there."""
_REQUIRED = ("prompt_id", "ids", "logp", "entropy", "reward")


def rollouts_of_table(table: Table, *, max_tokens: int | None = None) -> Rollouts:
    """Return the rollouts of one parquet file of a run, all on the CPU.

    Numbers are float64. Answers to one problem form a group. An answer whose verdict is neither right nor wrong, or
    whose reward is missing or not finite, counts as not judged. Prompt ids are not recorded: every prompt is one 0.

    Args:
        table: from `forkpoint.analyze.rundata.read_rollouts`.
        max_tokens: the longest answer the decoder allowed, where it is known.

    Raises:
        InputError: no rows, a column is missing, or the lists of an answer differ in length.
    """
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise InputError(f"the rollouts have no column {', '.join(missing)}: they cannot be credited again")
    rows = table_rows(table.select([name for name in COLUMNS if name in table.column_names]), range(table.num_rows))
    if not rows:
        raise InputError("the file holds no answers: choose another step")
    for place, row in enumerate(rows):
        lengths = {len(row[name] or ()) for name in ("ids", "logp", "entropy")}
        if len(lengths) != 1:
            raise InputError(
                f"answer {place} has lists of {sorted(lengths)} tokens where ids, logp and entropy must agree"
            )
    T = max(len(row["ids"] or ()) for row in rows)
    mask_BT = torch.tensor([[t < len(row["ids"] or ()) for t in range(T)] for row in rows]).reshape(len(rows), T)
    names = list(dict.fromkeys(str(row["prompt_id"]) for row in rows))
    first = {name: next(row for row in rows if str(row["prompt_id"]) == name) for name in names}
    reward_B = torch.tensor([number(row["reward"]) for row in rows], dtype=torch.float64)
    verdicts = tuple(_verdict(row.get("verdict")) for row in rows)
    told = any(row.get("verdict") is not None for row in rows)
    judged_B = reward_B.isfinite()
    if told:
        judged_B &= torch.tensor([verdict is not Verdict.UNJUDGED for verdict in verdicts])
    seen: dict[str, int] = {}
    return Rollouts(
        prompts=tuple(
            Prompt(id=name, text=str(first[name].get("prompt") or ""), answer=first[name].get("answer"))
            for name in names
        ),
        prompt_BS=torch.zeros(len(rows), 1, dtype=torch.int64),
        prompt_length_B=torch.ones(len(rows), dtype=torch.int64),
        ids_BT=_padded(rows, "ids", mask_BT).to(torch.int64),
        mask_BT=mask_BT,
        group_B=torch.tensor([names.index(str(row["prompt_id"])) for row in rows]),
        sample_B=torch.tensor([_sample(row, seen) for row in rows]),
        logp_BT=_padded(rows, "logp", mask_BT),
        entropy_BT=_padded(rows, "entropy", mask_BT),
        finish=tuple(str(row.get("finish") or "stop") for row in rows),
        text=tuple(str(row.get("completion") or "") for row in rows),
        reward_B=torch.where(judged_B, reward_B, 0.0),
        reward_parts=_parts(rows),
        judged_B=judged_B,
        verdicts=verdicts if told else (),
        max_tokens=max_tokens,
        version=int(rows[0].get("version") or 0),
        entropy_kind=_kind(rows),
    )


def _padded(rows: Sequence[dict[str, Any]], name: str, mask_BT: Tensor) -> Tensor:
    out = torch.zeros(mask_BT.shape, dtype=torch.float64)
    flat = np.array([number(value) for row in rows for value in row[name] or ()], dtype=np.float64)
    out[mask_BT] = torch.from_numpy(flat)
    return out


def _verdict(text: object) -> Verdict:
    return next((verdict for verdict in Verdict if verdict == text), Verdict.UNJUDGED)


def _sample(row: dict[str, Any], seen: dict[str, int]) -> int:
    """Return the sample's number, or its place among the answers to its problem where it has none."""
    name = str(row["prompt_id"])
    seen[name] = seen.get(name, -1) + 1
    given = row.get("sample")
    return seen[name] if given is None else int(given)


def _parts(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    found: list[dict[str, Any]] = []
    for row in rows:
        try:
            parts = json.loads(row.get("reward_parts") or "{}")
        except (ValueError, RecursionError):
            parts = {}
        found.append(parts if isinstance(parts, dict) else {})
    names = dict.fromkeys(name for parts in found for name in parts)
    return {
        name: torch.tensor([number(parts.get(name, 0.0)) for parts in found], dtype=torch.float64) for name in names
    }


def _kind(rows: Sequence[dict[str, Any]]) -> EntropyKind:
    kinds = {row.get("entropy_kind") for row in rows}
    return "lower-bound" if "lower-bound" in kinds else "rescored" if "rescored" in kinds else "exact"
