"""What selection links share: quantiles and counts of segments, and which link reads what."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core_batches import padded, random_rollouts, rollouts_of
from forkpoint.credit import chain, credit_of, run
from forkpoint.credit._choice import _exact_counts, choose, segment_quantile
from forkpoint.credit.select import top_gradient, top_window_entropy
from forkpoint.errors import InputError
from forkpoint.rollouts import Forward, blank_credit
from forkpoint.scope import exact_count, quantile

NAN = float("nan")
numbers = st.floats(-1e3, 1e3, width=32)


@settings(deadline=None, max_examples=80)
@given(
    rows=st.lists(st.lists(numbers, max_size=6), min_size=1, max_size=6), q=st.floats(0, 1),
    split=st.sampled_from(["one", "rows", "pairs"]), dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_the_quantile_of_every_segment_is_the_quantile_of_its_values_bit_for_bit(rows, q, split, dtype):
    value = padded(rows, fill=NAN, dtype=dtype)
    mask = value.isfinite()
    place = {"one": [0] * len(rows), "rows": range(len(rows)), "pairs": [i // 2 for i in range(len(rows))]}[split]
    segment = torch.tensor(list(place))
    got = segment_quantile(value, mask, q, segment)
    for s in range(int(segment.max()) + 1):
        values = value[segment == s][mask[segment == s]]
        assert torch.equal(got[s], quantile(values, q)) if values.numel() else got[s].isnan()


@settings(deadline=None, max_examples=60)
@given(share=st.integers(1, 1000), sizes=st.lists(st.integers(0, 100_000), min_size=1, max_size=20))
@example(share=140, sizes=[50, 100, 30])  # 0.14 * 50 is 7.000000000000001
def test_counts_of_all_segments_are_those_of_each(share, sizes):
    got = _exact_counts(share / 1000, torch.tensor(sizes))
    assert got.tolist() == [exact_count(share / 1000, n) for n in sizes]


def test_choose_drops_or_silences():
    rollouts = rollouts_of([[-1.0, -1.0], [-1.0]], groups=[0, 0])
    credit = dataclasses.replace(blank_credit(rollouts), weight_BT=torch.full((2, 2), 3.0).double())
    chosen = torch.tensor([[True, False], [False, True]])
    dropped = choose(credit, chosen, "selected")
    assert dropped.keep_BT.tolist() == [[True, False], [False, False]], "what did not count does not count again"
    assert (dropped.weight_BT == 3).all()
    silenced = choose(credit, chosen, "all")
    assert silenced.weight_BT.tolist() == [[3, 0], [0, 3]]
    assert torch.equal(silenced.keep_BT, rollouts.mask_BT)


ENTROPY = [[0.9, 0.1, 0.5], [0.8], [0.25, 0.5, 0.75, 0.0]]


def windows(**arguments):
    rollouts = rollouts_of([[-1.0] * len(r) for r in ENTROPY], groups=[0, 0, 1], entropy=ENTROPY)
    credit = credit_of(chain(top_window_entropy(width=2, **arguments)), rollouts)
    return [row[: len(r)] for row, r in zip(credit.keep_BT.int().tolist(), ENTROPY, strict=True)]


def test_windows_by_hand():
    """Windows 0.5 0.3 | none | 0.375 0.625 0.375: the largest two, the two lowest, and one an answer that has any."""
    assert windows(share=0.4) == [[1, 0, 0], [0], [0, 1, 0, 0]]
    assert windows(share=0.2, keep="bottom") == [[0, 1, 0], [0], [0, 0, 0, 0]]
    assert windows(share=0.2, scope="sequence") == [[1, 0, 0], [0], [0, 1, 0, 0]]
    assert windows(share=0.5, ties="threshold") == [[1, 0, 0], [0], [1, 1, 1, 0]]
    assert windows(share=1) == [[1, 1, 1], [1], [1, 1, 1, 1]]
    drawn = windows(share=0.4, keep="random")
    assert sum(map(sum, drawn)) == 2
    assert [drawn[0][2], drawn[1][0], drawn[2][3]] == [0, 0, 0], "a token without a window is no candidate"


def test_gradient_compares_answers():
    """|A| 0 | 2: the answer without advantage comes last, whatever its tokens."""
    rollouts = rollouts_of([[-9.0, -9.0], [-0.1, -2.0, -1.0]], groups=[0, 1])
    advantage = torch.tensor([0.0, 2.0])[:, None].double()
    credit = dataclasses.replace(blank_credit(rollouts), advantage_BT=advantage * rollouts.mask_BT)
    for share, expected in ((0.2, [1]), (0.4, [1, 2]), (0.6, [0, 1, 2])):
        link = top_gradient(share=share, source="behaviour", scope="rollout")
        keep = run(chain(link), credit, rollouts, [{}], when="rollout")[0].keep_BT
        assert not keep[0].any()
        assert keep[1].nonzero().squeeze(1).tolist() == expected
    heavy = dataclasses.replace(credit, weight_BT=padded([[1, 1], [30, 1, 1]]))
    link = top_gradient(share=0.2, source="behaviour", scope="rollout")
    assert run(chain(link), heavy, rollouts, [{}], when="rollout")[0].keep_BT[1, 0], "weights count"


@pytest.mark.parametrize(
    ("link", "when", "needs"),
    [
        (top_window_entropy(), "rollout", {"entropy"}),
        (top_window_entropy(source="current"), "update", {"forward"}),
        (top_window_entropy(scope="mini"), "update", {"entropy"}),
        (top_window_entropy(keep="random"), "update", set()),
        (top_gradient(), "update", {"forward"}),
        (top_gradient(source="behaviour"), "update", set()),
        (top_gradient(source="behaviour", scope="rollout"), "rollout", set()),
        (top_gradient(length="exact"), "update", {"forward", "forward_collision"}),
        (top_gradient(length="exact", source="behaviour"), "update", {"collision"}),
        (top_gradient(length="exact", keep="random"), "update", set()),
    ],
)
def test_when_it_runs_and_what_it_needs(link, when, needs):
    assert (link.when, link.needs, link.stage) == (when, needs, "selection")
    assert link.drops
    assert not link.adds


def test_a_value_that_is_not_finite_is_refused_by_place():
    rollouts, forward = random_rollouts(3)
    broken = forward.logp_BT.clone()
    broken[6, 1] = NAN
    with pytest.raises(InputError, match="current log-prob of row 6, position 1 is nan"):
        credit_of(chain(top_gradient()), rollouts, forward=Forward(logp_BT=broken, entropy_BT=forward.entropy_BT))
    entropy = rollouts.entropy_BT.clone()
    entropy[4, 5] = NAN
    with pytest.raises(InputError, match="behaviour entropy of row 4, position 5 is nan"):
        credit_of(chain(top_window_entropy()), dataclasses.replace(rollouts, entropy_BT=entropy))
