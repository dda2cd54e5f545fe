"""Verifiers by the names that benchmark files use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from forkpoint.errors import InputError, did_you_mean
from forkpoint.evaluate.benchmark import Benchmark
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.sandbox.protections import PROTECTIONS, protections
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
"""Verifiers that run programs, in a sandbox."""
WHOLE = ("countdown", "search", "code-tests", "lean")
"""Verifiers that read the whole of a text."""
PROBE = "q"
"""An answer that takes algebra to tell from a reference, and little of it."""
NUMBER = "0.10203040506"
"""A number that no reference is: a reference that can be told from it without algebra is a number itself."""


def make_judge(benchmark: Benchmark, verifiers: Mapping[str, Callable[..., Judge]] = VERIFIERS) -> Judge:
    """Return the verifier of a benchmark.

    Raises:
        InputError: there is none of that name, or it has no such setting.
    """
    name, settings = benchmark.verifier.name, benchmark.verifier.settings
    make = verifiers.get(name)
    if make is None:
        raise InputError(
            f"benchmark {benchmark.name} names no known verifier, {name!r}: {did_you_mean(name, verifiers)}"
        )
    known = inspect.signature(make).parameters
    for setting in settings:
        if setting not in known:
            hint = did_you_mean(setting, known)
            raise InputError(f"benchmark {benchmark.name}: verifier {name!r} has no setting {setting!r}; {hint}")
        if not _fits(settings[setting], known[setting].default):
            raise InputError(
                f"benchmark {benchmark.name}: {setting} = {settings[setting]!r} of verifier {name!r} is of another "
                f"kind than its default, {known[setting].default!r}"
            )
    return make(**settings)


def _fits(value: Any, default: Any) -> bool:
    """Return whether a setting is of the kind of its default: a number, a list, a text, true or false.

    >>> _fits(3, 5.0), _fits("soon", 5.0), _fits(["a"], ()), _fits("a", ()), _fits(0.1, "")
    (True, False, True, False, True)
    """
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, Sequence) and not isinstance(default, str):
        return isinstance(value, Sequence) and not isinstance(value, str)
    # A tolerance is a text or a number.
    return isinstance(value, str | int | float if default == "" else type(default)) or default is None


def extraction(benchmark: Benchmark) -> Callable[[str], str | None] | None:
    """Return what takes the final answer out of a text, None where the verifier reads the whole of it."""
    usual = "" if benchmark.verifier.name in WHOLE else "boxed"
    return EXTRACTIONS.get(str(benchmark.verifier.settings.get("extraction", usual)))


def equality(benchmark: Benchmark, judge: Judge) -> Callable[[str, str], bool]:
    """Return the verified equality of two final answers, for votes: the judge decides where it takes algebra.

    A verifier that reads a rule in every problem has none for two answers alone; they are compared as mathematics.
    The caller closes what it was given; the one that is made here ends with the program. Predicted outputs are Python,
    which mathematics would misread: their judge decides alone.
    """
    arbiter = make_verifier("math") if benchmark.verifier.name == "olympiad" else judge

    def equal(first: str, answer: str) -> bool:
        same = None if benchmark.verifier.name in PROGRAMS else exactly_equal(first, answer)
        if same is not None:
            return same
        found = arbiter([Prompt(id="", text="", answer=first)], [rf"\boxed{{{answer}}}"])
        return found[0].verdict is Verdict.RIGHT

    return equal


def unreadable(prompts: Sequence[Prompt], judge: Judge) -> list[tuple[str, str]]:
    r"""Return the references that cannot be judged: problem id and why.

    Answers to such problems are not judged unless they are the reference word for word; it is better known before
    anything is sampled. A judge that has a function `unreadable` says it itself; else each reference is judged against
    the symbol q.
    """
    own: Callable[[Sequence[Prompt]], list[tuple[str, str]]] | None = getattr(judge, "unreadable", None)
    if own is not None:
        return own(prompts)
    asked = [prompt for prompt in prompts if not prompt.answer or exactly_equal(prompt.answer, NUMBER) is None]
    found: list[Judgement] = judge(asked, [rf"\boxed{{{PROBE}}}"] * len(asked))
    pairs = zip(asked, found, strict=True)
    return [(prompt.id, one.detail) for prompt, one in pairs if one.verdict is Verdict.UNJUDGED]


def surroundings(benchmark: Benchmark) -> str:
    """Return what a verdict depends on besides versions: what holds programs back on this machine; empty for others.

    >>> surroundings(Benchmark(name="b", title="t", licence="l"))
    ''
    """
    if benchmark.verifier.name not in PROGRAMS:
        return ""
    found = protections()
    open_to = [text for name, text in PROTECTIONS.items() if name not in found.active]
    lacks = f"; not active: {'; '.join(open_to)}" if open_to else ""
    return f"sandbox on {found.platform} with {', '.join(sorted(found.layers)) or 'no layer of the kernel'}{lacks}"


def close(judge: Any) -> None:
    """End the processes of a verifier that has any."""
    end = getattr(judge, "close", None)
    if end is not None:
        end()
