"""Accuracy of a policy on held-out problems, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import EMBEDDED, Engine, sample_rollouts
from forkpoint.errors import InputError
from forkpoint.evaluate.stats import Estimate, accuracy
from forkpoint.model import precision
from forkpoint.rollouts import Prompt, Rollouts, Verdict
from forkpoint.tasks.task import Judge
from forkpoint.verify.reward import rewarded


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one evaluation found."""

    accuracy: Estimate
    reward: float
    """Mean over judged answers."""
    rollouts: Rollouts

    def metrics(self) -> dict[str, float]:
        """Return the numbers under their `eval/` names."""
        rows, estimate = self.rollouts, self.accuracy
        tokens = rows.mask_BT.sum()
        return {
            "eval/accuracy": estimate.value,
            "eval/accuracy_low": estimate.low,
            "eval/accuracy_high": estimate.high,
            "eval/accuracy_error": estimate.error,
            "eval/problems": estimate.problems,
            "eval/samples": estimate.samples / max(estimate.problems, 1),
            "eval/unjudged": sum(verdict == Verdict.UNJUDGED for verdict in rows.verdicts) / rows.rows,
            "eval/reward": self.reward,
            "eval/length": float(tokens / rows.rows),
            "eval/truncated": sum(finish == "length" for finish in rows.finish) / rows.rows,
            # A bound is another quantity than an entropy, so it has another name.
            f"eval/entropy{'_lower_bound' if rows.entropy_kind == 'lower-bound' else ''}": float(
                rows.entropy_BT.sum() / tokens
            ),
        }


def evaluate_heldout(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    encoded: Sequence[Sequence[int]],
    judge: Judge,
    sampling: Sampling,
    *,
    samples: int,
    seed: int,
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    engine: Engine = EMBEDDED,
) -> Evaluation:
    """Sample answers to held-out problems, judge them, and return accuracy with a clustered interval.

    The draws depend on seed, problem and sample number alone, so that two checkpoints are compared on common
    random numbers.

    Args:
        model: the policy.
        tokenizer: turns ids into text.
        prompts: the problems.
        encoded: their token ids; a problem whose list is empty is left out.
        judge: the verifier.
        sampling: how tokens are drawn.
        samples: answers to each problem, >= 1.
        seed: of the draws.
        dtype: of the products.
        progress: called with (finished, total) answers.
        engine: what decodes.

    Raises:
        InputError: there is no problem to evaluate on.
    """
    kept = [index for index, ids in enumerate(encoded) if ids]
    if not kept:
        raise InputError(
            "there is no held-out problem to evaluate on: set task.heldout, or eval.every = 0 with before and after off"
        )
    device = next(model.parameters()).device
    with precision(device, dtype):
        rollouts = sample_rollouts(
            model,
            tokenizer,
            [prompts[index] for index in kept],
            [encoded[index] for index in kept],
            sampling,
            group=samples,
            stream=(seed, "eval"),
            progress=progress,
            engine=engine,
        )
    rollouts = rewarded(rollouts, judge)
    value = {Verdict.RIGHT: 1.0, Verdict.WRONG: 0.0, Verdict.UNJUDGED: math.nan}
    names = [rollouts.prompts[index].id for index in rollouts.group_B.tolist()]
    judged_B = rollouts.judged_B
    reward_B = rollouts.reward_B
    assert judged_B is not None and reward_B is not None  # noqa: S101, PT018 - set by `rewarded`
    return Evaluation(
        accuracy=accuracy(names, [value[verdict] for verdict in rollouts.verdicts]),
        reward=float(torch.where(judged_B, reward_B, 0.0).sum() / judged_B.sum().clamp(min=1)),
        rollouts=rollouts,
    )
