"""What the studies run: a model with problems, a verifier and a way to draw answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forkpoint.analyze.studies.endings import Convention, convention
from forkpoint.analyze.traces.sampling import ModelSettings, model_info, scored_trace
from forkpoint.analyze.traces.trace import TraceBatch, Traces
from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import sample_rollouts
from forkpoint.errors import InputError, did_you_mean
from forkpoint.model import precision
from forkpoint.rollouts import Prompt, Rollouts
from forkpoint.tasks.countdown import countdown_judge
from forkpoint.tasks.task import Judge
from forkpoint.train.schema import TaskTable
from forkpoint.verify.extract import EXTRACTIONS
from forkpoint.verify.reward import rewarded

VERIFIERS = ("math", "exact", "sequence", "countdown")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model and what it is asked."""

    name: str
    model: Any
    tokenizer: Any
    prompts: tuple[Prompt, ...]
    encoded: tuple[list[int], ...]
    """Token ids of every prompt."""
    sampling: Sampling
    group: int
    """Answers to each prompt."""
    seed: int
    dtype: str = "float32"
    """Of the products."""
    judge: Judge | None = None
    """None where there are no reference answers."""
    convention: Convention
    """Where the final answer stands."""
    notes: tuple[str, ...] = ()
    """What was missing, one sentence each."""


def written(subject: Subject, sampling: Sampling | None = None) -> Rollouts:
    """Return the model's answers, verified where there is a verifier.

    The draws depend on seed, problem and sample number alone, so two ways of sampling share their random numbers.
    """
    with running(subject):
        rollouts = sample_rollouts(
            subject.model, subject.tokenizer, subject.prompts, subject.encoded, sampling or subject.sampling,
            group=subject.group, stream=(subject.seed, "study"),
        )  # fmt: skip
    return rollouts if subject.judge is None else rewarded(rollouts, subject.judge)


@contextmanager
def running(subject: Subject) -> Iterator[None]:
    """Run the model in its precision."""
    with precision(next(subject.model.parameters()).device, subject.dtype):
        yield


def problems_of(rollouts: Rollouts) -> list[str]:
    """Return the id of every answer's problem."""
    return [rollouts.prompts[group].id for group in rollouts.group_B.tolist()]


def spread_rows(rollouts: Rollouts, count: int) -> list[int]:
    """Return the places of up to `count` answers: the first of every problem, then every second one."""
    order = sorted(range(rollouts.rows), key=lambda row: (int(rollouts.sample_B[row]), int(rollouts.group_B[row])))
    return order[:count]


def traces_of(subject: Subject, rollouts: Rollouts, *, top: int = 10, attention: bool = True) -> Traces:
    """Return answers that were drawn for the studies as the traces a page is made of."""

    def batches() -> Iterator[TraceBatch]:
        for start in range(0, rollouts.rows, subject.sampling.slots):
            rows = torch.arange(start, min(start + subject.sampling.slots, rollouts.rows))
            with running(subject):
                yield scored_trace(
                    subject.model, subject.tokenizer, rollouts.select(rows), subject.sampling,
                    top=top, attention=attention, name=subject.name, first=start + 1,
                )  # fmt: skip

    info = model_info(subject.name, subject.sampling, top=top, judged=bool(rollouts.verdicts))
    return Traces(about=info, batches=batches)


def subject_of_model(
    path: str | Path,
    prompts: str | Path,
    settings: ModelSettings,
    *,
    problems: int | None = None,
    verifier: str = "math",
    extraction: str = "boxed",
    must_judge: str | None = None,
) -> Subject:
    """Return a model with the problems of a file.

    Args:
        path: model directory or hub name.
        prompts: file of problems (`forkpoint.tasks.readers.read_prompts`).
        settings: how the model is loaded and sampled.
        problems: take the first so many; None takes all.
        verifier: one of `VERIFIERS`; `countdown` reads the problem from the prompt, the others need reference answers.
        extraction: where a completion has its answer, a name in `forkpoint.verify.extract.EXTRACTIONS`.
        must_judge: what needs reference answers, for the message; None goes on without them.

    Raises:
        InputError: model, tokenizer, problems or names cannot be used.
    """
    from forkpoint.model import load_model, pick_device
    from forkpoint.tasks.prompts import encode_prompts, end_token_ids, load_tokenizer, stop_text

    asked, judge = _problems_and_judge(prompts, problems, verifier, extraction, must_judge)
    trust = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    model: Any = load_model(path, dtype=settings.dtype, device=pick_device(settings.device), **trust)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(path, **trust)  # type: ignore[arg-type]
    encoded = encode_prompts(asked, tokenizer, template=settings.template, max_tokens=settings.max_prompt)
    return Subject(
        name=str(path), model=model, tokenizer=tokenizer, prompts=tuple(asked), encoded=tuple(encoded),
        sampling=Sampling(
            max_tokens=settings.max_tokens,
            stop_ids=end_token_ids(tokenizer, model.generation_config, settings.stop),
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            slots=settings.slots,
            stop_text=stop_text(tokenizer, settings.stop),
        ),
        group=settings.group, seed=settings.seed, judge=judge,
        convention=convention("countdown" if verifier == "countdown" else extraction),
    )  # fmt: skip


def _problems_and_judge(
    source: str | Path, problems: int | None, verifier: str, extraction: str, must_judge: str | None
) -> tuple[Sequence[Prompt], Judge | None]:
    from forkpoint.tasks.readers import read_prompts
    from forkpoint.train.setup import make_judge

    if verifier not in VERIFIERS:
        raise InputError(f"unknown verifier {verifier!r}: {did_you_mean(verifier, VERIFIERS)}")
    if extraction not in EXTRACTIONS:
        raise InputError(f"unknown answer extraction {extraction!r}: {did_you_mean(extraction, EXTRACTIONS)}")
    if verifier == "countdown":
        return read_prompts(source, answer=None, limit=problems), countdown_judge
    try:
        asked = read_prompts(source, limit=problems)
    except InputError as error:
        asked = read_prompts(source, answer=None, limit=problems)  # a file without problems is told as such
        if must_judge is not None:
            raise InputError(f"{must_judge} needs reference answers to judge by: {error}") from error
        return asked, None
    table = TaskTable(name="data", train=str(source), verifier=verifier, extraction=extraction)  # type: ignore[arg-type]
    return asked, make_judge(table)


def with_changes(sampling: Sampling, **changes: Any) -> Sampling:
    """Return how answers are drawn with the given changes, None meaning no change."""
    return dataclasses.replace(sampling, **{name: value for name, value in changes.items() if value is not None})


def entropies_of(rollouts: Rollouts) -> list[np.ndarray]:
    """Return the entropies of every answer's tokens."""
    pairs = zip(rollouts.entropy_BT, rollouts.mask_BT, strict=True)
    return [row[mask].double().cpu().numpy() for row, mask in pairs]


Say = Callable[[str], None]
"""Told what a study is doing, a line at a time."""
