"""Where the tokens of an answer's reasoning and of its steps are.

The studies force final answers on the model, so they need the place where the reasoning ends.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from forkpoint.verify.endings import Convention, Ending, convention, same_form

__all__ = ["Convention", "Ending", "convention", "same_form", "steps_of", "token_at"]


def token_at(tokenizer: Any, ids: Sequence[int], character: int) -> int:
    """Return how many tokens of an answer lie wholly before a character of its text."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer.decode(list(ids[:middle]), skip_special_tokens=True)) <= character:
            low = middle
        else:
            high = middle - 1
    return low


def steps_of(tokenizer: Any, ids: Sequence[int], text: str, ending: Ending, step: re.Pattern[str]) -> list[list[int]]:
    """Return the token ids of the reasoning before a final answer, cut into steps; none where there is no reasoning.

    Args:
        tokenizer: turns ids into text.
        ids: of the whole answer.
        text: the whole answer.
        ending: its final answer.
        step: what ends a step.
    """
    size = token_at(tokenizer, ids, ending.start)
    # A token that holds the end of one step and the start of the next belongs to the first.
    ends = [token_at(tokenizer, ids, match.end() - 1) + 1 for match in step.finditer(text[: ending.start])]
    cuts = sorted({0, size, *(end for end in ends if end < size)})
    return [list(ids[first:last]) for first, last in itertools.pairwise(cuts)]
