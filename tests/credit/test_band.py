"""Bands and running thresholds, draws with known probabilities, listed ids."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from core_batches import padded, random_rollouts, rollouts_of
from forkpoint.credit import chain, credit_of, init, run
from forkpoint.credit.band import surprisal_band, typical_peak, window_threshold
from forkpoint.credit.sampled import (
    inclusion_of_prefix,
    rock_ids,
    sampled_prefix,
    sampled_tokens,
    without_ids,
)
from forkpoint.errors import InputError
from forkpoint.rollouts import Forward, blank_credit

NAN, INF = float("nan"), float("inf")


def test_the_band_includes_its_bounds_and_certain_tokens_are_at_zero():
    """-log π / H: 1, 2, 4, 0 (log π = 0 and H = 0), ∞ (H = 0)."""
    rollouts = rollouts_of([[-1.0, -2.0, -2.0, 0.0, -3.0]], groups=[0], entropy=[[1.0, 1.0, 0.5, 0.0, 0.0]])

    def kept(**arguments):
        return credit_of(chain(surprisal_band(**arguments)), rollouts).keep_BT[0].int().tolist()

    assert kept(low=1, high=2) == [1, 1, 0, 0, 0]
    assert kept(low=0, high=3.9) == [1, 1, 0, 1, 0]
    assert kept(low=2.1, high=INF) == [0, 0, 1, 0, 1]
    assert kept(low=0, high=INF) == [1, 1, 1, 1, 1]


def test_the_band_reads_the_policy_it_is_told():
    rollouts = rollouts_of([[-1.0, -1.0]], groups=[0], entropy=[[1.0, 1.0]])
    forward = Forward(logp_BT=padded([[-1.0, -3.0]]), entropy_BT=padded([[0.25, 3.0]]))
    link = surprisal_band(low=0.5, high=1.5, source="current")
    assert (link.when, link.needs) == ("update", {"forward"})
    assert credit_of(chain(link), rollouts, forward=forward).keep_BT.tolist() == [[False, True]]
    link = surprisal_band(low=0.5, high=1.5)
    assert (link.when, link.needs) == ("rollout", {"entropy"})
    assert credit_of(chain(link), rollouts, forward=forward).keep_BT.all()
    for bad, of in (("logp_BT", "log-prob"), ("entropy_BT", "entropy")):
        broken = dataclasses.replace(rollouts, **{bad: padded([[NAN, -1.0]])})
        with pytest.raises(InputError, match=f"behaviour {of} of row 0, position 0"):
            credit_of(chain(link), broken)


def test_the_typical_peak_leaves_out_answers_without_tokens():
    value = padded([[1.0, 2.0, 3.0], [9.0], [4.0, 8.0]], fill=NAN)
    mask = value.isfinite()
    assert typical_peak(value, mask, 1.0) == 8.0  # of 3, 9, 8
    assert typical_peak(value, mask, 0.0) == 4.0  # of 1, 9, 4
    mask[1] = False
    assert typical_peak(value, mask, 1.0) == 5.5  # of 3 and 8
    assert typical_peak(value, mask & False, 0.5) is None
    assert typical_peak(value[:, :0], mask[:, :0], 0.5) is None


def test_a_batch_without_windows_leaves_the_threshold_alone():
    link = chain(window_threshold(width=3, start=0.25))
    rollouts = rollouts_of([[-1.0, -1.0], [-1.0]], groups=[0, 0])
    credit, states = run(link, blank_credit(rollouts), rollouts, init(link), when="rollout")
    assert not credit.keep_BT.any()
    assert states == [{"threshold": 0.25}]
    first = chain(window_threshold(width=3))
    credit, states = run(first, blank_credit(rollouts), rollouts, init(first), when="rollout")
    assert not credit.keep_BT.any()
    assert states == [{"threshold": None}]
    assert json.loads(json.dumps(states)) == states


def test_a_start_below_zero_keeps_every_token_with_a_window():
    rollouts, _ = random_rollouts(2)
    link = chain(window_threshold(width=2, start=-1.0, decay=1.0))
    credit, states = run(link, blank_credit(rollouts), rollouts, init(link), when="rollout")
    length = rollouts.mask_BT.sum(1)
    assert torch.equal(credit.keep_BT.sum(1), (length - 1).clamp(min=0))
    assert states == [{"threshold": -1.0}]


def test_a_window_at_the_threshold_passes():
    """Windows 0.5 and 0.25 against 0.5."""
    link = chain(window_threshold(width=2, start=0.5))
    rollouts = rollouts_of([[-1.0] * 3], groups=[0], entropy=[[0.75, 0.25, 0.25]])
    assert credit_of(link, rollouts).keep_BT.tolist() == [[True, False, False]]


def test_sampled_tokens_are_unbiased_and_independent_of_everything_but_identity():
    """1000 draws at 0.3: the mean weight of every token is 1 within five standard errors of 0.048."""
    rollouts, forward = random_rollouts(3)
    link = sampled_tokens(share=0.3)
    total = torch.zeros_like(rollouts.logp_BT)
    for rng in range(1000):
        weight, _ = link.update(blank_credit(rollouts), rollouts, state={}, rng=rng)
        assert set(weight.weight_BT.unique().tolist()) <= {0.0, 1 / 0.3}
        total += weight.weight_BT
    assert float((total / 1000 - 1)[rollouts.mask_BT].abs().max()) < 5 * math.sqrt(0.7 / 0.3 / 1000)
    assert forward.logp_BT.shape == total.shape


def test_the_inclusion_of_a_prefix_by_hand():
    got = inclusion_of_prefix(torch.tensor([4, 1, 0, 5]), 5, 0.5)
    expected = [[1, 1, 2 / 3, 1 / 3, 0], [1, 0, 0, 0, 0], [0] * 5, [1, 1, 1, 2 / 3, 1 / 3]]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)
    assert (inclusion_of_prefix(torch.tensor([3]), 3, 1.0) == 1).all()


@pytest.mark.parametrize("least", [0.0, 0.4])
def test_cut_answers_are_unbiased_prefixes(least):
    rollouts, _ = random_rollouts(3)
    link = sampled_prefix(least=least)
    total = torch.zeros_like(rollouts.logp_BT)
    inclusion = inclusion_of_prefix(rollouts.mask_BT.sum(1), rollouts.mask_BT.shape[1], least)
    for rng in range(1000):
        weight = link.update(blank_credit(rollouts), rollouts, state={}, rng=rng)[0].weight_BT
        learns = weight > 0
        assert torch.equal(learns, learns.cummin(1).values), "kept tokens come first"
        assert learns[:, 0].all()
        total += weight
    spread = ((1 / inclusion - 1) / 1000).sqrt()[rollouts.mask_BT]
    assert ((total / 1000 - 1)[rollouts.mask_BT].abs() <= 5 * spread + 1e-12).all()


def test_draws_of_no_answers_and_of_empty_ones():
    nothing = rollouts_of([], groups=[])
    empty = rollouts_of([[], [-1.0]], groups=[0, 0])
    for link in (sampled_tokens(share=0.5), sampled_prefix(least=0.2), without_ids(ids=[1])):
        for rollouts in (nothing, empty):
            assert link.update(blank_credit(rollouts), rollouts, state={}, rng=0)[0].weight_BT.isfinite().all()


def test_rock_ids_by_hand():
    """Sums of KL: id 1 0.9 (three times), id 2 0.5, id 4 0.5, id 9 -0.1; skipping the most frequent leaves 2 and 4."""
    ids = torch.tensor([[1, 1, 1, 2], [4, 9, 4, 8]])
    kl = padded([[0.3, 0.3, 0.3, 0.5], [0.2, -0.1, 0.3, NAN]])
    mask = kl.isfinite()
    assert rock_ids(kl, ids, mask, count=9, skip=0) == [1, 2, 4]
    assert rock_ids(kl, ids, mask, count=9, skip=1) == [2, 4]
    assert rock_ids(kl, ids, mask, count=1, skip=1) == [2]
    assert rock_ids(kl, ids, mask, count=0, skip=1) == []
    assert rock_ids(kl, ids, mask & False) == []


def test_listed_ids_do_not_learn():
    rollouts = dataclasses.replace(
        rollouts_of([[-1.0, -1.0], [-1.0, -1.0]], groups=[0, 0]), ids_BT=torch.tensor([[4, 5], [6, 4]])
    )
    assert credit_of(chain(without_ids(ids=[4, 6])), rollouts).weight_BT.tolist() == [[0, 1], [0, 0]]
    dropped = without_ids(ids=(4,), denominator="selected")
    assert dropped.drops
    assert credit_of(chain(dropped), rollouts).keep_BT.tolist() == [[False, True], [True, False]]
    assert not without_ids(denominator="selected").drops
