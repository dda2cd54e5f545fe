"""Recorded answers as the rollouts they were: what a run's parquet files hold, as the values that credit reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forkpoint.analyze.rundata import table_rows
from forkpoint.errors import InputError
from forkpoint.rollouts import Rollouts
from forkpoint.train.offline_data import rollouts_of_rows

if TYPE_CHECKING:
    from pyarrow import Table

COLUMNS = (
    "prompt_id", "sample", "prompt", "answer", "completion", "ids", "logp", "entropy", "entropy_kind", "reward",
    "reward_parts", "verdict", "finish", "version",
)  # fmt: skip
"""What is read; `prompt_id`, `ids`, `logp`, `entropy` and `reward` must be there."""
_REQUIRED = ("prompt_id", "ids", "logp", "entropy", "reward")


def rollouts_of_table(table: Table, *, max_tokens: int | None = None) -> Rollouts:
    """Return the rollouts of one parquet file of a run, all on the CPU, as `rollouts_of_rows` makes them.

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
    return rollouts_of_rows(rows, max_tokens=max_tokens)
