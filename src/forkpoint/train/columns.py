"""The columns of `Rollouts.extra` that a chain reads, filled after verification and only where they are read.

`FILLED` names what can be filled without help. Anything else comes from the program in `columns.program`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forkpoint.errors import TrainingError, did_you_mean
from forkpoint.model import HeadKind
from forkpoint.rollouts import Rollouts
from forkpoint.train.columns_program import Program, program_columns
from forkpoint.train.columns_scored import FORMULAS, attention_column, distribution_columns, hidden_column
from forkpoint.train.columns_table import ColumnsTable
from forkpoint.train.columns_text import (
    Spans,
    header_numbers,
    padded,
    phrase_marks,
    phrase_pattern,
    spans_of,
    step_numbers,
    thinking_marks,
    token_of,
)
from forkpoint.train.rescore import scored
from forkpoint.verify.endings import Convention, Ending
from forkpoint.verify.reward import answer_classes


@dataclass(frozen=True, kw_only=True)
class Context:
    """What columns are made from, besides the rollouts."""

    table: ColumnsTable
    tokenizer: Any
    convention: Convention
    """How the task's answers end."""
    model: Any
    """The policy, with the weights that sampled."""
    temperature: float
    dtype: str = "float32"
    head: HeadKind = "fused"
    program: Program | None = None


def step_column(spans: list[Spans], rollouts: Rollouts, context: Context) -> Tensor:
    """Return the number of the step every token belongs to, int64 (B, T), -1 for none."""
    header = context.table.step_header
    if header is not None:
        rows = [header_numbers(one, re.compile(header)) for one in spans]
    else:
        step = context.table.step
        boundary = context.convention.step if step is None else re.compile(step)
        rows = [step_numbers(one, boundary) for one in spans]
    return padded(rows, rollouts.mask_BT, -1)


def planning_column(spans: list[Spans], rollouts: Rollouts, context: Context) -> Tensor:
    """Return which tokens share a character with a planning phrase, bool (B, T)."""
    phrases = phrase_pattern(context.table.planning)
    return padded([phrase_marks(one, phrases) for one in spans], rollouts.mask_BT, False)


def thinking_column(spans: list[Spans], rollouts: Rollouts, context: Context) -> Tensor:
    """Return which tokens come before the end of the closing marker, bool (B, T); none without a marker."""
    return padded([thinking_marks(one, context.table.thinking) for one in spans], rollouts.mask_BT, False)


def anchor_column(spans: list[Spans], rollouts: Rollouts, context: Context) -> Tensor:
    """Return the first token of the final answer's marker, int64 (B,), -1 where there is none."""
    expression = context.table.anchor
    find = context.convention.find if expression is None else last_match(expression)
    endings = [find(one.text) for one in spans]
    tokens = [-1 if end is None else token_of(one, end.start) for one, end in zip(spans, endings, strict=True)]
    return torch.tensor(tokens, device=rollouts.ids_BT.device)


def class_column(rollouts: Rollouts, context: Context) -> Tensor:
    """Return which answers of a group are the same, int64 (B,). See `forkpoint.verify.reward.answer_classes`."""
    expression = context.table.answer
    return answer_classes(rollouts, context.convention.find if expression is None else last_match(expression))


def kind_column(rollouts: Rollouts, context: Context) -> Tensor:
    """Return the kind of every row's problem, int64 (B,): equal values of its metadata field, else all 0.

    Raises:
        TrainingError: a problem lacks the field.
    """
    field = context.table.kind
    if field is None:
        return torch.zeros_like(rollouts.group_B)
    lacking = next((prompt for prompt in rollouts.prompts if field not in prompt.meta), None)
    if lacking is not None:
        hint = did_you_mean(field, lacking.meta)
        raise TrainingError(f"columns.kind = {field!r}, and problem {lacking.id!r} has no such field: {hint}")
    values = [str(prompt.meta[field]) for prompt in rollouts.prompts]
    number = {value: index for index, value in enumerate(sorted(set(values)))}
    return torch.tensor([number[value] for value in values], device=rollouts.group_B.device)[rollouts.group_B]


