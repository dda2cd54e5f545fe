"""From answers to rewards: the verifier's judgement, and the soft overlong punishment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from forkpoint.rollouts import Rollouts, Verdict
from forkpoint.scope import segment_sum
from forkpoint.tasks.task import Judge
from forkpoint.verify.endings import Ending, same_form
from forkpoint.verify.length import overlong_penalty_B


def rewarded(rollouts: Rollouts, judge: Judge, *, overlong_buffer: int = 0, overlong_factor: float = 1.0) -> Rollouts:
    """Return the rollouts with rewards, their parts, verdicts and what was judged.

        R = R_verifier + factor * overlong(length)

    Args:
        rollouts: sampled answers.
        judge: the task's verifier.
        overlong_buffer: tokens before the limit over which the punishment grows; 0 turns it off.
        overlong_factor: the punishment at the limit, in units of reward.

    Returns:
        Rollouts whose `reward_B` is the sum of `reward_parts` and 0 where not judged.

    Source: arXiv 2503.14476 eq. 13.
    """
    judgements = judge([rollouts.prompts[index] for index in rollouts.group_B.tolist()], rollouts.text)
    device = rollouts.logp_BT.device
    judged = [judgement.verdict != Verdict.UNJUDGED for judgement in judgements]
    judged_B = torch.tensor(judged, device=device)
    names = dict.fromkeys(name for judgement in judgements for name in (judgement.parts or {"answer": 0}))
    parts = {
        name: torch.tensor(
            [
                (judgement.parts or {"answer": judgement.reward}).get(name, 0.0) if fine else 0.0
                for judgement, fine in zip(judgements, judged, strict=True)
            ],
            device=device,
        )
        for name in names
    }
    if overlong_buffer > 0:
        penalty_B = overlong_penalty_B(
            rollouts.mask_BT.sum(1),
            max_length=rollouts.max_tokens or rollouts.mask_BT.shape[1],
            buffer=overlong_buffer,
        )
        parts["overlong"] = overlong_factor * torch.where(judged_B, penalty_B, 0.0)
    reward_B = torch.stack(list(parts.values())).sum(0) if parts else torch.zeros(rollouts.rows, device=device)
    return dataclasses.replace(
        rollouts,
        reward_B=reward_B,
        reward_parts=parts,
        judged_B=judged_B,
        verdicts=tuple(judgement.verdict for judgement in judgements),
    )


def useful_groups(rollouts: Rollouts) -> list[int]:
    """Return the prompts whose judged answers do not all earn the same from the verifier.

    DAPO's constraint 0 < #right < G, for rewards of any kind. Length punishments do not make a group useful.

    Source: arXiv 2503.14476 eq. 11.
    """
    judged_B = rollouts.judged_B
    assert judged_B is not None  # noqa: S101 - set by `rewarded`
    earned_B = torch.zeros_like(rollouts.logp_BT[:, 0])
    for name, part_B in rollouts.reward_parts.items():
        if name != "overlong":
            earned_B = earned_B + part_B
    high_P = _extreme(earned_B, rollouts, judged_B, "amax")
    low_P = _extreme(earned_B, rollouts, judged_B, "amin")
    count_P = segment_sum(judged_B.long(), rollouts.group_B)
    return ((high_P - low_P > 1e-9) & (count_P > 1)).nonzero().squeeze(1).tolist()


def answer_classes(rollouts: Rollouts, find: Callable[[str], Ending | None]) -> Tensor:
    """Return which answers to a problem are the same answer, int64 (B,), numbers unique across groups.

    All right answers to a problem are one; the others are the same where their final answers have the same form.
    Those without a final answer are one as well.

    Args:
        rollouts: verified answers.
        find: a text's final answer, as of `forkpoint.verify.endings.convention`.
    """
    numbers: dict[tuple[int, bool, str | None], int] = {}
    classes = []
    verdicts = rollouts.verdicts or (Verdict.UNJUDGED,) * rollouts.rows
    for group, text, verdict in zip(rollouts.group_B.tolist(), rollouts.text, verdicts, strict=True):
        right = verdict == Verdict.RIGHT
        form = None if right else same_form(find(text))
        classes.append(numbers.setdefault((group, right, form), len(numbers)))
    return torch.tensor(classes, dtype=torch.int64, device=rollouts.group_B.device)


def _extreme(value_B: Tensor, rollouts: Rollouts, judged_B: Tensor, reduce: str) -> Tensor:
    start = -torch.inf if reduce == "amax" else torch.inf
    out_P = torch.full((len(rollouts.prompts),), start, device=value_B.device)
    return out_P.scatter_reduce(0, rollouts.group_B[judged_B], value_B[judged_B], reduce)
