"""Weights from hidden states: sides, spans and transport."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from core_batches import padded, rollouts_of
from forkpoint.credit import chain, credit_of, group_advantage
from forkpoint.credit.hidden import discriminative_weight, side_scores, soft_sides, span_distance_weight
from forkpoint.credit.transport import Spans, largest_over_spans, nearest_opposite, sinkhorn_cost, spans_of

NAN = float("nan")


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(got, expected, atol=1e-12):
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def test_side_scores_by_hand():
    """Up 0 and 4 with pulls 1 and 3: centroid 3. Down 1: centroid 1. Scores (1-9)/10, (9-1)/10, (4-0)/4."""
    got = side_scores(
        double([0.0], [4.0], [1.0]),
        double(1.0, 3.0, 2.0),
        torch.tensor([True, True, False]),
        torch.zeros(3, dtype=torch.int64),
        1,
    )
    close(got, double(-0.8, 0.8, 1.0))


def test_a_segment_with_one_side_only_and_one_point_for_all_score_nothing():
    up, zero = torch.tensor([True, True, False, False]), torch.zeros(4, dtype=torch.int64)
    segment = torch.tensor([0, 0, 1, 1])
    spread = double([1.0], [2.0], [3.0], [5.0])
    assert (side_scores(spread, torch.ones(4).double(), up, segment, 2) == 0).all()
    assert (side_scores(torch.ones(4, 1).double(), torch.ones(4).double(), up, zero, 1) == 0).all()
    pulled = double(0.0, 0.0, 1.0, 1.0)
    assert (side_scores(spread, pulled, up, zero, 1) == 0).all(), "a side that nobody pulls has no centroid"


def test_soft_sides_by_hand():
    """Side 0 has root mean square 0.5, side 1 nothing: sigmoid(±1 / 2) and one half."""
    got = soft_sides(double(0.5, -0.5, 0.0), torch.tensor([0, 0, 1]), 2, 2.0)
    close(got, double(1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5)), 0.5))
    assert (soft_sides(double(0.5, -0.7), torch.tensor([0, 0]), 1, math.inf) == 0.5).all()


def judged(hidden, reward, groups, logp=None):
    rollouts = rollouts_of(logp or [[-1.0] * len(r) for r in hidden], groups=groups, reward=reward)
    return dataclasses.replace(rollouts, extra={"hidden": padded(hidden, fill=NAN)[..., None]})


def weights(link, rollouts):
    return credit_of(chain(group_advantage(), link), rollouts).weight_BT


def test_what_both_sides_share_weighs_less():
    """Each answer has the token 0 of the other side and one of its own, +3 or -3."""
    got = weights(discriminative_weight(temperature=0.5), judged([[0.0, 3.0], [0.0, -3.0]], [1.0, 0.0], [0, 0]))
    assert (got[:, 1] > 1).all()
    assert (got[:, 0] < 1).all()
    assert float(got.mean()) == pytest.approx(1.0, abs=1e-12)


def test_one_side_alone_or_no_advantage_keeps_its_weights():
    for reward in ([1.0, 1.0], [0.0, 0.0]):
        rollouts = judged([[0.0, 3.0], [1.0, -3.0]], reward, [0, 0])
        assert (weights(discriminative_weight(temperature=0.5), rollouts) == 1).all()
    apart = judged([[0.0, 3.0], [1.0, -3.0]], [1.0, 0.0], [0, 0])
    link = discriminative_weight(temperature=0.5, scope="sequence")
    close(weights(link, apart), torch.ones(2, 2, dtype=torch.float64))


def test_a_certain_token_pulls_no_centroid():
    """log π = 0: g = 0 whatever the hidden state; the same as hidden states of 0 there."""
    logp = [[-1.0, 0.0], [-1.0, 0.0]]
    loud = weights(
        discriminative_weight(temperature=1.0), judged([[1.0, 50.0], [2.0, -90.0]], [1.0, 0.0], [0, 0], logp)
    )
    quiet = weights(discriminative_weight(temperature=1.0), judged([[1.0, 0.0], [2.0, 0.0]], [1.0, 0.0], [0, 0], logp))
    close(loud, quiet)


def test_spans_cover_every_token_once_the_stride_fits():
    for width, stride in ((1, 1), (3, 1), (3, 3), (4, 2), (100, 25)):
        length = torch.tensor([0, 1, 2, 3, 4, 5, 99, 100, 101, 126, 260])
        spans = spans_of(length, width=width, stride=stride)
        assert (spans.size_K >= 1).all()
        assert (spans.size_K <= width).all()
        covered = torch.zeros(len(length), 260)
        for row, start, size in zip(spans.row_K, spans.start_K, spans.size_K, strict=True):
            covered[row, start : start + size] += 1
        inside = torch.arange(260)[None] < length[:, None]
        assert torch.equal(covered > 0, inside)
        starts = spans.start_K[spans.row_K == 10]
        assert torch.equal(starts, torch.arange(len(starts)) * stride)
        assert (length[10] - starts[-1]) <= width
        assert len(starts) == 1 or length[10] - starts[-2] > width, "no span is superfluous"


def test_sinkhorn_between_its_limits():
    """Small ε: the assignment's cost (scipy); large ε: the mean cost; masked points play no part."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(2, 6, 6, dtype=torch.float64, generator=generator)
    every = torch.ones(2, 6, dtype=torch.bool)
    exact = [cost[p][linear_sum_assignment(cost[p].numpy())].mean().item() for p in range(2)]
    close(sinkhorn_cost(cost, every, every, epsilon=0.002, iterations=4000), double(*exact), atol=2e-3)
    close(sinkhorn_cost(cost, every, every, epsilon=1e6), cost.mean((1, 2)), atol=1e-6)
    wide = torch.full((2, 8, 9), NAN, dtype=torch.float64)
    wide[:, :6, :6] = cost
    rows, columns = torch.arange(8) < 6, torch.arange(9) < 6
    got = sinkhorn_cost(wide, rows.expand(2, 8), columns.expand(2, 9), epsilon=0.3)
    close(got, sinkhorn_cost(cost, every, every, epsilon=0.3))
    middle = sinkhorn_cost(cost, every, every, epsilon=0.1, iterations=400)
    assert (middle > double(*exact)).all()
    assert (middle < cost.mean((1, 2))).all()


