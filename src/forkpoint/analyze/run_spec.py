"""The conditions under which a run evaluates, read from what it wrote."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from forkpoint.analyze.rundata import RunData, table_rows
from forkpoint.evaluate.spec import EvalSpec

if TYPE_CHECKING:
    from pyarrow import Table


def run_spec(run: RunData, table: Table | None = None) -> EvalSpec | None:
    """Return the conditions under which a run evaluates, from its recipe; None where it has none.

    Args:
        run: The run.
        table: Its evaluation, for the hash of the problems.
    """
    recipe = run.recipe.get("recipe")
    if not isinstance(recipe, dict) or not recipe:
        return None

    def said(section: str, key: str) -> Any:
        part = recipe.get(section)
        return part.get(key) if isinstance(part, dict) else None

    versions = run.recipe.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    engine = _text(said("decode", "engine"))
    seed = run.recipe.get("seed", recipe.get("seed"))
    decoding = {key: said("eval", key) for key in ("temperature", "top_p")}
    decoding |= {"max_tokens": said("decode", "max_tokens")}
    verifier = [_text(said("task", key)) for key in ("verifier", "extraction")]
    return EvalSpec(
        dataset=_text(said("task", "heldout") or said("task", "train") or said("task", "name")),
        dataset_version=_text(said("task", "heldout_split")),
        dataset_hash=None if table is None else _problem_hash(table),
        problems=_whole(said("eval", "problems")),
        prompt_template=_text(said("prompt", "template")),
        samples=_whole(said("eval", "samples")),
        decoding={key: value for key, value in decoding.items() if isinstance(value, int | float)},
        seeds=(seed,) if isinstance(seed, int) else None,
        engine=engine,
        engine_version=_text(versions.get("vllm" if engine == "vllm" else "forkpoint")),
        dtype=_text(said("model", "dtype")),
        parallelism=_text(run.recipe.get("device")),
        verifier=", ".join(filter(None, verifier)) or None,
        verifier_version=_text(versions.get("math-verify")),
    )


def _problem_hash(table: Table) -> str | None:
    wanted = [name for name in ("prompt_id", "prompt", "answer") if name in table.column_names]
    if "prompt_id" not in wanted:
        return None
    rows = {tuple(str(value) for value in row.values()) for row in table_rows(table.select(wanted), range(len(table)))}
    return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()[:16]


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
