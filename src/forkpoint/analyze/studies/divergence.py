"""The divergence test on a model's own answers: what happens to the final answer if a token is drawn anew."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from forkpoint.analyze.measures.divergence import Difference, Divergence, divergence_test, plot_divergence
from forkpoint.analyze.measures.interventions import Outcome
from forkpoint.analyze.studies.endings import Convention, same_form
from forkpoint.analyze.studies.study import Study, json_ready, percents
from forkpoint.analyze.studies.subject import Subject, entropies_of, problems_of, running, spread_rows
from forkpoint.analyze.traces.sampling import ids_of
from forkpoint.analyze.views.page import Panel
from forkpoint.rollouts import Rollouts

NO_ANSWER = "no answer"


def final_outcome(tokenizer: object, convention: Convention, stop_ids: Sequence[int]) -> Outcome:
    """Return the outcome function that reads final answers; having none is an outcome of its own.

    Args:
        tokenizer: turns ids into text.
        convention: where the final answer stands.
        stop_ids: ids that end an answer and are no part of its text.
    """

    def outcome(numbers: Sequence[int], ids: Sequence[list[int]]) -> list[Hashable | None]:
        visible = [row[:-1] if row and row[-1] in stop_ids else row for row in ids]
        texts = tokenizer.batch_decode(visible, skip_special_tokens=True)  # type: ignore[attr-defined]
        return [same_form(convention.find(text)) or NO_ANSWER for text in texts]

    return outcome


def divergence_study(
    subject: Subject, rollouts: Rollouts, count: int, *, share: float = 0.2, positions: int = 2, samples: int = 2
) -> Divergence:
    """Return how often the final answer changes when answers are written anew from forks and from other positions.

    Args:
        subject: whose model wrote the answers, at a temperature above 0.
        rollouts: the answers.
        count: answers to intervene on, from as many problems as possible.
        share: tokens of an answer that count as forks, in (0, 1].
        positions: places of each kind in an answer.
        samples: continuations of each intervention; 3 kinds of places x 2 actions x positions x samples continuations
            are decoded for every answer.

    Raises:
        InputError: greedy sampling, or arguments out of range.
    """
    chosen = spread_rows(rollouts, count)
    prompts, answers = ids_of(rollouts)
    entropies, problems = entropies_of(rollouts), problems_of(rollouts)
    with running(subject):
        return divergence_test(
            subject.model,
            [prompts[row] for row in chosen],
            [answers[row] for row in chosen],
            [entropies[row] for row in chosen],
            final_outcome(subject.tokenizer, subject.convention, subject.sampling.stop_ids),
            subject.sampling,
            stream=(subject.seed, "divergence"),
            share=share,
            positions=positions,
            samples=samples,
            places=("fork", "near", "random"),
            actions=("redraw", "keep"),
            cluster=[problems[row] for row in chosen],
        )


def divergence_panels(found: Divergence, *, share: float) -> Study:
    """Return the figure with its rates and the differences that matter in words."""
    lines = [
        f"Final answer changed, {_place(rate.place)}, {_ACTIONS[rate.action]}: "
        f"{percents(rate.changed.value, rate.changed.low, rate.changed.high)} of {rate.samples:,} continuations"
        for rate in found.rates
    ]
    compared = [_compared(d) for d in found.differences if d.first[0] == "fork" or d.first[1] == d.second[1]]
    responses = max((rate.responses for rate in found.rates), default=0)
    caption = (
        f"{responses:,} answers. A fork is one of the {100 * share:g} % most uncertain tokens of an answer, near the "
        "closest token to it that is none, random any token. Redraw: the token and all after it are drawn anew. Keep: "
        "the token stays and what follows is drawn anew, which is how often the answer changes by itself. Whiskers "
        f"are 95 % intervals over problems. {'. '.join(compared)}."
    )
    title = "Does the final answer change when a fork is drawn anew?"
    panel = Panel(title=title, caption=caption, svg=plot_divergence(found))
    numbers = {
        "rates": found.rates,
        "differences": found.differences,
        "answers": responses,
        "skipped": found.skipped,
        "unjudged": found.unjudged,
        "share": share,
    }
    return Study(name="divergence", panels=(panel,), numbers=json_ready(numbers), lines=(*lines, *compared))


_ACTIONS = {"redraw": "token drawn anew", "keep": "token kept", "swap": "another token"}


def _place(place: str) -> str:
    return {"fork": "at a fork", "near": "next to a fork", "random": "anywhere"}[place]


def _compared(difference: Difference) -> str:
    (place, action), (other, against) = difference.first, difference.second
    value = difference.value
    what = f"{place} minus {other}, {action}" if action == against else f"{place}, {action} minus {against}"
    return (
        f"{what[0].upper()}{what[1:]}: {100 * value.value:+.1f} points "
        f"({100 * value.low:+.1f} to {100 * value.high:+.1f})"
    )
