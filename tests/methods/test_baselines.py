"""Advantages against other baselines: OPO, pass@k, GPG, the token baseline."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import padded, rollouts_of
from forkpoint import methods
from forkpoint.credit import chain, credit_of, stop_ratio
from forkpoint.credit.baseline import (
    best_answer_advantage,
    group_policy_gradient,
    length_weighted_advantage,
    token_baseline_advantage,
)
from forkpoint.errors import InputError
from method_kit import ALL, HIGHER, NEW, OLD, SLOPE, case, check, row, times


def dapo_with(link):
    return chain(link, *methods.dapo().links[1:])


def gpg():
    return chain(dapo_with(group_policy_gradient()), stop_ratio(cap=1.0, floor=1.0))


ROWS = {
    "dapo opo": row("dapo", lambda: dapo_with(length_weighted_advantage())),
    "dapo pass@k": row("dapo", lambda: dapo_with(best_answer_advantage())),
    "dapo gpg": row("dapo", gpg),
    "dapo gpg nonzero": row("dapo", lambda: dapo_with(group_policy_gradient(count="nonzero"))),
    "dapo token baseline": row("dapo", lambda: dapo_with(token_baseline_advantage())),
    "dapo token baseline lone": row("dapo", lambda: dapo_with(token_baseline_advantage(lone="reward"))),
}

# Rewards 1 0 | 0 2, lengths 2 1 | 3 2: baselines 2/3 and 4/5.
OPO = [1 / 3, -2 / 3, -4 / 5, 6 / 5]
# The best leads by 1 and by 2; deviations sqrt(1/2) and sqrt(2).
LEAD = [1 / (math.sqrt(0.5) + 1e-6), 0.0, 0.0, 2 / (math.sqrt(2.0) + 1e-6)]
CENTRED = [0.5, -0.5, -1.0, 1.0]


def of_size(advantage):
    return [abs(a) / 8 for a in advantage]


def path(answer, collision):
    """Σ (1 - 2 π + Σ π²) up to each token."""
    return [
        sum(1 - 2 * math.exp(x) + c for x, c in zip(OLD[answer][: t + 1], collision[: t + 1], strict=True))
        for t in range(len(OLD[answer]))
    ]


COLLISION = [[0.4, 0.5], [0.6], [0.3, 0.7, 0.5], [0.5, 0.6]]
PATHS = [path(i, COLLISION[i]) for i in range(4)]
FIRST = PATHS[0][0] / (PATHS[0][0] + PATHS[1][0])
LATER = [2 * PATHS[3][t] / (PATHS[2][t] + PATHS[3][t]) for t in range(2)]
# Position 1 of answer 0 and position 2 of answer 2 have no other answer beside them.
TOKEN = [[1 - FIRST, 0.0], [-FIRST], [-LATER[0], -LATER[1], 0.0], [2 - LATER[0], 2 - LATER[1]]]
LONE = [[1 - FIRST, 1.0], [-FIRST], [-LATER[0], -LATER[1], 0.0], [2 - LATER[0], 2 - LATER[1]]]


def by_token(advantage, shape):
    return [[abs(a) / 8 * s for a, s in zip(*pair, strict=True)] for pair in zip(advantage, shape, strict=True)]


def with_collision(rollouts, forward):
    return dataclasses.replace(rollouts, extra={**rollouts.extra, "collision": padded(COLLISION)}), forward


CASES = {
    "dapo opo": case(
        lambda: dapo_with(length_weighted_advantage()), OPO, times(of_size(OPO), HIGHER), times(of_size(OPO), SLOPE)
    ),
    "dapo pass@k": case(
        lambda: dapo_with(best_answer_advantage()), LEAD, times(of_size(LEAD), HIGHER), times(of_size(LEAD), SLOPE)
    ),
    "dapo gpg": case(
        gpg, CENTRED, [[-a / 8 * x for x in answer] for a, answer in zip(CENTRED, NEW, strict=True)],
        [[-a / 8 for _ in answer] for a, answer in zip(CENTRED, NEW, strict=True)],
    ),
    "dapo token baseline": case(
        lambda: dapo_with(token_baseline_advantage()), TOKEN, by_token(TOKEN, HIGHER), by_token(TOKEN, SLOPE),
        change=with_collision,
    ),
    "dapo token baseline lone": case(
        lambda: dapo_with(token_baseline_advantage(lone="reward")), LONE, by_token(LONE, HIGHER), by_token(LONE, SLOPE),
        change=with_collision,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    assert check(CASES[name]).credit.keep_BT.sum() == sum(map(len, ALL))


def rewarded(rewards):
    count = len(rewards)
    rollouts = rollouts_of([[-1.0]] * count, groups=[i // 4 for i in range(count)], reward=rewards)
    return dataclasses.replace(rollouts, extra={"collision": torch.full((count, 1), 0.5, dtype=torch.float64)})


def test_gpg_scales_by_the_answers_that_teach():
    """Two groups of four; in the second all are right, so half the batch teaches. Three rewards of eight are 0."""
    rollouts = rewarded([1.0, 0, 0, 0, 1, 1, 1, 1])
    got = credit_of(chain(group_policy_gradient()), rollouts).advantage_BT[:4, 0]
    assert got.tolist() == [2 * 0.75, -0.5, -0.5, -0.5]
    got = credit_of(chain(group_policy_gradient(count="nonzero")), rollouts).advantage_BT[:4, 0]
    torch.testing.assert_close(got, got.new_tensor([0.75, -0.25, -0.25, -0.25]) * 8 / 5, rtol=0, atol=1e-12)


def test_two_best_answers_share_no_lead_and_an_unjudged_one_does_not_count():
    link = chain(best_answer_advantage(std=False))
    assert credit_of(link, rewarded([2.0, 2, 0, 1])).advantage_BT.abs().sum() == 0
    assert credit_of(link, rewarded([2.0, math.nan, 0, 1])).advantage_BT[:, 0].tolist() == [1, 0, 0, 0]
    assert credit_of(link, rewarded([2.0])).advantage_BT.abs().sum() == 0


def test_an_impossible_collision_is_named():
    rollouts = rewarded([1.0, 0, 0, 1])
    rollouts.extra["collision"][2, 0] = math.inf
    with pytest.raises(InputError, match="recorded collision of row 2, position 0 is inf"):
        credit_of(chain(token_baseline_advantage()), rollouts)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (lambda: best_answer_advantage(eps=-1.0), "best_answer_advantage eps is -1.0"),
        (lambda: group_policy_gradient(count="all"), "unknown count 'all'"),
        (lambda: token_baseline_advantage(lone="mean"), "unknown lone 'mean'"),
    ],
)
def test_an_argument_out_of_range_is_named(link, message):
    with pytest.raises(InputError, match=message):
        link()
