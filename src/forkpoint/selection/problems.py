"""What recorded answers say of each problem: pass rate, length, entropy area. One pass, a few numbers a problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forkpoint.analyze.measures.forced import forced_answer_bits
from forkpoint.analyze.measures.sequence import entropy_area
from forkpoint.analyze.result_rows import Fields
from forkpoint.analyze.results import read_result
from forkpoint.analyze.traces.sources import open_traces
from forkpoint.analyze.traces.trace import TraceBatch, Traces
from forkpoint.errors import InputError
from forkpoint.evaluate.graded import Graded
from forkpoint.rollouts import Prompt
from forkpoint.verify.exact import last_boxed

OPENER = r"\boxed{"
"""What an answer is forced after (arXiv 2508.20384)."""

AreaOf = Callable[[TraceBatch, int], float]
"""The entropy area of one response of a batch, in bits; NaN where it has no answer to force."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the answers to one problem say."""

    answers: int = 0
    judged: int = 0
    """Answers with a verdict of right or wrong, or a reward of 0 or 1."""
    right: int = 0
    lengths: int = 0
    """Answers whose tokens are known."""
    tokens: int = 0
    """Of all those answers."""
    area: float = math.nan
    """Entropy area score of the first answer, in bits."""

    @property
    def pass_rate(self) -> float:
        """Share of judged answers that are right, NaN for none."""
        return self.right / self.judged if self.judged else math.nan

    @property
    def length(self) -> float:
        """Mean tokens of an answer, NaN where none is known."""
        return self.tokens / self.lengths if self.lengths else math.nan


def measure_problems(
    traces: Traces, *, area: AreaOf | None = None, known: Mapping[str, float] | None = None
) -> dict[str, Measured]:
    """Return what the answers of a source say of each of its problems, by problem id.

    Answers without a problem id are left out. The entropy area is that of the first answer met, as in the paper, which
    draws one.

    Args:
        traces: graded answers (`forkpoint.analyze.traces.sources.open_traces`).
        area: computes the entropy area of an answer; None leaves it to `known`.
        known: entropy areas by problem id, which are not computed again.
    """
    found: dict[str, Measured] = {}
    for batch in traces:
        length_R = np.diff(batch.offsets_R)
        for response, name in enumerate(batch.prompt_id):
            if name is None:
                continue
            old = found.get(name)
            if old is None:
                bits = (known or {}).get(name, math.nan)
                old = Measured(area=area(batch, response) if area is not None and math.isnan(bits) else bits)
            verdict = _right(batch, response)
            length = int(length_R[response])
            found[name] = Measured(
                answers=old.answers + 1,
                judged=old.judged + (verdict is not None),
                right=old.right + bool(verdict),
                lengths=old.lengths + (length > 0),
                tokens=old.tokens + length,
                area=old.area,
            )
    return found


def open_answers(path: str | Path, *, part: Literal["rollouts", "evals"] = "rollouts") -> Traces | Graded:
    """Return answers as a trace where they are one, else as a table of verdicts (`forkpoint.analyze.results`).

    Args:
        path: a run directory, a trace, or a file of graded answers, which needs no tokens.
        part: of a run directory.

    Raises:
        InputError: neither can be read there.
    """
    try:
        return open_traces(path, part=part)
    except InputError as trace:
        if not Path(path).is_file():
            raise
        try:
            # No votes are counted here, and without a field of answers none are compared.
            return read_result(Path(path), name=str(path), fields=Fields(answer="(none)"))
        except InputError as table:
            # Its remedy is an option of another command.
            fault = str(table).rpartition(": ")[0] or str(table)
            raise InputError(f"{trace}; read as graded answers, {fault}") from None


def measure_graded(answers: Graded, *, known: Mapping[str, float] | None = None) -> dict[str, Measured]:
    """Return what graded answers say of each problem, by problem id; see `measure_problems`.

    A value that is neither 0 nor 1 is no verdict.
    """
    size, value_N = len(answers.problems), answers.value_N
    length_N = np.full(len(value_N), math.nan) if answers.length_N is None else answers.length_N

    def count(what_N: Any) -> list[int]:
        return [round(one) for one in np.bincount(answers.problem_N, what_N, size).tolist()]

    sums = (np.ones(len(value_N)), np.isin(value_N, (0, 1)), value_N == 1, ~np.isnan(length_N), np.nan_to_num(length_N))
    return {
        str(name): Measured(
            answers=all_, judged=judged, right=right, lengths=lengths, tokens=tokens,
            area=(known or {}).get(str(name), math.nan),
        )
        for name, all_, judged, right, lengths, tokens in zip(answers.problems, *map(count, sums), strict=True)
    }  # fmt: skip


def area_of(model: Any, tokenizer: Any, *, template: str = "auto", stride: int = 1, opener: str = OPENER) -> AreaOf:
    r"""Return a function that computes the entropy area score of one response.

        EAS = stride Σ_t H_t,  H_t = entropy in bits, over the 20 most likely tokens, of the answer's last token when
        the answer is forced after the first t tokens of the response

    The answer is the content of the response's last `\boxed{}`.

    Args:
        model: the one to be trained.
        tokenizer: its tokenizer; responses without token ids are cut into tokens anew.
        template: how problems are put to the model, see `forkpoint.tasks.prompts`.
        stride: every how many positions; above 1 is an economy of this package.
        opener: text before the forced answer.

    Source: arXiv 2508.20384.
    """
    from forkpoint.tasks.prompts import render

    opener_ids = tokenizer(opener, add_special_tokens=False)["input_ids"]

    def area(batch: TraceBatch, response: int) -> float:
        text, question = batch.completion[response], batch.prompt[response]
        answer = last_boxed(text) if text else None
        if not answer or not question:
            return math.nan
        ids = batch.id_N[batch.span(response)].tolist()
        if not ids or min(ids) < 0 or max(ids) >= len(tokenizer):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        prompt = render(Prompt(id=str(batch.prompt_id[response]), text=question), tokenizer, template=template)
        answer_ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        bits = forced_answer_bits(model, prompt, ids, opener_ids, answer_ids, stride=stride)
        return float(entropy_area(bits, [0, len(bits)], stride=stride).area[0])

    return area


def _right(batch: TraceBatch, response: int) -> bool | None:
    """Return the verdict of one response, from its reward where no verdict is recorded; None where not judged."""
    verdict, reward = batch.verdict[response], batch.reward_R[response]
    if verdict is not None:
        return {"right": True, "wrong": False}.get(verdict)
    return bool(reward) if reward in (0.0, 1.0) else None
