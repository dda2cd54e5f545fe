"""Advantages shaped by entropy: statistics of tokens within segments, and bad inputs."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import rollouts_of
from forkpoint.credit import chain, credit_of, group_advantage
from forkpoint.credit.shape import (
    advantage_bound,
    answer_steadiness,
    entropy_scale,
    planning_push,
    polarity_entropy,
    steadiness_scale,
)
from forkpoint.credit.statistics import answer_mean, standardised, token_mean, value_range
from forkpoint.errors import InputError

NAN = math.nan


def same(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


VALUE = torch.tensor([[1.0, 3.0], [5.0, NAN], [2.0, 2.0], [NAN, NAN]], dtype=torch.float64)
MASK = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]]) > 0
SEGMENT = torch.tensor([0, 0, 1, 2])


def test_statistics_of_segments():
    same(token_mean(VALUE, MASK, SEGMENT), [3, 2, 0])
    same(answer_mean(VALUE, MASK), [2, 5, 2, 0])
    low, high = value_range(VALUE, MASK, SEGMENT)
    same(low, [1, 2, 0])
    same(high, [5, 2, 0])


def test_standardised_within_segments():
    """1 3 5: mean 3, deviation 2. 2 2: equal. The last has nothing."""
    same(standardised(VALUE, MASK, SEGMENT), [[-1, 0], [1, 0], [0, 0], [0, 0]])


def test_equal_values_are_exactly_average_however_they_round():
    value = torch.full((7, 3), 0.1, dtype=torch.float64)
    assert (standardised(value, value > 0, torch.zeros(7, dtype=torch.int64)) == 0).all()


def test_statistics_of_no_rows_and_no_positions():
    for shape in ((0, 0), (0, 3), (2, 0)):
        empty, segment = torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64)
        assert standardised(empty, empty > 0, segment).shape == shape


def test_steadiness():
    """Group 0: 1 and 3, an answer without tokens beside: mean 2. Group 1: 9 against 1 1 1, floor at 0."""
    entropy = torch.tensor([[1.0, 1.0], [3.0, NAN], [NAN, NAN], [9.0, 9], [1, 1], [1, 1], [1, 1]], dtype=torch.float64)
    keep = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1], [1, 1], [1, 1], [1, 1]]) > 0
    got = answer_steadiness(entropy, keep, torch.tensor([0, 0, 0, 1, 1, 1, 1]))
    same(got, [1.5, 0.5, 2.0, 0.0, *[2 - 1 / 3] * 3])


def test_steadiness_without_any_entropy_changes_nothing():
    keep = torch.ones(2, 2, dtype=torch.bool)
    same(answer_steadiness(torch.zeros(2, 2, dtype=torch.float64), keep, torch.tensor([0, 0])), [1, 1])


LINKS = {
    "polarity_entropy": polarity_entropy(),
    "steadiness_scale": steadiness_scale(),
    "entropy_scale": entropy_scale(source="behaviour", scope="rollout"),
}


@pytest.mark.parametrize("name", LINKS)
def test_an_entropy_that_is_not_finite_is_named(name):
    rollouts = rollouts_of([[-1.0], [-1.0]], groups=[0, 0], reward=[1.0, 0.0], entropy=[[NAN], [1.0]])
    with pytest.raises(InputError, match="entropy of row 0, position 0 is nan"):
        credit_of(chain(group_advantage(), LINKS[name]), rollouts)


@pytest.mark.parametrize("name", LINKS)
def test_lower_bounds_of_entropies_are_refused(name):
    rollouts = rollouts_of([[-1.0], [-1.0]], groups=[0, 0], reward=[1.0, 0.0])
    with pytest.raises(InputError, match="only lower bounds"):
        credit_of(chain(LINKS[name]), dataclasses.replace(rollouts, entropy_kind="lower-bound"))


@pytest.mark.parametrize("name", LINKS)
def test_a_token_without_advantage_gets_none(name):
    rollouts = rollouts_of([[-1.0, -1.0], [-1.0]], groups=[0, 1], reward=[1.0, 0.0], entropy=[[0.1, 5.0], [1.0]])
    assert (credit_of(chain(LINKS[name]), rollouts).advantage_BT == 0).all()


def test_planning_marks_on_padding_do_not_matter():
    rollouts = rollouts_of([[-1.0, -1.0], [-1.0]], groups=[0, 0], reward=[1.0, 0.0])
    marked = dataclasses.replace(rollouts, extra={"planning": torch.ones(2, 2)})
    got = credit_of(chain(group_advantage(std=False), planning_push(alpha=1.0)), marked).advantage_BT
    same(got, [[1.0, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("make", "arguments"),
    [(advantage_bound, {"bound": 0.0}), (steadiness_scale, {"strength": 1.5}), (entropy_scale, {"source": "now"})],
)
def test_bad_arguments_are_named(make, arguments):
    with pytest.raises(InputError, match=f"{make.__name__.split('_')[0]}.*{next(iter(arguments))}|source"):
        make(**arguments)
