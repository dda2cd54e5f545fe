"""HTPO's groups: boundaries of an answer, which tokens are silenced, which keep a gradient."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import padded, rollouts_of
from forkpoint.credit import chain, clip, credit_of, group_advantage
from forkpoint.credit.groups import row_extremes, token_groups
from forkpoint.errors import InputError
from forkpoint.rollouts import Forward, Verdict

NAN = float("nan")


def test_boundaries_by_hand():
    """Of 5, 1 and 3 values: floor(0.4 n) = 2, 0, 1, at least 1."""
    value = padded([[1.0, 5.0, 3.0, 3.0, 2.0], [4.0], [9.0, 7.0, 8.0]], fill=NAN)
    mask = value.isfinite()
    assert row_extremes(value, mask, 0.4).squeeze(1).tolist() == [3.0, 4.0, 9.0]
    assert row_extremes(value, mask, 0.4, largest=False).squeeze(1).tolist() == [2.0, 4.0, 7.0]
    mask[1] = False
    assert row_extremes(value, mask, 0.4)[1].item() == math.inf
    assert row_extremes(value, mask, 0.4, largest=False)[1].item() == -math.inf
    assert row_extremes(value[:, :0], mask[:, :0], 0.4).squeeze(1).tolist() == [math.inf] * 3


def test_shares_mean_what_they_say():
    """0.29 * 100 is 28.999999999999996 in floating point and means 29."""
    value = torch.arange(100, dtype=torch.float64)[None]
    assert row_extremes(value, value >= 0, 0.29).item() == 71.0


ENTROPY = [[0.1, 0.2, 0.3, 0.4, 0.9], [0.5, 0.5, 0.1], [0.6], [0.2, 0.8]]


def credit_with(verdicts=(), ratio=1.0, **arguments):
    """Answers 0 and 1 right and wrong of a group with pass rate 1/2; answers 2 and 3 right of one with rate 1."""
    rollouts = rollouts_of(
        [[-1.0] * len(r) for r in ENTROPY], groups=[0, 0, 1, 1], reward=[1.0, 0.0, 1.0, 1.0], entropy=ENTROPY
    )
    rollouts = dataclasses.replace(rollouts, verdicts=verdicts)
    forward = Forward(logp_BT=rollouts.logp_BT + math.log(ratio), entropy_BT=padded(ENTROPY, fill=NAN))
    return rollouts, credit_of(chain(group_advantage(), clip(), token_groups(**arguments)), rollouts, forward=forward)


def rows(mask):
    return [row[: len(r)] for row, r in zip(mask.int().tolist(), ENTROPY, strict=True)]


def test_what_keeps_its_gradient():
    """High: floor(0.4 n) = 2 of 5, 1 of 3 (a tie makes it 2), the one, 1 of 2. Only answer 0 is hard and right."""
    _, credit = credit_with(share=0.4)
    assert rows(credit.scaled_high_BT) == [[0, 0, 0, 1, 1], [0, 0, 0], [0], [0, 0]]
    assert rows(credit.scaled_low_BT) == [[0] * 5, [1, 1, 0], [0], [0, 0]]
    _, credit = credit_with(share=0.4, easy=0.5)
    assert not credit.scaled_high_BT.any(), "no group is hard"
    assert rows(credit.scaled_low_BT)[1] == [1, 1, 0], "wrong answers keep it in easy groups too"


def test_what_is_silenced():
    """Low tokens of answer 0: 0.1 0.2 0.3; strictly below the 2nd smallest is one. Easy answers lose their top."""
    _, credit = credit_with(share=0.4, lowest=0.67, highest=0.02)
    assert rows(credit.weight_BT) == [[0, 1, 1, 1, 1], [1, 1, 1], [0], [1, 0]]
    _, credit = credit_with(share=0.4, lowest=0.0, highest=0.0)
    assert rows(credit.weight_BT) == [[1] * 5, [1] * 3, [1], [1, 1]]
    rollouts, credit = credit_with(share=0.4)
    assert torch.equal(credit.keep_BT, rollouts.mask_BT), "silenced tokens stay in the denominator"


def test_verdicts_decide_where_there_are_any():
    """Rewards say right, wrong, right, right; the verdicts wrong, right, unjudged, wrong."""
    verdicts = (Verdict.WRONG, Verdict.RIGHT, Verdict.WRONG, Verdict.WRONG)
    _, credit = credit_with(verdicts, share=0.4)
    assert rows(credit.scaled_high_BT) == [[0] * 5, [1, 1, 0], [0], [0, 0]]
    assert rows(credit.scaled_low_BT) == [[0, 0, 0, 1, 1], [0] * 3, [1], [0, 1]]


def test_the_released_sign_beyond_a_bound():
    """Ratio 2 > 1.2: hard, right, high tokens turn. Ratio 1/2 < 0.8: wrong, high ones turn, right ones weigh 1/r²."""
    _, credit = credit_with(share=0.4, lowest=0, highest=0, preset="released", ratio=2.0)
    assert rows(credit.weight_BT) == [[1, 1, 1, -1, -1], [1, 1, 1], [1], [1, 1]]
    _, credit = credit_with(share=0.4, lowest=0, highest=0, preset="released", ratio=0.5)
    torch.testing.assert_close(
        credit.weight_BT, padded([[1, 1, 1, -4, -4], [-1, -1, 1], [1], [1, 1]], fill=1.0), rtol=0, atol=1e-12
    )


def test_flags_of_links_before_stay():
    def flagged(rollouts, forward):
        first = token_groups(share=0.4)
        return credit_of(chain(group_advantage(), clip(), first, token_groups(share=0.2)), rollouts, forward=forward)

    rollouts, credit = credit_with(share=0.4)
    again = flagged(rollouts, Forward(logp_BT=rollouts.logp_BT, entropy_BT=padded(ENTROPY)))
    assert torch.equal(again.scaled_high_BT, credit.scaled_high_BT)


def test_an_entropy_that_is_not_finite_is_refused():
    rollouts, _ = credit_with()
    broken = padded(ENTROPY)
    broken[1, 2] = NAN
    whole = chain(group_advantage(), token_groups())
    with pytest.raises(InputError, match="current entropy of row 1, position 2"):
        credit_of(whole, rollouts, forward=Forward(logp_BT=rollouts.logp_BT, entropy_BT=broken))
    assert (token_groups().when, token_groups().scope, token_groups().needs) == (
        "update", "group", {"forward", "reward"},
    )  # fmt: skip
