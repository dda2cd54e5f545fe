"""What is wrong with a recipe, in the words of its author."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forkpoint.errors import did_you_mean
from forkpoint.train.schema import Recipe, settings

_SHOWN = 5
"""Mistakes told at once."""


def explain(error: ValidationError, path: Path) -> str:
    """Return one line a mistake, without the vocabulary of the validator."""
    items = [item for item in error.errors(include_url=False) if not _follows(item)]
    lines = list(dict.fromkeys(_sentence(item, path) for item in items))
    more = [f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join(lines[:_SHOWN] + more)


def _follows(item: Any) -> bool:
    """Return whether a mistake only repeats others: a list of wrong links counts as empty too."""
    return item["loc"] == ("credit", "chain") and bool(item["input"])


def _sentence(item: Any, path: Path) -> str:
    loc = [str(part) for part in item["loc"]]
    if loc[:1] == ["credit"]:
        loc = [part for part in loc if part not in ("method", "chain")] + (
            ["method"] if loc[-2:] == ["method"] * 2 else []
        )
    loc = [part for part in loc if part != "str" and "[" not in part]  # the branches of a union are no settings
    name = ".".join(loc)
    kind = item["type"]
    if name.startswith("model.lora.targets") and kind != "value_error":
        return "model.lora.targets must be 'all-linear' or a list of layer names such as ['q_proj']"
    if kind == "extra_forbidden":
        return f"{name} is not a setting: {_nearest(name)}"
    if item["loc"] == ("credit", "chain"):
        return "credit is an empty list: name a method or list links as [[credit]] tables"
    if kind == "string_pattern_mismatch":
        reason = "must be letters, digits, dots, dashes and underscores: it names a folder"
        return f"{name} = {item['input']!r} {reason}"
    if kind == "missing" and loc[-1].isdecimal():
        return f"{'.'.join(loc[:-1])} has too few values"
    if kind == "missing":
        if loc[:1] == ["credit"]:
            return f'{path}: [credit] must name a method (method = "forking") or list links as [[credit]] tables'
        return f"{name} is missing: add it to {path} or give {name}=… on the command line"
    if kind == "value_error":
        reason = str(item["ctx"]["error"])
        # A rule over several settings names them itself; a rule of one setting leaves that to us.
        return reason if "model_type" in kind or re.match(r"(task|train|reward)\b", reason) else f"{name} {reason}"
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        return f"{name} = {item['input']!r} is unknown: {did_you_mean(str(item['input']), options)}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"{name} must be a table, not {item['input']!r}"
    reason = item["msg"].replace("Input should be", "must be")
    return f"{name} = {item['input']!r}: {reason[0].lower()}{reason[1:]}"


def _nearest(name: str) -> str:
    """Return the nearest valid setting: by another trainer's name, in its table, elsewhere, in full."""
    table, _, leaf = name.rpartition(".")
    valid = list(settings())
    if leaf in _ELSEWHERE:
        return f"did you mean {_ELSEWHERE[leaf]!r}?"
    same = [other for other in valid if other.rpartition(".")[2] == leaf]
    if same:
        return f"did you mean {' or '.join(map(repr, same))}?"
    siblings = [other for other in valid if other.rpartition(".")[0] == table]
    close = difflib.get_close_matches(leaf, [other.rpartition(".")[2] for other in siblings], n=1, cutoff=0.5)
    if close:
        return f"did you mean {f'{table}.{close[0]}'.lstrip('.')!r}?"
    if siblings and table:
        return f"[{table}] has {', '.join(other.rpartition('.')[2] for other in siblings)}"
    close = difflib.get_close_matches(name, Recipe.model_fields, n=1) or difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else did_you_mean(name, Recipe.model_fields)


_ELSEWHERE = {
    "learning_rate": "train.lr",
    "batch_size": "train.prompts",
    "train_batch_size": "train.prompts",
    "mini_batch_size": "train.mini_prompts",
    "num_generations": "train.group",
    "max_steps": "train.steps",
    "max_grad_norm": "train.grad_clip",
    "num_iterations": "train.epochs",
    "warmup_steps": "train.warmup",
    "max_new_tokens": "decode.max_tokens",
    "max_completion_length": "decode.max_tokens",
    "max_prompt_length": "prompt.max_tokens",
}
"""What other trainers call some of the settings."""
