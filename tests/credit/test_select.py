"""Which tokens learn: exact shares, thresholds, ties, scopes and sources."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core_batches import padded, random_rollouts, rollouts_of
from forkpoint.credit import chain, credit_of, init, run, top_entropy
from forkpoint.credit.select import above_quantile, top_share
from forkpoint.errors import InputError
from forkpoint.rollouts import Forward, blank_credit
from forkpoint.scope import Batching, exact_count, token_order

NAN = float("nan")
ONE = torch.zeros(3, dtype=torch.int64)
ENTROPY = [[0.9, 0.1, 0.4], [0.8, 0.4], [0.7, 0.2, 0.0, 0.4, 0.3]]  # 10 tokens
ORDER = torch.arange(15).reshape(3, 5)


def hand(entropy=ENTROPY):
    rollouts = rollouts_of([[-1.0] * len(row) for row in entropy], groups=[0, 0, 1], entropy=entropy)
    return rollouts, rollouts.entropy_BT


def chosen(mask_BT, value_BT):
    return sorted(value_BT[mask_BT].tolist(), reverse=True)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.01, [0.9]),
        (0.2, [0.9, 0.8]),
        (0.25, [0.9, 0.8, 0.7]),  # ceil(2.5)
        (0.3, [0.9, 0.8, 0.7]),
        (0.5, [0.9, 0.8, 0.7, 0.4, 0.4]),  # two of three equal values
        (1.0, [0.9, 0.8, 0.7, 0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0.0]),
    ],
)
def test_top_share_by_hand(share, expected):
    rollouts, entropy_BT = hand()
    got = top_share(entropy_BT, rollouts.mask_BT, share, ONE, ORDER)
    assert chosen(got, entropy_BT) == expected
    assert not (got & ~rollouts.mask_BT).any()


def test_ties_go_to_the_smallest_order():
    """At share 0.5 two of the three tokens at 0.4 are taken: rows and positions (0, 2), (1, 1), (2, 3)."""
    rollouts, entropy_BT = hand()
    ascending = top_share(entropy_BT, rollouts.mask_BT, 0.5, ONE, ORDER)
    assert (bool(ascending[0, 2]), bool(ascending[1, 1]), bool(ascending[2, 3])) == (True, True, False)
    descending = top_share(entropy_BT, rollouts.mask_BT, 0.5, ONE, -ORDER)
    assert (bool(descending[0, 2]), bool(descending[1, 1]), bool(descending[2, 3])) == (False, True, True)


def test_top_share_of_every_segment():
    """Segments of 3, 2 and 5 tokens: at share 0.4 they give 2, 1 and 2."""
    rollouts, entropy_BT = hand()
    got = top_share(entropy_BT, rollouts.mask_BT, 0.4, torch.tensor([0, 1, 2]), ORDER)
    assert [entropy_BT[i][got[i]].tolist() for i in range(3)] == [[0.9, 0.4], [0.8], [0.7, 0.4]]


def test_bottom_by_hand():
    """Bottom at 0.8 is what top at 0.2 leaves; of one token bottom takes that one."""
    rollouts, entropy_BT = hand()
    got = top_share(entropy_BT, rollouts.mask_BT, 0.8, ONE, ORDER, keep="bottom")
    assert chosen(got, entropy_BT) == [0.7, 0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0.0]
    single = torch.tensor([[0.5, 0.0]])
    mask = torch.tensor([[True, False]])
    alone = top_share(single, mask, 0.1, ONE[:1], ORDER[:1, :2], keep="bottom")
    assert alone.tolist() == [[True, False]]


def test_above_quantile_by_hand():
    """q 0.8 of 10: rank 7.2, 0.7 + 0.2 * 0.1 = 0.72. q 0.5: rank 4.5, both neighbours 0.4: all three stay."""
    rollouts, entropy_BT = hand()
    assert chosen(above_quantile(entropy_BT, rollouts.mask_BT, 0.2, ONE), entropy_BT) == [0.9, 0.8]
    got = above_quantile(entropy_BT, rollouts.mask_BT, 0.5, ONE)
    assert chosen(got, entropy_BT) == [0.9, 0.8, 0.7, 0.4, 0.4, 0.4]
    below = above_quantile(entropy_BT, rollouts.mask_BT, 0.5, ONE, keep="bottom")
    assert torch.equal(below, rollouts.mask_BT & ~got)


def test_above_quantile_of_equal_values_keeps_everything():
    value_BT = torch.full((3, 4), 0.3)
    mask_BT = torch.arange(4) < torch.tensor([[4], [0], [2]])
    assert torch.equal(above_quantile(value_BT, mask_BT, 0.1, torch.arange(3)), mask_BT)


def test_the_cut_between_two_neighbours_of_bfloat16_is_not_rounded_onto_one_of_them():
    value_BT = torch.tensor([[1.0, 1.0078125]], dtype=torch.bfloat16)
    got = above_quantile(value_BT, torch.ones(1, 2, dtype=torch.bool), 0.5, ONE[:1])
    assert got.tolist() == [[False, True]]


def test_share_one_does_not_look_at_entropy():
    rollouts, _ = hand()
    blind = dataclasses.replace(rollouts, entropy_BT=torch.full_like(rollouts.entropy_BT, NAN))
    for arguments in ({}, {"ties": "threshold"}, {"keep": "bottom"}, {"denominator": "all"}):
        credit = select(blind, source="behaviour", share=1, **arguments)
        assert torch.equal(credit.keep_BT, rollouts.mask_BT)
        assert (credit.weight_BT == 1).all()


@pytest.mark.parametrize("keep", ["top", "bottom"])
def test_share_one_keeps_everything(keep):
    rollouts, entropy_BT = hand()
    assert torch.equal(above_quantile(entropy_BT, rollouts.mask_BT, 1.0, ONE, keep=keep), rollouts.mask_BT)
    assert torch.equal(top_share(entropy_BT, rollouts.mask_BT, 1.0, ONE, ORDER, keep=keep), rollouts.mask_BT)


@pytest.mark.parametrize("select", [above_quantile, lambda v, m, s, g, **k: top_share(v, m, s, g, ORDER, **k)])
def test_nothing_to_choose_from(select):
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    for keep in ("top", "bottom"):
        assert not select(torch.full((3, 5), NAN), nothing, 0.2, ONE, keep=keep).any()


tokens = st.lists(st.lists(st.integers(0, 6), min_size=0, max_size=7), min_size=1, max_size=5)


@settings(deadline=None, max_examples=120)
@given(rows=tokens, hundredths=st.integers(1, 99), split=st.booleans())
def test_counts_are_exact_and_bottom_is_the_complement_of_top(rows, hundredths, split):
    value_BT = padded(rows, fill=NAN)
    mask_BT = ~value_BT.isnan()
    segment_B = torch.arange(len(rows)) if split else torch.zeros(len(rows), dtype=torch.int64)
    order_BT = token_order(("p",), torch.zeros_like(segment_B), torch.arange(len(rows)), value_BT.shape[1], 0)
    share = hundredths / 100
    top = top_share(value_BT, mask_BT, share, segment_B, order_BT)
    bottom = top_share(value_BT, mask_BT, 1 - share, segment_B, order_BT, keep="bottom")
    drawn = top_share(value_BT, mask_BT, share, segment_B, order_BT, keep="random")
    above = above_quantile(value_BT, mask_BT, share, segment_B)
    below = above_quantile(value_BT, mask_BT, 1 - share, segment_B, keep="bottom")
    assert torch.equal(above ^ below, mask_BT)
    assert not (above & below).any()
    for s in range(int(segment_B.max()) + 1):
        here = mask_BT & (segment_B == s)[:, None]
        n = int(here.sum())
        assert int((top & here).sum()) == int((drawn & here).sum()) == exact_count(share, n)
        if n:
            lowest = value_BT[top & here].min()
            assert (value_BT[here & ~top] <= lowest).all()
        if exact_count(share, n) < n:
            assert torch.equal(bottom & here, here & ~top)
        else:  # top takes all: bottom still leaves one token to learn, the lowest
            assert int((bottom & here).sum()) == min(n, 1)
            assert (value_BT[bottom & here] <= value_BT[here].min()).all() if n else True


def select(rollouts, forward=None, *, rng=0, batching=None, **arguments):
    link = chain(top_entropy(**arguments))
    credit, states = run(link, blank_credit(rollouts), rollouts, init(link), when="rollout", rng=rng)
    return run(link, credit, rollouts, states, when="update", forward=forward, rng=rng, batching=batching)[0]


def test_source_decides_whose_entropy():
    rollouts, entropy_BT = hand()
    now = Forward(logp_BT=rollouts.logp_BT, entropy_BT=torch.where(rollouts.mask_BT, 1 - entropy_BT, 0.0))
    current, behaviour = (
        select(rollouts, now, share=0.2),
        select(rollouts, now, share=0.2, source="behaviour"),
    )
    assert chosen(current.keep_BT, entropy_BT) == [0.1, 0.0]
    assert chosen(behaviour.keep_BT, entropy_BT) == [0.9, 0.8]


def test_scope_decides_over_which_tokens():
    rollouts, entropy_BT = hand()
    batching = Batching(mini_B=torch.tensor([0, 1, 1]), micro_B=torch.tensor([0, 1, 2]))

    def of(scope):
        return chosen(
            select(rollouts, scope=scope, source="behaviour", share=0.2, batching=batching).keep_BT,
            entropy_BT,
        )

    assert of("rollout") == [0.9, 0.8]  # 2 of 10
    assert of("sequence") == [0.9, 0.8, 0.7]  # 1 of 3, 1 of 2, 1 of 5
    assert of("micro") == [0.9, 0.8, 0.7]
    assert of("group") == [0.9, 0.7]  # 1 of 5, 1 of 5
    assert of("mini") == [0.9, 0.8, 0.7]  # 1 of 3, ceil(1.4) = 2 of 7


def test_denominator_decides_between_dropping_and_silencing():
    rollouts, entropy_BT = hand()
    selected = select(rollouts, source="behaviour", share=0.2)
    assert chosen(selected.keep_BT, entropy_BT) == [0.9, 0.8]
    assert (selected.weight_BT == 1).all()
    everything = select(rollouts, source="behaviour", share=0.2, denominator="all")
    assert torch.equal(everything.keep_BT, rollouts.mask_BT)
    assert torch.equal((everything.weight_BT != 0) & rollouts.mask_BT, selected.keep_BT)


def test_only_tokens_that_count_are_ranked():
    rollouts, entropy_BT = hand()
    link = top_entropy(source="behaviour", share=0.2)
    keep_BT = rollouts.mask_BT & (entropy_BT < 0.75)
    credit = dataclasses.replace(blank_credit(rollouts), keep_BT=keep_BT)
    (out, _) = run(chain(link), credit, rollouts, [{}], when="update")
    assert chosen(out.keep_BT, entropy_BT) == [0.7, 0.4]  # ceil(0.2 * 8)


def test_existing_weights_are_multiplied():
    rollouts, _ = hand()
    credit = dataclasses.replace(blank_credit(rollouts), weight_BT=torch.full((3, 5), 0.5).double())
    link = top_entropy(source="behaviour", share=0.2, denominator="all")
    out, _ = run(chain(link), credit, rollouts, [{}], when="update")
    assert sorted(out.weight_BT[rollouts.mask_BT].tolist()) == [0.0] * 8 + [0.5] * 2


@pytest.mark.parametrize(
    ("arguments", "when", "needs"),
    [
        ({}, "update", {"forward"}),
        ({"source": "behaviour"}, "update", {"entropy"}),
        ({"source": "behaviour", "scope": "micro"}, "update", {"entropy"}),
        ({"source": "behaviour", "scope": "sequence"}, "rollout", {"entropy"}),
        ({"source": "behaviour", "scope": "rollout"}, "rollout", {"entropy"}),
        ({"keep": "random"}, "update", set()),
        ({"keep": "random", "source": "behaviour", "scope": "rollout"}, "update", set()),
        ({"scope": "sequence"}, "update", {"forward"}),
    ],
)
def test_when_it_runs_and_what_it_needs(arguments, when, needs):
    link = top_entropy(**arguments)
    assert (link.when, link.needs) == (when, needs)
    assert link.drops
    assert not top_entropy(**arguments, denominator="all").drops


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("ties", ["count", "threshold"])
def test_an_entropy_that_is_not_finite_is_refused_by_place(bad, ties):
    rollouts, entropy_BT = hand()
    broken = entropy_BT.clone()
    broken[2, 3] = bad
    forward = Forward(logp_BT=rollouts.logp_BT, entropy_BT=broken)
    with pytest.raises(InputError, match="current entropy of row 2, position 3 is"):
        select(rollouts, forward, ties=ties)
    recorded = dataclasses.replace(rollouts, entropy_BT=broken)
    with pytest.raises(InputError, match="behaviour entropy of row 2, position 3 is"):
        select(recorded, source="behaviour", ties=ties)


def test_random_is_uniform_and_drawn_anew():
    """600 draws of 2 of 10 tokens: each is chosen 120 times, with a standard deviation of 9.8."""
    rollouts, _ = hand()
    counts = torch.zeros(3, 5)
    seen = set()
    for rng in range(600):
        keep_BT = select(rollouts, keep="random", share=0.2, rng=rng).keep_BT
        assert int(keep_BT.sum()) == 2
        counts += keep_BT
        seen.add(tuple(keep_BT.flatten().tolist()))
    per_token = counts[rollouts.mask_BT]
    assert float((per_token - 120).abs().max()) < 4.5 * 9.8
    assert len(seen) == 45, "every pair of 10 tokens turns up"


def test_random_depends_on_the_key_and_not_on_entropy_or_the_order_of_rows():
    rollouts, forward = random_rollouts(3)
    first = select(rollouts, keep="random", share=0.3, rng=11).keep_BT
    assert torch.equal(first, select(rollouts, forward, keep="random", share=0.3, rng=11).keep_BT)
    assert not torch.equal(first, select(rollouts, keep="random", share=0.3, rng=12).keep_BT)
    flat = dataclasses.replace(rollouts, entropy_BT=torch.full_like(rollouts.entropy_BT, NAN))
    with pytest.raises(InputError):  # a policy that is not finite is refused whatever is drawn
        select(flat, keep="random", share=0.3, rng=11)


def test_ties_are_broken_the_same_way_in_every_update():
    rollouts = rollouts_of([[-1.0] * 30], groups=[0], entropy=[[0.5] * 30])
    one, two = (select(rollouts, source="behaviour", rng=rng).keep_BT for rng in (1, 2))
    assert int(one.sum()) == 6
    assert torch.equal(one, two)


@pytest.mark.parametrize("ties", ["count", "threshold"])
def test_bfloat16_entropies_change_the_choice_among_ties_only(ties):
    """A token may enter or leave only if its rounded entropy equals that of the last token taken."""
    rollouts, forward = random_rollouts(7, lengths=[40] * 8, groups=[0] * 8)
    fine_BT = forward.entropy_BT.float()
    coarse_BT = fine_BT.bfloat16()
    fine, coarse = (
        select(rollouts, Forward(logp_BT=forward.logp_BT, entropy_BT=value), ties=ties).keep_BT
        for value in (fine_BT, coarse_BT)
    )
    cut = coarse_BT[fine].min()
    assert (coarse_BT[fine ^ coarse] == cut).all()
    if ties == "count":
        assert int(fine.sum()) == int(coarse.sum()) == 64
    else:
        assert not (fine & ~coarse).any(), "rounding only adds ties"


@pytest.mark.parametrize("share", [0, -0.1, 1.5, True, "0.2", None])
def test_bad_share(share):
    with pytest.raises(InputError, match="must be a number in"):
        top_entropy(share=share)


@pytest.mark.parametrize(
    "arguments",
    [{"source": "old"}, {"ties": "all"}, {"denominator": "none"}, {"keep": "best"}, {"scope": "all"}],
)
def test_unknown_choices_are_named(arguments):
    with pytest.raises(InputError, match="unknown"):
        top_entropy(**arguments)


def test_credit_of_runs_both_stages():
    rollouts, entropy_BT = hand()
    link = chain(top_entropy(source="behaviour", scope="rollout"))
    assert chosen(credit_of(link, rollouts).keep_BT, entropy_BT) == [0.9, 0.8]
