"""Answers as parquet: a row per answer, lists over its tokens, padding left out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forkpoint.rollouts import Rollouts
from forkpoint.train.files import INTACT, atomic_file, disk_errors

_SHARED = {
    "step": "int32", "prompt_id": "string", "sample": "int32", "prompt": "string", "answer": "string",
    "completion": "string", "ids": "list<int32>", "tokens": "list<string>", "logp": "list<float>",
    "entropy": "list<float>", "entropy_kind": "string", "verdict": "string", "reward": "float", "finish": "string",
}  # fmt: skip
EVAL_COLUMNS = _SHARED
ROLLOUT_COLUMNS = _SHARED | {
    "group": "int32", "advantage": "list<float>", "credit": "list<float>", "kept": "list<bool>",
    "reward_parts": "string", "version": "int64",
}  # fmt: skip


def answer_columns(step: int, rollouts: Rollouts, token_text: Callable[[int], str]) -> dict[str, Any]:
    """Return the columns that rollouts and evaluations share, by name."""
    prompts = [rollouts.prompts[group] for group in rollouts.group_B.tolist()]
    mask_BT = rollouts.mask_BT
    unique, inverse = torch.unique(rollouts.ids_BT[mask_BT], return_inverse=True)
    texts = [token_text(token) for token in unique.tolist()]
    B = rollouts.rows
    return {
        "step": [step] * B,
        "prompt_id": [prompt.id for prompt in prompts],
        "sample": rollouts.sample_B.tolist(),
        "prompt": [prompt.text for prompt in prompts],
        "answer": [prompt.answer for prompt in prompts],
        "completion": list(rollouts.text),
        "ids": lists(rollouts.ids_BT.int(), mask_BT),
        "tokens": _nested([texts[i] for i in inverse.tolist()], mask_BT),
        "logp": lists(rollouts.logp_BT.float(), mask_BT),
        "entropy": lists(rollouts.entropy_BT.float(), mask_BT),
        "entropy_kind": [rollouts.entropy_kind] * B,
        "verdict": [str(verdict) for verdict in rollouts.verdicts] or [None] * B,
        "reward": [None] * B if rollouts.reward_B is None else rollouts.reward_B.tolist(),
        "finish": list(rollouts.finish),
    }


def reward_parts(rollouts: Rollouts) -> list[str]:
    """Return the named parts of every answer's reward as a JSON object."""
    parts = {name: part.tolist() for name, part in rollouts.reward_parts.items()}
    return [json.dumps({name: json_value(part[row]) for name, part in parts.items()}) for row in range(rollouts.rows)]


def extra_columns(rollouts: Rollouts) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the columns of `Rollouts.extra` with at most one number a token, and their types, by name."""
    columns: dict[str, Any] = {}
    types: dict[str, str] = {}
    for name, column in rollouts.extra.items():
        if column.ndim > 2:
            continue
        kind = "bool" if column.dtype == torch.bool else "float" if column.is_floating_point() else "int64"
        value = column.float() if kind == "float" else column.long() if kind == "int64" else column
        columns[f"extra.{name}"] = value.tolist() if column.ndim == 1 else lists(value, rollouts.mask_BT)
        types[f"extra.{name}"] = kind if column.ndim == 1 else f"list<{kind}>"
    return columns, types


def lists(values_BT: Tensor, mask_BT: Tensor) -> Any:
    """Return a list per row of the values where the mask is set."""
    return _nested(values_BT.detach()[mask_BT].cpu().numpy(), mask_BT)


def _nested(flat: Any, mask_BT: Tensor) -> Any:
    import pyarrow as pa

    lengths = mask_BT.sum(1).cpu()
    offsets = [0, *lengths.cumsum(0).tolist()]
    values = pa.array(flat, pa.string()) if isinstance(flat, list) else pa.array(flat)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def write_table(path: Path, columns: Mapping[str, Any], types: Mapping[str, str]) -> Path:
    """Write a zstd parquet file that appears whole or not at all; types are as in `EVAL_COLUMNS`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    scalars = {"int32": pa.int32(), "int64": pa.int64(), "string": pa.string(), "float": pa.float32()}
    scalars["bool"] = pa.bool_()
    kinds = scalars | {f"list<{name}>": pa.list_(inner) for name, inner in scalars.items()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in types.items()])
    table = pa.table({name: columns[name] for name in types}, schema=schema)
    with (
        disk_errors(f"{path.parent.name}/{path.name}", path.parent.parent, INTACT),
        atomic_file(path) as temporary,
    ):
        pq.write_table(table, temporary, compression="zstd")
    return path


def json_value(value: Any) -> Any:
    """Return a number or a 0-dim tensor as JSON takes it; NaN and infinity become None."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
