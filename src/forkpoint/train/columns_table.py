"""`[columns]` of a recipe: what the columns are made from that some links read."""

from __future__ import annotations

import re

from pydantic import field_validator, model_validator

from forkpoint.train.schema_types import Natural, Share, Table, Words


class ColumnsTable(Table):
    r"""`[columns]`: where steps, phrases, final answers and the like stand. Only what the chain reads is computed."""

    step: str | None = None
    """Regular expression at whose end a step ends. None takes the task's: a blank line, in Countdown a failed
    attempt."""
    step_header: str | None = None
    """In place of `step`: regular expression of what opens a step, such as `(?m)^### Step \\d+:`. What comes before
    the first belongs to no step."""
    thinking: str = "</think>"
    """Text that closes the thinking phase, which it belongs to. An answer without it has none."""
    anchor: str | None = None
    """Regular expression whose last match marks the final answer. None takes what the verifier reads, such as the
    last box."""
    answer: str | None = None
    """Regular expression whose last match (its group, where it has one) is the final answer by which wrong answers
    are told apart. None takes what the verifier reads."""
    planning: Words = ()
    """Phrases that are planning, whole words in any case: `["let's check", "alternatively"]`."""
    kind: str | None = None
    """Field of every problem's metadata whose value is its kind. None puts all problems into one."""
    min_p: Share = 0.02
    """Of `proxy_logp`: tokens below this share of the largest probability are noise (arXiv 2510.03222)."""
    attention_layer: Natural | None = None
    """Of `attention_entropy`: the layer, counted from 0. None takes the middle one."""
    explore_share: Share = 0.25
    """Share of a batch's problems that are sampled again at another temperature (arXiv 2510.08141)."""
    program: str | None = None
    """`path/to/file.py:function`, a function `(rollouts, tokenizer) -> {name: tensor}` that gives any column."""

    @field_validator("step", "step_header", "anchor", "answer")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value:
            raise ValueError("is empty: write a regular expression, or leave it out")
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"= {value!r} is no regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _one_kind_of_step(self) -> ColumnsTable:
        if self.step is not None and self.step_header is not None:
            raise ValueError("has both step, which ends one, and step_header, which opens one: leave one out")
        return self

    @field_validator("thinking")
    @classmethod
    def _marks(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is blank: write the text that closes the thinking phase")
        return value

    @field_validator("planning")
    @classmethod
    def _says_something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(phrase.strip() for phrase in value):
            raise ValueError("has a blank phrase: every phrase needs a word")
        return value

    @field_validator("program")
    @classmethod
    def _names_a_function(cls, value: str | None) -> str | None:
        if value is not None:
            path, _, function = value.rpartition(":")
            if not path.endswith(".py") or not function.isidentifier():
                raise ValueError(f"= {value!r} must read path/to/file.py:function")
        return value