def test_the_nearest_opposite_span_by_hand_whatever_the_budget():
    """Group 0: right 0 5, wrong 1 9: distances 1 4 | 1 4. Group 1: no wrong answer. An unjudged answer is nobody's."""
    hidden = padded([[0.0, 5.0], [1.0, 9.0], [3.0, 3.0], [5.0, 5.0]])[..., None]
    spans = spans_of(torch.tensor([2, 2, 2, 2]), width=1, stride=1)
    right, wrong = torch.tensor([True, False, True, False]), torch.tensor([False, True, False, False])
    for budget in (1, 7, 1 << 20):
        got = nearest_opposite(
            hidden,
            spans,
            torch.tensor([0, 0, 1, 0]),
            right,
            wrong,
            scale_B=double(2, 2, 1, 2),
            epsilon=0.5,
            budget=budget,
        )
        assert got.tolist() == [0.5, 2.0, 0.5, 2.0, math.inf, math.inf, math.inf, math.inf]
    nothing = spans_of(torch.zeros(4, dtype=torch.int64), width=1, stride=1)
    assert nearest_opposite(
        hidden, nothing, torch.zeros(4, dtype=torch.int64), right, wrong, scale_B=double(1, 1, 1, 1), epsilon=1.0
    ).shape == (0,)  # fmt: skip


def test_the_distance_of_spans_is_the_transport_of_their_tokens():
    """Spans 0 0 and 4 8 against 1 1: two points each; all mass moves by 1, and by (3 + 7) / 2."""
    hidden = padded([[0.0, 0.0, 4.0, 8.0], [1.0, 1.0]])[..., None]
    spans = spans_of(torch.tensor([4, 2]), width=2, stride=2)
    got = nearest_opposite(
        hidden, spans, torch.tensor([0, 0]), torch.tensor([True, False]), torch.tensor([False, True]),
        scale_B=double(1, 1), epsilon=0.1,
    )  # fmt: skip
    close(got, double(1.0, 5.0, 1.0))


def test_the_largest_of_the_spans_that_hold_a_token():
    spans = Spans(row_K=torch.tensor([0, 0, 1]), start_K=torch.tensor([0, 1, 1]), size_K=torch.tensor([2, 2, 1]))
    got = largest_over_spans(double(2.0, 1.0, 5.0), spans, torch.Size((2, 4)))
    assert got.tolist() == [[2.0, 2.0, 1.0, 0.0], [0.0, 5.0, 0.0, 0.0]]
    none = Spans(row_K=spans.row_K[:0], start_K=spans.start_K[:0], size_K=spans.size_K[:0])
    assert not largest_over_spans(double(), none, torch.Size((2, 4))).any()


def test_groups_of_one_outcome_keep_their_weights():
    rollouts = judged([[1.0, 2.0], [3.0], [4.0], [5.0]], [1.0, 1.0, 1.0, 0.0], [0, 0, 1, 1])
    got = weights(span_distance_weight(epsilon=1.0), rollouts)
    close(got[:2], torch.ones(2, 2, dtype=torch.float64))
    close(got[2:, 0], double(1 / 4.5, 1 / 4.5))


def test_hidden_states_of_no_length_are_not_divided_by():
    rollouts = judged([[0.0, 0.0], [0.0]], [1.0, 0.0], [0, 0])
    assert weights(span_distance_weight(epsilon=1.0), rollouts)[rollouts.mask_BT].tolist() == [0.0, 0.0, 0.0]


def test_hidden_states_of_half_precision_are_taken():
    rollouts = judged([[1.0, 2.0], [3.0, 5.0]], [1.0, 0.0], [0, 0])
    half = dataclasses.replace(rollouts, extra={"hidden": rollouts.extra["hidden"].to(torch.bfloat16)})
    for link in (span_distance_weight(epsilon=1.0, width=2, stride=1), discriminative_weight(temperature=1.0)):
        np.testing.assert_allclose(weights(link, half).numpy(), weights(link, rollouts).numpy(), rtol=0, atol=1e-12)