def turn_column(rollouts: Rollouts, context: Context) -> Tensor:
    """Return 0 for every token: an answer here is one turn. int64 (B, T)."""
    return torch.zeros_like(rollouts.ids_BT)


def last_match(expression: str) -> Callable[[str], Ending | None]:
    r"""Return the function that finds the last match of an expression: its group, where it has one, is the answer.

    >>> last_match(r"= (\d+)")("1 = 1 , so = 23 yes")
    Ending(answer='23', opener='= ', start=11)
    """
    pattern = re.compile(expression)

    def find(text: str) -> Ending | None:
        match = next(reversed(list(pattern.finditer(text))), None)
        if match is None:
            return None
        group = 1 if pattern.groups and match[1] is not None else 0
        return Ending(answer=match[group], opener=text[match.start() : match.start(group)], start=match.start())

    return find


def taken_again(rollouts: Rollouts, context: Context) -> Rollouts:
    """Return the rollouts with log-probs of the model that trains, and those of the engine as `sampler_logp`.

    Importance ratios are then against the model, so that a link can weigh what lies between it and the engine. Rows
    sampled at another temperature have the model's log-probs from the start: NaN.
    """
    logp_BT, _ = scored(
        context.model, rollouts, temperature=context.temperature, dtype=context.dtype, head=context.head
    )
    sampler_BT = rollouts.logp_BT.clone()
    if "explore" in rollouts.extra:
        sampler_BT[rollouts.extra["explore"]] = torch.nan
    return dataclasses.replace(rollouts, logp_BT=logp_BT, extra={**rollouts.extra, "sampler_logp": sampler_BT})


TEXT: Mapping[str, Callable[[list[Spans], Rollouts, Context], Tensor]] = {
    "step": step_column,
    "planning": planning_column,
    "thinking": thinking_column,
    "anchor": anchor_column,
}
"""Columns that need to know where every token stands in the text."""
ROWS: Mapping[str, Callable[[Rollouts, Context], Tensor]] = {
    "cluster": class_column,
    "error_class": class_column,
    "kind": kind_column,
    "turn": turn_column,
    "hidden": lambda rollouts, context: hidden_column(context.model, rollouts, dtype=context.dtype),
    "attention_entropy": lambda rollouts, context: attention_column(
        context.model, rollouts, dtype=context.dtype, layer=context.table.attention_layer
    ),
}
"""Columns that are made one by one."""
FILLED = frozenset({*TEXT, *ROWS, *FORMULAS, "sampler_logp"})
"""Every column that can be filled without a program."""


def filled(rollouts: Rollouts, needs: Collection[str], context: Context) -> Rollouts:
    """Return the rollouts with the columns that are needed and not there.

    The program sees the others and what it gives counts.

    Args:
        rollouts: verified answers.
        needs: names of the columns that the chain reads.
        context: what columns are made from.

    Raises:
        TrainingError: the program failed or did not give what it alone can, or a problem has no such metadata.
    """
    wanted = sorted(set(needs) - rollouts.extra.keys())
    here = [name for name in wanted if name in FILLED and (name != "planning" or context.table.planning)]
    if "sampler_logp" in here:
        rollouts = taken_again(rollouts, context)
    extra = {**rollouts.extra, **{name: ROWS[name](rollouts, context) for name in here if name in ROWS}}
    if any(name in TEXT for name in here):
        spans = spans_of(rollouts, context.tokenizer, context.table.thinking)
        extra |= {name: TEXT[name](spans, rollouts, context) for name in here if name in TEXT}
    formulas = [name for name in here if name in FORMULAS]
    if formulas:
        extra |= distribution_columns(
            context.model, rollouts, formulas, temperature=context.temperature, dtype=context.dtype,
            head=context.head, min_p=context.table.min_p,
        )  # fmt: skip
    rollouts = dataclasses.replace(rollouts, extra=extra)
    if context.program is None:
        return rollouts
    given = program_columns(context.program, rollouts, context.tokenizer)
    for name in wanted:
        if name not in here and name not in given:
            hint = did_you_mean(name, given) if given else "it gave nothing"
            raise TrainingError(f"columns.program gave no {name!r}, which the chain reads: {hint}")
    return dataclasses.replace(rollouts, extra={**extra, **given})
