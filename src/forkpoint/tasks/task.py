"""What a task is: prompts to train on, prompts held out, and a verifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forkpoint.rollouts import Judgement, Prompt

Judge = Callable[[Sequence[Prompt], Sequence[str]], list[Judgement]]
"""A verifier: prompts and answers in, one judgement each out. Never raises because of what a model wrote."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A source of problems and the verifier that goes with them."""

    name: str
    train_prompt: Callable[[int, int], Prompt]
    """`(seed, position) -> Prompt`: a pure function, so a position is all the state a run has to keep."""
    heldout: tuple[Prompt, ...]
    """Problems never used for training."""
    judge: Judge
