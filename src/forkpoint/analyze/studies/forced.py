"""Measures that force the final answer on the model while it is still reasoning.

Sources: entropy area score arXiv 2508.20384, conditional entropy reduction arXiv 2508.20395.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forkpoint.analyze.measures.bands import Interval, ratio_band
from forkpoint.analyze.measures.flat import Floats, of_responses
from forkpoint.analyze.measures.forced import answer_entropies, forced_answer_bits
from forkpoint.analyze.measures.sequence import EntropyArea, EntropyReduction, entropy_area, entropy_reduction
from forkpoint.analyze.measures.sequence_plots import plot_entropy_area, plot_entropy_reduction
from forkpoint.analyze.studies.endings import Ending, steps_of
from forkpoint.analyze.studies.study import Study, json_ready
from forkpoint.analyze.studies.subject import Say, Subject, problems_of, running, spread_rows
from forkpoint.analyze.traces.sampling import ids_of
from forkpoint.analyze.views.page import Panel
from forkpoint.errors import InputError
from forkpoint.rollouts import Rollouts, Verdict

POSITIONS = 128
"""Most places of one answer at which the final answer is forced."""


@dataclass(frozen=True, kw_only=True)
class ForcedStudy:
    """Both measures over the same answers."""

    area: EntropyArea
    reduction: EntropyReduction
    first: Floats
    """(R,) nats, entropy of the final answer before any step."""
    verdict: tuple[Verdict | None, ...]
    problem: tuple[str, ...]
    stride: int
    """The final answer was forced at every so many positions."""
    without: int
    """Answers left out because they have no final answer."""

    def mean(self, values: Floats, verdict: Verdict | None = None) -> Interval:
        """Return the mean over answers, or over those with a verdict, with its interval over problems."""
        rows = np.array([verdict is None or found == verdict for found in self.verdict]) & np.isfinite(values)
        if not rows.any():
            return Interval(value=np.nan, low=np.nan, high=np.nan)
        problems = np.unique(self.problem, return_inverse=True)[1]
        return ratio_band(values[rows], np.ones(int(rows.sum())), cluster_R=problems[rows]).at(0)


def forced_study(
    subject: Subject, rollouts: Rollouts, count: int, *, positions: int = POSITIONS, say: Say = lambda line: None
) -> ForcedStudy:
    """Return entropy area score and conditional entropy reduction of answers, by the model that wrote them.

    The final answer is the one the answer itself ends in. Forcing it after every prefix is quadratic in the length,
    so answers longer than `positions` tokens are measured at every second, third, … position, all with one stride.

    Args:
        subject: whose model wrote the answers.
        rollouts: the answers.
        count: answers to measure, from as many problems as possible; those without a final answer are passed over.
        positions: most places in one answer.
        say: told what is being measured.

    Raises:
        InputError: no answer has a final answer.

    Source: arXiv 2508.20384 (bits, 20 most likely tokens) and arXiv 2508.20395.
    """
    if count < 1 or positions < 1:
        raise InputError(f"a forced final answer needs 1 or more answers and positions, not {count} and {positions}")
    prompts, answers = ids_of(rollouts)
    problems = problems_of(rollouts)
    chosen: list[tuple[int, Ending]] = []
    without = 0
    for row in spread_rows(rollouts, rollouts.rows):
        ending = subject.convention.find(rollouts.text[row])
        without += ending is None
        if ending is not None:
            chosen.append((row, ending))
        if len(chosen) == count:
            break
    if not chosen:
        raise InputError(
            f"none of the {rollouts.rows} answers ends in a final answer that could be forced: check --extraction, or "
            "allow longer answers with --max-tokens"
        )
    stride = max(1, -(-(max(len(answers[row]) for row, _ in chosen) - 1) // positions))
    say(f"forcing the final answers of {len(chosen)} answers at every {stride} tokens")
    bits, entropies = [], []
    head = subject.sampling.head
    with running(subject):
        for row, ending in chosen:
            opener, answer = (_ids(subject.tokenizer, text) for text in (ending.opener, ending.answer))
            where = (subject.model, prompts[row], answers[row], opener, answer)
            bits.append(forced_answer_bits(*where, stride=stride, head=head))
            steps = steps_of(subject.tokenizer, answers[row], rollouts.text[row], ending, subject.convention.step)
            entropies.append(answer_entropies(subject.model, prompts[row], steps, answer, opener=opener, head=head))
    return ForcedStudy(
        area=entropy_area(np.concatenate(bits), of_responses([len(part) for part in bits]), stride=stride),
        reduction=entropy_reduction(np.concatenate(entropies), of_responses([len(part) for part in entropies])),
        first=np.array([part[0] for part in entropies]),
        verdict=tuple(rollouts.verdicts[row] if rollouts.verdicts else None for row, _ in chosen),
        problem=tuple(problems[row] for row, _ in chosen),
        stride=stride,
        without=without,
    )


def forced_panels(found: ForcedStudy) -> Study:
    """Return both figures with their means in words."""
    size = len(found.problem)
    every = "every token" if found.stride == 1 else f"every {found.stride} tokens (an economy, not the paper's)"
    passed = f" {found.without:,} answers without a final answer were passed over." if found.without else ""
    area, fall = _words(found, found.area.area, "bits"), _words(found, found.reduction.total, "nats")
    none = "" if found.reduction.reduction.size else " No answer has reasoning before its final answer."
    return Study(
        name="forced",
        panels=(
            Panel(
                title="Entropy area score",
                caption=f"Uncertainty of the last token of the final answer, forced after {every} of {size:,} answers "
                f"and summed; it grows with length. Mean {area}.{passed}",
                svg=plot_entropy_area(found.area),
            ),
            Panel(
                title="How much each reasoning step tells of the final answer",
                caption="Fall of the mean entropy of the final answer's tokens at every step of the reasoning, "
                f"over the answers that have it, with a 95 % band over answers. All steps together: mean {fall}.{none}",
                svg=plot_entropy_reduction(found.reduction),
            ),
        ),
        numbers=json_ready(
            {
                "answers": size,
                "without_final_answer": found.without,
                "stride": found.stride,
                "area_bits": _split(found, found.area.area),
                "mean_bits": _split(found, found.area.mean),
                "first_nats": _split(found, found.first),
                "reduction_nats": _split(found, found.reduction.total),
            }
        ),
        lines=(f"Entropy area score of {size:,} answers: mean {area}", f"Entropy reduction: mean {fall}"),
    )


def _split(found: ForcedStudy, values: Floats) -> dict[str, Interval]:
    return {
        "all": found.mean(values),
        **{verdict.value: found.mean(values, verdict) for verdict in (Verdict.RIGHT, Verdict.WRONG)},
    }


def _words(found: ForcedStudy, values: Floats, unit: str) -> str:
    parts = []
    for name, value in _split(found, values).items():
        if np.isfinite(value.value):
            label = "" if name == "all" else f"{name} answers "
            reach = f" ({value.low:.3g} to {value.high:.3g})" if np.isfinite(value.low) else ""
            parts.append(f"{label}{value.value:.3g} {unit}{reach}")
    return "; ".join(parts)


def _ids(tokenizer: object, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []  # type: ignore[operator]
