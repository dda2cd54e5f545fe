"""Countdown: reach a target from three numbers with + - *, reasoning by written-out search.

An answer is a sequence of attempts, each thirteen tokens long::

    first 3 * 12 = 36 , 36 - 7 = 29 no wait 12 + 7 = 19 , 19 * 3 = 57 no stop

Every attempt works from left to right, `(a op b) op c`: the second step starts with the result of the
first, and `c op (a op b)` is not written. Every number that is ever written lies in 0..99, so an operator is
open only where its result does. What can be chosen (connective, first number, operator, second number,
operator) forks; everything else follows from what is already written.

Two settings share the problems and one model; the first word of the prompt selects between them. After a
failed attempt `countdown` draws once among giving up and four connectives, a wide fork. `countdown-coin`
first draws `again` or `stop`, a coin whose entropy can never pass ln 2, then a connective.

Problems are identified by their sorted numbers and target. A stable hash holds a fifth of them out of every
stream that trains, pretraining included.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.tasks.streams import random_stream
from forkpoint.tasks.task import Task

SETTINGS: Mapping[str, str] = {"countdown": "countdown", "countdown-coin": "coin"}
"""Setting name to the word its prompts start with."""
CONNECTIVES = ("first", "maybe", "alternatively", "wait")
OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
LARGEST_NUMBER = 12
"""Given numbers are drawn from 1 to this."""
LARGEST_RESULT = 99
"""No number above this is written, and none below 0."""
MAX_ATTEMPTS = 8
GIVE_UP = 0.4
"""Probability that a pretraining chain stops after a failed attempt."""
MIN_CHANCE = 0.05
"""A target is posed only where a random attempt reaches it at least this often."""
HELDOUT_SHARE = 5
"""One identity in this many is held out."""

PROMPT_STREAM, CHAIN_STREAM, HELDOUT_STREAM = range(3)
"""What the random streams of one seed are used for."""


def open_operators(left: int, right: int) -> tuple[tuple[str, int], ...]:
    """Return the operators whose result stays in 0..99, each with that result.

    >>> open_operators(7, 12)
    (('+', 19), ('*', 84))
    """
    results = ((name, apply(left, right)) for name, apply in OPERATORS.items())
    return tuple((name, value) for name, value in results if 0 <= value <= LARGEST_RESULT)


@functools.cache
def attempt_values(numbers: tuple[int, int, int]) -> Mapping[int, float]:
    """Return what one random attempt ends in: every final value with its probability.

    Order and operators are uniform, as in pretraining; the probabilities sum to 1 and do not depend on the
    order of `numbers`.

    >>> attempt_values((1, 1, 1))[3]
    0.1111111111111111
    """
    chance: dict[int, float] = {}
    orders = list(itertools.permutations(numbers))
    for a, b, c in orders:
        first = open_operators(a, b)
        for _, middle in first:
            second = open_operators(middle, c)
            for _, value in second:
                chance[value] = chance.get(value, 0.0) + 1 / (len(orders) * len(first) * len(second))
    return chance


@functools.cache
def targets(numbers: tuple[int, int, int]) -> Mapping[int, float]:
    """Return the targets posed for three numbers with the weight they are drawn with.

    A target is positive and reached by at least `MIN_CHANCE` of random attempts; it is drawn in proportion
    to how often it is reached. The weights sum to 1.
    """
    chance = {value: p for value, p in sorted(attempt_values(numbers).items()) if value > 0 and p >= MIN_CHANCE}
    total = sum(chance.values())
    return {value: p / total for value, p in chance.items()}


def is_heldout(numbers: Sequence[int], target: int) -> bool:
    """Say whether a problem is kept for evaluation, whatever the order of its numbers."""
    identity = " ".join(map(str, (*sorted(numbers), target)))
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELDOUT_SHARE == 0


def countdown_prompt(setting: str, numbers: Sequence[int], target: int) -> Prompt:
    """Return the problem of reaching `target` from `numbers` in this order.

    >>> countdown_prompt("countdown", (3, 7, 12), 29).text
    'countdown 3 7 12 target 29 :'
    """
    word = SETTINGS[_known(setting)]
    listed = " ".join(map(str, numbers))
    return Prompt(
        id="-".join(map(str, (word, *numbers, target))),
        text=f"{word} {listed} target {target} :",
        answer=str(target),
        meta={"numbers": tuple(numbers), "target": target},
    )


def countdown_task(setting: str = "countdown", heldout: int = 256, seed: int = 0) -> Task:
    """Return the task in one of its two settings.

    Args:
        setting: `countdown` or `countdown-coin`.
        heldout: how many distinct held-out problems to pose, at least 1.
        seed: fixes the held-out set, and nothing else: the training stream has its own seed.

    Returns:
        The task; both settings pose the same problems.

    Raises:
        InputError: an unknown setting, or more held-out problems than there are.
    """
    _known(setting)
    return Task(
        name=setting,
        train_prompt=functools.partial(_train_prompt, setting),
        heldout=tuple(countdown_prompt(setting, *problem) for problem in _heldout_problems(heldout, seed)),
        judge=countdown_judge,
    )


def countdown_judge(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Judgement]:
    """Judge answers by their last attempt.

    An answer is right when it ends in a complete attempt that uses every number once, whose two steps are
    true, whose second step starts from the first result, whose final value is the target, and that says
    `yes`. What precedes that attempt does not count. The problem is read from the text of the prompt; where
    that is no countdown problem the answer is not judged.

    Args:
        prompts: the P problems.
        texts: one answer each, special tokens removed.

    Returns:
        One judgement per answer with reward 1 or 0 and the part `answer`.

    Raises:
        InputError: the two sequences differ in length.
    """
    if len(prompts) != len(texts):
        raise InputError(f"{len(prompts)} prompts and {len(texts)} answers; give one answer per prompt.")
    return [_judge(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]


def _known(setting: str) -> str:
    if setting not in SETTINGS:
        raise InputError(f"unknown countdown setting {setting!r}; {did_you_mean(setting, SETTINGS)}")
    return setting


def draw_problem(rng: np.random.Generator, *, heldout: bool) -> tuple[tuple[int, int, int], int]:
    """Draw three numbers and a target, on the given side of the held-out split."""
    while True:
        a, b, c = (int(n) for n in rng.integers(1, LARGEST_NUMBER + 1, 3))
        posed = targets((a, b, c))
        target = int(rng.choice(list(posed), p=list(posed.values())))
        if is_heldout((a, b, c), target) == heldout:
            return (a, b, c), target


def _train_prompt(setting: str, seed: int, position: int) -> Prompt:
    problem = draw_problem(random_stream(seed, position, PROMPT_STREAM), heldout=False)
    return countdown_prompt(setting, *problem)


@functools.cache
def _heldout_problems(count: int, seed: int) -> tuple[tuple[tuple[int, ...], int], ...]:
    everything = {
        (numbers, target)
        for numbers in itertools.combinations_with_replacement(range(1, LARGEST_NUMBER + 1), 3)
        for target in targets(numbers)
        if is_heldout(numbers, target)
    }
    if not 1 <= count <= len(everything):
        raise InputError(
            f"heldout = {count} problems cannot be posed; choose 1 to {len(everything)} of the held-out ones."
        )
    rng = random_stream(seed, 0, HELDOUT_STREAM)
    found: dict[tuple[tuple[int, ...], int], tuple[tuple[int, ...], int]] = {}
    while len(found) < count:
        numbers, target = draw_problem(rng, heldout=True)
        found.setdefault((tuple(sorted(numbers)), target), (numbers, target))
    return tuple(found.values())


def _number(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() and len(word) <= 6 else None


def _read_problem(text: str) -> tuple[list[int], int] | None:
    match text.split():
        case [_, *listed, "target", target, ":"]:
            numbers = [_number(word) for word in (*listed, target)]
            known = [n for n in numbers if n is not None]
            if len(known) == len(numbers) == 4:
                return known[:3], known[3]
    return None


def _judge(prompt: Prompt, text: str) -> Judgement:
    problem = _read_problem(prompt.text)
    if problem is None:
        return Judgement(verdict=Verdict.UNJUDGED, reward=0.0, detail="no countdown problem in the prompt")
    fault = _fault(*problem, text.split())
    reward = 0.0 if fault else 1.0
    return Judgement(
        verdict=Verdict.WRONG if fault else Verdict.RIGHT,
        reward=reward,
        parts={"answer": reward},
        detail=fault or "reached",
    )


def _fault(numbers: list[int], target: int, words: list[str]) -> str:
    """Return what is wrong with the end of an answer, or nothing."""
    if not words or words[-1] != "yes":
        return "gave up" if words and words[-1] == "stop" else "no final yes"
    match words[-13:-1]:
        case [connective, a, op1, b, "=", m, ",", start, op2, c, "=", e] if connective in CONNECTIVES:
            written = [_number(word) for word in (a, b, m, start, c, e)]
        case _:
            return "last attempt is not complete"
    if None in written or op1 not in OPERATORS or op2 not in OPERATORS:
        return "last attempt is not arithmetic"
    left, right, middle, again, third, value = (n for n in written if n is not None)
    if sorted((left, right, third)) != sorted(numbers):
        return "does not use the given numbers once each"
    if again != middle:
        return "second step does not start from the first result"
    if OPERATORS[op1](left, right) != middle or OPERATORS[op2](middle, third) != value:
        return "false arithmetic"
    return "" if value == target else f"ends in {value}, not {target}"
