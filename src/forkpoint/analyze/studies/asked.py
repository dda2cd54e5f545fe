"""Which studies are asked for, and all of them on one source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkpoint.analyze.measures.flat import check_share
from forkpoint.analyze.studies.checkpoints import checkpoint_panels, checkpoint_study
from forkpoint.analyze.studies.divergence import divergence_panels, divergence_study
from forkpoint.analyze.studies.forced import forced_panels, forced_study
from forkpoint.analyze.studies.runs import closed, described, moments, subject_of_run
from forkpoint.analyze.studies.study import Study, attempted, noted
from forkpoint.analyze.studies.subject import Say, Subject, problems_of, subject_of_model, traces_of, written
from forkpoint.analyze.studies.temperatures import check_temperatures, temperature_panels, temperature_study
from forkpoint.analyze.traces.sampling import ModelSettings, ids_of
from forkpoint.analyze.traces.sources import is_run
from forkpoint.analyze.traces.trace import Traces
from forkpoint.errors import InputError
from forkpoint.rollouts import Rollouts


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The studies that are wanted; none by default."""

    checkpoints: bool = False
    temperatures: tuple[float, ...] = ()
    divergence: int = 0
    """Answers to intervene on."""
    forced: int = 0
    """Answers to force the final answer on."""
    share: float = 0.2
    """Tokens that count as most uncertain, in (0, 1]."""

    @property
    def names(self) -> list[str]:
        """The options that ask for a study."""
        wanted = {"--checkpoints": self.checkpoints, "--temperatures": bool(self.temperatures)}
        wanted |= {"--divergence": bool(self.divergence), "--forced": bool(self.forced)}
        return [name for name, asked in wanted.items() if asked]


def asked_for(
    *, checkpoints: bool, temperatures: str | None, divergence: int | None, forced: int | None, share: float
) -> Asked:
    """Return what the arguments of a command ask for.

    >>> asked_for(checkpoints=False, temperatures="0.5,1", divergence=8, forced=None, share=0.2).names
    ['--temperatures', '--divergence']

    Raises:
        InputError: a value out of range; the option is named.
    """
    try:
        check_share(share)
    except InputError as error:
        raise InputError(f"--{error}") from error
    values = () if temperatures is None else tuple(_number(word) for word in temperatures.split(","))
    if temperatures is not None:
        check_temperatures(values)
    for name, count in (("--divergence", divergence), ("--forced", forced)):
        if count is not None and count < 1:
            raise InputError(f"{name} is {count} and must be 1 answer or more")
    return Asked(
        checkpoints=checkpoints, temperatures=values, divergence=divergence or 0, forced=forced or 0, share=share
    )


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"--temperatures has {word.strip()!r}: give numbers with commas, such as 0.5,1,1.5") from None


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What the command line says of the answers; None leaves it to the recipe of a run, or to `ModelSettings`."""

    problems: int | None = None
    group: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    template: str | None = None
    seed: int | None = None

    def given(self) -> dict[str, Any]:
        """Return what is said, by name, without the number of problems."""
        named = ("group", "max_tokens", "temperature", "template", "seed")
        return {name: getattr(self, name) for name in named if getattr(self, name) is not None}


@dataclass(frozen=True, kw_only=True)
class Studied:
    """What the studies of one source found."""

    studies: tuple[Study, ...]
    traces: Traces | None
    """The answers that were drawn, where the source is a model; a run's page shows its own rollouts."""
    about: Mapping[str, Any]
    """What was studied."""
    close: Callable[[], None]
    """Ends what the verifier holds; to be called when the traces have been read."""


