"""Writing answers anew from chosen positions: the hands of the divergence test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch

from forkpoint.analyze.measures.flat import Floats, top_pooled
from forkpoint.analyze.measures.forced import forced_logp
from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import Engine
from forkpoint.decode.sample import sample_token
from forkpoint.rollouts import Prompt, Verdict
from forkpoint.seeds import generator, key
from forkpoint.tasks.task import Judge

Place = Literal["fork", "random", "near"]
Action = Literal["redraw", "keep", "swap"]
PLACES: tuple[Place, ...] = get_args(Place)
ACTIONS: tuple[Action, ...] = get_args(Action)

Intervention = tuple[int, int, Place, Action]
"""Response, position, kind of place, what is done there."""

Outcome = Callable[[Sequence[int], Sequence[list[int]]], Sequence[Hashable | None]]
"""Numbers of responses and new ids of each in; what they came to (a final answer, a verdict) out; None: unknown."""


def judged_outcome(judge: Judge, tokenizer: Any, prompts: Sequence[Prompt], stop_ids: Sequence[int]) -> Outcome:
    """Return the outcome function of a task's verifier: `right`, `wrong`, or None where it could not judge.

    Args:
        judge: the verifier of the task.
        tokenizer: turns ids into text.
        prompts: the problem of every response.
        stop_ids: ids that end an answer and are no part of its text.
    """

    def outcome(numbers: Sequence[int], ids: Sequence[list[int]]) -> list[str | None]:
        visible = [row[:-1] if row and row[-1] in stop_ids else row for row in ids]
        texts = tokenizer.batch_decode(visible, skip_special_tokens=True)
        verdicts = [judgement.verdict for judgement in judge([prompts[number] for number in numbers], texts)]
        return [None if verdict == Verdict.UNJUDGED else verdict.value for verdict in verdicts]

    return outcome


def drawn_places(
    values: Floats, share: float, positions: int, places: Sequence[Place], rng: np.random.Generator
) -> dict[Place, list[int]]:
    """Return where to intervene in one response; every kind is drawn, so leaving one out changes no other."""
    top = top_pooled(values, share)
    forks, others = np.flatnonzero(top), np.flatnonzero(~top)
    fork = rng.permutation(forks)[:positions].tolist()
    found: dict[Place, list[int]] = {"fork": fork, "random": rng.permutation(values.size)[:positions].tolist()}
    near: list[int] = []
    for at in fork:
        left = others[~np.isin(others, near)]
        if left.size:
            near.append(int(left[np.argmin(np.abs(left - at))]))
    found["near"] = near
    return {place: found[place] for place in places}


def started_ids(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    plan: Sequence[Intervention],
    requests: Sequence[tuple[int, int]],
    sampling: Sampling,
    stream: Sequence[str | int],
) -> list[list[int]]:
    """Return the ids every continuation starts with: up to the place, with it, or with another token there."""
    started = [list(responses[plan[case][0]][: plan[case][1] + (plan[case][3] == "keep")]) for case, _ in requests]
    swaps = [index for index, (case, _) in enumerate(requests) if plan[case][3] == "swap"]
    contexts, targets = [], []
    for index in swaps:
        response, t = plan[requests[index][0]][:2]
        contexts.append([*prompts[response], *started[index]])
        targets.append([responses[response][t]])
    asked = forced_logp(model, contexts, targets, temperature=sampling.temperature, head=sampling.head)
    for number, logp_1V in asked:
        case, sample = requests[swaps[number]]
        others_1V = logp_1V.index_fill(1, torch.tensor(targets[number], device=logp_1V.device), -torch.inf)
        uniform = generator(*stream, "swap", *plan[case][:3], sample).random(1)
        drawn, _, _ = sample_token(
            others_1V, torch.from_numpy(uniform).to(logp_1V.device), top_p=sampling.top_p, top_k=sampling.top_k
        )
        started[swaps[number]].append(int(drawn[0]))
    return started


def finished_ids(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    plan: Sequence[Intervention],
    requests: Sequence[tuple[int, int]],
    started: Sequence[list[int]],
    sampling: Sampling,
    stream: Sequence[str | int],
    engine: Engine,
) -> list[list[int]]:
    """Return whole new responses: what was kept, and its continuation up to the length that was allowed."""

    def over(index: int) -> bool:
        ids, (response, t, _, action) = started[index], plan[requests[index][0]]
        whole = action == "keep" and t == len(responses[response]) - 1
        return whole or len(ids) >= sampling.max_tokens or (action == "swap" and ids[-1] in sampling.stop_ids)

    written = [list(ids) for ids in started]
    going = [index for index in range(len(requests)) if not over(index)]
    if not going:
        return written
    room = [sampling.max_tokens - len(started[index]) for index in going]
    answers = engine.decode(
        model,
        [[*prompts[plan[requests[index][0]][0]], *started[index]] for index in going],
        [key(*stream, "write", *plan[requests[index][0]], requests[index][1]) for index in going],
        dataclasses.replace(sampling, max_tokens=max(room)),
    )
    # A token depends on nothing after it, so cutting equals having stopped there.
    for index, answer, left in zip(going, answers, room, strict=True):
        written[index] += answer.ids[:left]
    return written
