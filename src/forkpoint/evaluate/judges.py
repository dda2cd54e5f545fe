"""Verifiers by the names that benchmark files use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from forkpoint.errors import InputError, did_you_mean
from forkpoint.evaluate.benchmark import Benchmark
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.tasks.countdown import countdown_judge
from forkpoint.tasks.task import Judge
from forkpoint.verify.exact import exactly_equal
from forkpoint.verify.extract import EXTRACTIONS
from forkpoint.verify.verifiers import VERIFIERS as ANSWERS
from forkpoint.verify.verifiers import make_verifier


def _countdown() -> Judge:
    return countdown_judge


VERIFIERS: Mapping[str, Callable[..., Judge]] = {**ANSWERS, "countdown": _countdown}
"""Name -> a function of the settings that returns the verifier."""
PROGRAMS = ("code-tests", "code-output")
"""Verifiers that run programs, which takes a sandbox."""
WHOLE = ("countdown", "search", "code-tests")
"""Verifiers that read the whole of a text."""
PROBE = "q"
"""An answer that takes algebra to tell from a reference, and little of it."""
NUMBER = "0.10203040506"
"""A number that no reference is: a reference that can be told from it without algebra is a number itself."""


def make_judge(benchmark: Benchmark, verifiers: Mapping[str, Callable[..., Judge]] = VERIFIERS) -> Judge:
    """Return the verifier of a benchmark.

    Raises:
        InputError: there is none of that name, it has no such setting, or it runs programs and there is no sandbox.
    """
    name, settings = benchmark.verifier.name, benchmark.verifier.settings
    make = verifiers.get(name)
    if make is None and name in PROGRAMS:
        raise InputError(
            f"benchmark {benchmark.name} needs the verifier {name!r}, which runs what a model wrote: no sandbox that "
            "could run it safely is registered here"
        )
    if make is None:
        raise InputError(
            f"benchmark {benchmark.name} names no known verifier, {name!r}: {did_you_mean(name, verifiers)}"
        )
    known = inspect.signature(make).parameters
    for setting in settings:
        if setting not in known:
            hint = did_you_mean(setting, known)
            raise InputError(f"benchmark {benchmark.name}: verifier {name!r} has no setting {setting!r}; {hint}")
    return make(**settings)


def extraction(benchmark: Benchmark) -> Callable[[str], str | None] | None:
    """Return what takes the final answer out of a text, None where the verifier reads the whole of it."""
    usual = "" if benchmark.verifier.name in WHOLE else "boxed"
    return EXTRACTIONS.get(str(benchmark.verifier.settings.get("extraction", usual)))


def equality(benchmark: Benchmark, judge: Judge) -> Callable[[str, str], bool]:
    """Return the verified equality of two final answers, for votes: the judge decides where it takes algebra.

    A verifier that reads a rule in every problem has none for two answers alone; they are compared as mathematics.
    The caller closes what it was given; the one that is made here ends with the program.
    """
    arbiter = make_verifier("math") if benchmark.verifier.name == "olympiad" else judge

    def equal(first: str, answer: str) -> bool:
        same = exactly_equal(first, answer)
        if same is not None:
            return same
        found = arbiter([Prompt(id="", text="", answer=first)], [rf"\boxed{{{answer}}}"])
        return found[0].verdict is Verdict.RIGHT

    return equal


def unreadable(prompts: Sequence[Prompt], judge: Judge) -> list[tuple[str, str]]:
    r"""Return the references that cannot be judged: problem id and why.

    Answers to such problems are not judged unless they are the reference word for word; it is better known before
    anything is sampled. Each reference is judged against the symbol q.
    """
    asked = [prompt for prompt in prompts if not prompt.answer or exactly_equal(prompt.answer, NUMBER) is None]
    found: list[Judgement] = judge(asked, [rf"\boxed{{{PROBE}}}"] * len(asked))
    pairs = zip(asked, found, strict=True)
    return [(prompt.id, one.detail) for prompt, one in pairs if one.verdict is Verdict.UNJUDGED]


def close(judge: Any) -> None:
    """End the processes of a verifier that has any."""
    end = getattr(judge, "close", None)
    if end is not None:
        end()
