"""Random and listed tokens: NAT, the random control, rock tokens."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import padded
from forkpoint.errors import InputError
from forkpoint.methods import METHODS
from forkpoint.methods.nat import nat_prefix, nat_tokens, random_tokens
from forkpoint.methods.rock_tokens import rock_tokens
from forkpoint.scope import token_order
from method_kit import A0, A1, BY_ANSWER, BY_TOKEN, GROUP, HIGHER, LENGTH, PPO, SLOPE, batch, case, check, row, times

ROWS = {
    "nat_tokens": row("nat_tokens"),
    "nat_tokens few": row("nat_tokens", share=0.3),
    "nat_prefix": row("nat_prefix", least=0.5),
    "nat_prefix anywhere": row("nat_prefix", least=0.0),
    "random_tokens": row("random_tokens"),
    "random_tokens all": row("random_tokens", denominator="all", scope="group", share=0.5),
    "rock_tokens": row("rock_tokens"),
    "rock_tokens listed": row("rock_tokens", ids=[7, 8]),
    "rock_tokens dropped": row("rock_tokens", ids=[7], denominator="selected"),
}

LINK = 3
"""Place of the drawing link in each chain: it draws with the key 0 + 3."""


def drawn():
    """The number in [0, 1) of every token of the shared batch, for that link."""
    rollouts, _ = batch()
    order_BT = token_order(tuple(p.id for p in rollouts.prompts), rollouts.group_B, rollouts.sample_B, 3, LINK)
    return [[order_BT[i, t].item() / 2**53 for t in range(n)] for i, n in enumerate(LENGTH)]


UNIT = drawn()
HALF = [[2.0 if u < 0.5 else 0.0 for u in answer] for answer in UNIT]


def prefix(least):
    """Kept up to m + floor(u (n - m + 1)) with u the draw of the first token; weights 1/π."""
    out = []
    for units, n in zip(UNIT, LENGTH, strict=True):
        m = max(1, math.ceil(least * n))
        cut = m + math.floor(units[0] * (n - m + 1))
        out.append([0.0 if t > cut else 1.0 if t <= m else (n - m + 1) / (n - t + 1) for t in range(1, n + 1)])
    return out


TWO = sorted(u for answer in UNIT for u in answer)[1]
RANDOM = [[1 if u <= TWO else 0 for u in answer] for answer in UNIT]
IDS = [[5, 6], [5], [9, 5, 6], [7, 6]]
LISTED = [[1, 0], [1], [1, 1, 0], [0, 0]]


def with_ids(rollouts, forward):
    return dataclasses.replace(rollouts, ids_BT=padded(IDS, dtype=torch.int64, fill=6)), forward


def weighed(weights, factors, rows):
    return times(factors, [[w * x for w, x in zip(*pair, strict=True)] for pair in zip(weights, rows, strict=True)])


PREFIX = prefix(0.0)
FOURTH = [A0 / 4, A0 / 4, A1 / 4, A1 / 4]
CASES = {
    "nat_tokens": case(
        nat_tokens, GROUP, weighed(HALF, BY_ANSWER, PPO), weighed(HALF, BY_ANSWER, SLOPE), weight=HALF
    ),
    "nat_tokens everything": case(
        lambda: nat_tokens(share=1), GROUP, times(BY_ANSWER, PPO), times(BY_ANSWER, SLOPE)
    ),
    "nat_prefix": case(
        lambda: nat_prefix(least=0), GROUP, weighed(PREFIX, BY_ANSWER, PPO), weighed(PREFIX, BY_ANSWER, SLOPE),
        weight=PREFIX,
    ),
    "nat_prefix everything": case(
        lambda: nat_prefix(least=1), GROUP, times(BY_ANSWER, PPO), times(BY_ANSWER, SLOPE)
    ),
    "random_tokens": case(
        random_tokens, GROUP, weighed(RANDOM, [A0 / 2, A0 / 2, A1 / 2, A1 / 2], HIGHER),
        weighed(RANDOM, [A0 / 2, A0 / 2, A1 / 2, A1 / 2], SLOPE), keep=RANDOM,
    ),
    "random_tokens everything": case(
        lambda: random_tokens(share=1), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)
    ),
    "rock_tokens": case(
        lambda: rock_tokens(ids=[6, 7, 6]), GROUP, weighed(LISTED, BY_TOKEN, HIGHER), weighed(LISTED, BY_TOKEN, SLOPE),
        weight=LISTED, change=with_ids,
    ),
    # Four tokens are left.
    "rock_tokens dropped": case(
        lambda: rock_tokens(ids=[6, 7], denominator="selected"), GROUP,
        weighed(LISTED, FOURTH, HIGHER), weighed(LISTED, FOURTH, SLOPE),
        keep=LISTED, change=with_ids,
    ),
    "rock_tokens none": case(rock_tokens, GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_the_draws_of_the_cases_are_no_corner():
    assert 0 < sum(x > 0 for answer in HALF for x in answer) < 8
    assert any(x == 0 for answer in PREFIX for x in answer)
    assert sum(map(sum, RANDOM)) == 2


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nat_tokens", {"share": 0}, "share is 0"),
        ("nat_tokens", {"share": True}, "share is True"),
        ("nat_prefix", {"least": 1.5}, "least is 1.5"),
        ("random_tokens", {"share": 2}, "share is 2"),
        ("rock_tokens", {"ids": [-1]}, "-1 among its ids"),
        ("rock_tokens", {"ids": [1.5]}, "1.5 among its ids"),
        ("rock_tokens", {"denominator": "both"}, "unknown denominator 'both' of without_ids"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(InputError, match=message):
        METHODS[name](**arguments)
