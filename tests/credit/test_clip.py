"""Bounds, ratio kinds and aggregation as links."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from core_batches import rollouts_of
from forkpoint.credit import aggregate, chain, clip, credit_of, dual_clip, sequence_ratio, stop_ratio
from forkpoint.errors import InputError
from forkpoint.rollouts import blank_credit

ROLLOUTS = rollouts_of([[-1.0, -1.0, -1.0], [-1.0]], groups=[0, 0], max_tokens=9)


def after(*links, rollouts=ROLLOUTS):
    return credit_of(chain(*links), rollouts)


def changed(credit):
    """Return the names of the fields in which credit differs from blank credit."""
    blank = blank_credit(ROLLOUTS)

    def same(x, y):
        return torch.equal(x, y) if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x is y or x == y

    return {f.name for f in dataclasses.fields(blank) if not same(getattr(credit, f.name), getattr(blank, f.name))}


def test_clip_sets_both_bounds_and_nothing_else():
    credit = after(clip(low=0.2, high=0.28))
    assert (credit.low_BT == 0.8).all()
    assert (credit.high_BT == 1.28).all()
    assert credit.low_BT.shape == ROLLOUTS.mask_BT.shape
    assert changed(credit) == {"low_BT", "high_BT"}


def test_clip_opens_a_side():
    assert after(clip(low=None)).low_BT is None
    assert after(clip(high=None)).high_BT is None
    assert after(clip(), clip(low=None, high=None)).low_BT is None


def test_dual_clip():
    assert changed(after(dual_clip(c=4.0))) == {"dual_clip"}
    assert after(dual_clip(c=4.0)).dual_clip == 4.0


def test_ratio_kinds():
    assert changed(after(sequence_ratio())) == {"ratio"}
    assert after(sequence_ratio()).ratio == "sequence"
    credit = after(stop_ratio(cap=3.0, floor=0.5))
    assert credit.ratio == "stop"
    assert (credit.high_BT == 3).all()
    assert (credit.low_BT == 0.5).all()
    assert after(stop_ratio()).low_BT is None


@pytest.mark.parametrize(
    ("arguments", "denominator", "constant"),
    [
        ({}, "token", None),
        ({"denominator": "sequence"}, "sequence", None),
        ({"denominator": "micro-token"}, "micro-token", None),
        ({"denominator": "constant", "constant": 4.0}, "constant", 4.0),
        ({"denominator": "constant"}, "constant", 9.0),
        ({"denominator": "token", "constant": 4.0}, "token", None),
    ],
)
def test_aggregate(arguments, denominator, constant):
    credit = after(aggregate(**arguments))
    assert (credit.denominator, credit.constant) == (denominator, constant)


def test_the_constant_falls_back_to_the_longest_answer_whatever_the_padding():
    link = aggregate(denominator="constant")
    for width in (0, 4):
        wider = {name: torch.nn.functional.pad(getattr(ROLLOUTS, name), (0, width)) for name in ("mask_BT", "ids_BT")}
        unknown = dataclasses.replace(ROLLOUTS, max_tokens=None, **wider)
        assert after(link, rollouts=unknown).constant == 3.0
    assert after(link, rollouts=rollouts_of([], groups=[], max_tokens=None)).constant == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: clip(low=-0.1), "clip low is -0.1 and must be in"),
        (lambda: clip(low=1.1), "clip low is 1.1"),
        (lambda: clip(high=-1), "clip high is -1 and must be >= 0"),
        (lambda: dual_clip(c=0.5), "must be greater than 1"),
        (lambda: dual_clip(c=float("nan")), "must be greater than 1"),
        (lambda: stop_ratio(cap=0), "cap > 0"),
        (lambda: stop_ratio(cap=1, floor=-1), "0 <= floor"),
        (lambda: aggregate(denominator="seq"), "did you mean"),
        (lambda: aggregate(denominator="constant", constant=-1), "positive number of tokens"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)
