"""Pretraining chains for Countdown: searches in which every choice is drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forkpoint.rollouts import Prompt
from forkpoint.tasks.countdown import (
    CHAIN_STREAM,
    CONNECTIVES,
    GIVE_UP,
    LARGEST_RESULT,
    MAX_ATTEMPTS,
    OPERATORS,
    SETTINGS,
    countdown_prompt,
    draw_problem,
    open_operators,
)
from forkpoint.tasks.streams import random_stream


def vocabulary() -> tuple[str, ...]:
    """Return every word a prompt or an answer can contain, in the order of the shipped tokenizer.

    >>> len(vocabulary())
    117
    """
    words = (
        *SETTINGS.values(),
        "target",
        ":",
        ",",
        "=",
        *OPERATORS,
        *CONNECTIVES,
        "yes",
        "no",
        "again",
        "stop",
    )
    return (*words, *map(str, range(LARGEST_RESULT + 1)))


def pretraining_chain(seed: int, position: int, setting: str | None = None) -> tuple[Prompt, str]:
    """Return one pretraining example: a problem that is not held out and a randomly drawn search.

    Args:
        seed: seed of the stream.
        position: place in the stream.
        setting: `countdown` or `countdown-coin`; None draws one with equal chances.

    Returns:
        The prompt and the answer, without the end token.
    """
    rng = random_stream(seed, position, CHAIN_STREAM)
    drawn = list(SETTINGS)[int(rng.integers(len(SETTINGS)))]
    prompt = countdown_prompt(setting or drawn, *draw_problem(rng, heldout=False))
    return prompt, random_search(prompt, rng)


def random_search(prompt: Prompt, rng: np.random.Generator) -> str:
    """Return a search whose every choice is drawn at random, in the style the prompt asks for."""
    coin = prompt.text.split()[0] == SETTINGS["countdown-coin"]
    words: list[str] = []
    for attempt in range(MAX_ATTEMPTS):
        if attempt and coin:
            words.append("again")
        words.append(_pick(rng, CONNECTIVES))
        value = _random_attempt(prompt.meta["numbers"], rng, words)
        if value == prompt.meta["target"]:
            return " ".join([*words, "yes"])
        words.append("no")
        if rng.random() < GIVE_UP:
            break
    return " ".join([*words, "stop"])


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _random_attempt(numbers: Sequence[int], rng: np.random.Generator, words: list[str]) -> int:
    a, b, c = (numbers[i] for i in rng.permutation(3))
    first = open_operators(a, b)
    op, middle = first[int(rng.integers(len(first)))]
    words += [str(a), op, str(b), "=", str(middle), ",", str(middle)]
    second = open_operators(middle, c)
    op, value = second[int(rng.integers(len(second)))]
    words += [op, str(c), "=", str(value)]
    return value