def studied(
    source: str,
    asked: Asked,
    changes: Changes,
    *,
    prompts: Path | None = None,
    verifier: str | None = None,
    extraction: str | None = None,
    say: Say = lambda line: None,
) -> Studied:
    """Make every study that is asked for; one that cannot be made leaves its reason in its panel.

    Answers are drawn once and shared by all studies; each sees the model of a run's newest intact checkpoint.

    Args:
        source: a run directory, or with `prompts` a model.
        asked: the studies, one or more.
        changes: to how answers are drawn.
        prompts: file of problems for a model.
        verifier: with `prompts`, see `subject_of_model`; None is `math`. A run has its recipe's.
        extraction: with `prompts`, see `subject_of_model`; None is `boxed`. A run has its recipe's.
        say: told what is being done.

    Raises:
        InputError: the source is neither, or has nothing a study could start from.
    """
    run = Path(source).expanduser()
    _check(asked, changes, run, prompts)
    for name, value in (("verifier", verifier), ("extraction", extraction)):
        if prompts is None and value is not None:
            raise InputError(f"--{name} {value} goes with --prompts: a run is verified as its recipe says")
    if prompts is None:
        subject = subject_of_run(run, problems=changes.problems, **changes.given())
    else:
        subject = subject_of_model(
            source, prompts, ModelSettings(**changes.given()), problems=changes.problems,
            verifier=verifier or "math", extraction=extraction or "boxed",
            must_judge="--temperatures" if asked.temperatures else None,
        )  # fmt: skip
    try:
        say(f"drawing {subject.group} answers to each of {len(subject.prompts)} problems from {subject.name}")
        rollouts = written(subject)
        found = [noted(study, subject.notes) for study in _made(subject, rollouts, asked, run, say)]
    except BaseException:
        closed(subject)
        raise
    return Studied(
        studies=tuple(found),
        traces=None if prompts is None else traces_of(subject, rollouts),
        about={**described(subject), "notes": list(subject.notes)},
        close=lambda: closed(subject),
    )


def _check(asked: Asked, changes: Changes, run: Path, prompts: Path | None) -> None:
    names = ", ".join(asked.names)
    if prompts is not None and asked.checkpoints:
        raise InputError("--checkpoints compares the checkpoints of a run: name its directory, without --prompts")
    if prompts is None and not is_run(run):
        there = "is no run directory" if run.exists() else "does not exist"
        more = "" if asked.checkpoints else ", or a model with --prompts"
        raise InputError(
            f"{names} needs the model itself, and {run} {there}: name a run that `forkpoint train` wrote{more}"
        )
    for name, value in (("problems", changes.problems), ("group", changes.group), ("max-tokens", changes.max_tokens)):
        if value is not None and value < 1:
            raise InputError(f"--{name} is {value} and must be 1 or more")
    if changes.temperature is not None and not 0 < changes.temperature < math.inf:
        raise InputError(f"--temperature is {changes.temperature:g} and {names} needs answers drawn above 0")


def _made(subject: Subject, rollouts: Rollouts, asked: Asked, run: Path, say: Say) -> list[Study]:
    sampling = subject.sampling
    at_one = rollouts if (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0) else None

    def temperatures() -> Study:
        found = temperature_study(subject, asked.temperatures, at_one=at_one, say=say)
        return temperature_panels(found, subject)

    def divergence() -> Study:
        say(f"writing {asked.divergence} answers anew from forks and other positions")
        found = divergence_study(subject, rollouts, asked.divergence, share=asked.share)
        return divergence_panels(found, share=asked.share)

    def forced() -> Study:
        return forced_panels(forced_study(subject, rollouts, asked.forced, say=say))

    def checkpoints() -> Study:
        prompts, answers = ids_of(rollouts)
        found = checkpoint_study(
            moments(run, subject), prompts, answers, problem=problems_of(rollouts), share=asked.share,
            temperature=sampling.temperature, head=sampling.head, dtype=subject.dtype, say=say,
        )  # fmt: skip
        return checkpoint_panels(found)

    # The checkpoints come last: they are read into the model that the others use.
    wanted: Sequence[tuple[bool, str, str, Callable[[], Study]]] = (
        (bool(asked.temperatures), "temperatures", "Accuracy against decoding temperature", temperatures),
        (bool(asked.divergence), "divergence", "Does the final answer change when a fork is drawn anew?", divergence),
        (bool(asked.forced), "forced", "Entropy area score and entropy reduction", forced),
        (asked.checkpoints, "checkpoints", "Most uncertain positions over training", checkpoints),
    )
    return [attempted(name, title, make) for wish, name, title, make in wanted if wish]
