"""How different the answers to a problem are: mistakes and meanings, by hand and by published vectors."""

from __future__ import annotations

import math

import pytest
import torch

from core_batches import rollouts_of
from forkpoint.credit import chain, credit_of, group_advantage
from forkpoint.credit.diversity import diversity_shift, error_diversity, semantic_caution, semantic_entropy
from forkpoint.errors import InputError
from forkpoint.rollouts import Verdict


def same(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def shifted(classes, groups=None, sizes=None, wrong=None):
    """-1 plus the shift, bounded at half of it: the vectors of the paper's formula."""
    n = len(classes)
    size = torch.ones(n, dtype=torch.float64) if sizes is None else torch.tensor(sizes, dtype=torch.float64)
    mask = torch.ones(n, dtype=torch.bool) if wrong is None else torch.tensor(wrong)
    group = torch.zeros(n, dtype=torch.int64) if groups is None else torch.tensor(groups)
    shift = diversity_shift(size, mask, torch.tensor(classes), group, alpha=0.4, beta=0.2)
    return shift.sign() * torch.minimum(shift.abs(), size / 2) - size


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([0, 0, 1, 2], [-1.1, -1.1, -0.9, -0.9]),
        ([3, 3, 3, 3], [-1.2] * 4),
        ([0, 1, 2, 3], [-1.0] * 4),
        ([5], [-1.0]),
    ],
)
def test_published_vectors(classes, expected):
    same(shifted(classes), expected)


def test_groups_and_right_answers_are_apart():
    """Group 0: two wrong of one kind, a right one; group 1: kinds of its own with the same numbers."""
    got = shifted([1, 1, 1, 1, 2], groups=[0, 0, 0, 1, 1], wrong=[True, True, False, True, True])
    same(got, [-1.2, -1.2, -1.0, -1.0, -1.0])


def test_the_shift_is_bounded_and_its_size_is_that_of_the_wrong_answers():
    """|A| 1 3 of one kind: S = 2, Δ = -2 β with β 1: bounded at half of each: -0.5, and -1.5."""
    size = torch.tensor([1.0, 3.0], dtype=torch.float64)
    one = torch.zeros(2, dtype=torch.int64)
    same(diversity_shift(size, one == 0, one, one, alpha=0.0, beta=1.0), [-2.0, -2.0])


def test_a_verdict_decides_who_is_wrong():
    rollouts = rollouts_of([[-1.0]] * 3, groups=[0] * 3, reward=[1.0, 0.2, 0.2])
    import dataclasses

    verdicts = (Verdict.RIGHT, Verdict.WRONG, Verdict.WRONG)
    rollouts = dataclasses.replace(rollouts, verdicts=verdicts, extra={"error_class": torch.zeros(3).long()})
    plain = credit_of(chain(group_advantage(std=False)), rollouts).advantage_BT
    got = credit_of(chain(group_advantage(std=False), error_diversity()), rollouts).advantage_BT
    same(got[:, 0], [float(plain[0, 0]), 1.2 * float(plain[1, 0]), 1.2 * float(plain[2, 0])])


def entropy_of(clusters, *, groups=None, judged=None, logp=None):
    n = len(clusters)
    return semantic_entropy(
        torch.tensor(clusters),
        torch.zeros(n, dtype=torch.int64) if groups is None else torch.tensor(groups),
        torch.ones(n, dtype=torch.bool) if judged is None else torch.tensor(judged),
        None if logp is None else torch.tensor(logp, dtype=torch.float64),
        dtype=torch.float64,
    )


def test_semantic_entropy_by_counts():
    """Sizes 3 1 of 4: -(ln 3/4 + ln 1/4) / 2 over ln 4; all alike 0; all different 1; one answer 0."""
    same(entropy_of([1, 1, 1, 2]), [-(math.log(0.75) + math.log(0.25)) / 2 / math.log(4)] * 4)
    same(entropy_of([7, 7, 7]), [0] * 3)
    same(entropy_of([1, 2, 3]), [1] * 3)
    same(entropy_of([1]), [0])
    same(entropy_of([1, 1, 1, 2], groups=[0, 0, 5, 5]), [0, 0, 1, 1])


def test_semantic_entropy_leaves_out_what_was_not_judged():
    same(entropy_of([1, 1, 2], judged=[True, True, False]), [0, 0, 0])
    same(entropy_of([1, 2, 3], judged=[False, False, False]), [0, 0, 0])


def test_semantic_entropy_by_probabilities_does_not_underflow():
    """ln p of 1000 nats below: clusters {-1000, -1000} and {-1200}."""
    expected = -((-1000 + math.log(2)) + -1200) / 2 / math.log(3)
    same(entropy_of([1, 1, 2], logp=[-1000.0, -1000.0, -1200.0]), [expected] * 3)


@pytest.mark.parametrize("arguments", [{"shape": "cubic"}, {"estimator": "mean"}, {"alpha": -0.1}, {"gamma": 0.0}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        semantic_caution(**arguments)
