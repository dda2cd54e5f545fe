"""Contracts of every method on values: dtypes, masks, padding, degenerate batches."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from method_table import EVERY, ROWS, close, same_learning
from torch.nn.functional import pad

from core_batches import forward_of, learn, random_rollouts, rollouts_of, rows_of, with_extra
from forkpoint.credit import (
    Chain,
    credit_of,
)
from forkpoint.rollouts import Forward

NAN, INF = float("nan"), float("inf")


@EVERY
def test_what_a_row_declares_about_micro_batches_is_what_its_links_say(name):
    links = ROWS[name].make().links
    micro = any(x.scope == "micro" or x.arguments.get("denominator") == "micro-token" for x in links)
    assert micro == ROWS[name].micro


@EVERY
@pytest.mark.parametrize(
    ("dtype", "current"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_shape_and_dtype(name, dtype, current):
    rollouts, forward = random_rollouts(1, dtype=dtype)
    forward = dataclasses.replace(
        forward, logp_BT=forward.logp_BT.to(current), entropy_BT=forward.entropy_BT.to(current)
    )
    got = learn(ROWS[name].make(), rollouts, forward)
    wide = torch.promote_types(dtype, torch.float32)
    for value in (got.credit.advantage_BT, got.credit.weight_BT):
        assert value.dtype == wide
        assert value.shape == rollouts.mask_BT.shape
    assert got.credit.keep_BT.dtype == torch.bool
    assert got.logp_gradient_BT.dtype == current
    assert math.isfinite(got.value)


@EVERY
def test_recorded_bfloat16_learns_as_the_same_numbers_in_float64(name):
    """No statistic may saturate: 8 answers of 200 tokens are more than bfloat16 can count."""
    narrow, forward = random_rollouts(2, lengths=[200] * 8, dtype=torch.bfloat16)
    now = {"logp_BT": forward.logp_BT.double(), "entropy_BT": forward.entropy_BT.double()}
    fields = ("logp_BT", "entropy_BT", "ref_logp_BT", "reward_B")
    wide = dataclasses.replace(narrow, **{field: getattr(narrow, field).double() for field in fields})
    single = dataclasses.replace(forward, **{k: x.float() for k, x in now.items()})
    got = learn(ROWS[name].make(), narrow, single)
    expected = learn(ROWS[name].make(), wide, dataclasses.replace(forward, **now))
    assert torch.equal(got.credit.keep_BT, expected.credit.keep_BT)
    error = (got.logp_gradient_BT - expected.logp_gradient_BT).abs().max()
    assert float(error) <= ROWS[name].bfloat16 * expected.logp_gradient_BT.abs().max()


@EVERY
def test_credit_is_detached_and_inputs_are_left_alone(name):
    rollouts, forward = random_rollouts(2)
    logp_BT, entropy_BT = (x.clone().requires_grad_() for x in (forward.logp_BT, forward.entropy_BT))
    carrying = dataclasses.replace(forward, logp_BT=logp_BT * 1, entropy_BT=entropy_BT * 1)
    before = {f: x.clone() for f, x in vars(rollouts).items() if isinstance(x, torch.Tensor)}
    credit = credit_of(ROWS[name].make(), rollouts, forward=carrying)
    tensors = [x for x in vars(credit).values() if isinstance(x, torch.Tensor)]
    tensors += [x for part in (*credit.penalties, *credit.entropy_terms) for x in vars(part).values()]
    tensors = [x for x in tensors if isinstance(x, torch.Tensor)]
    assert len(tensors) >= 3
    assert not any(x.requires_grad for x in tensors)
    for field, value in before.items():
        assert torch.equal(getattr(rollouts, field), value), field


@EVERY
def test_nothing_is_credited_outside_the_mask(name):
    rollouts, forward = random_rollouts(3)
    got = learn(ROWS[name].make(), rollouts, forward)
    outside = ~rollouts.mask_BT
    assert outside.any()
    assert not (got.credit.keep_BT & outside).any()
    assert (got.credit.advantage_BT[outside] == 0).all()
    assert (got.logp_gradient_BT[outside] == 0).all()
    assert (got.entropy_gradient_BT[outside] == 0).all()
    assert (got.logp_gradient_BT != 0).any() or not ROWS[name].teaches


def filled(rollouts, forward, value):
    """Put `value` wherever nothing was sampled."""

    def dirty(x):
        if not x.is_floating_point():
            return x
        return torch.where(rollouts.mask_BT.reshape(*x.shape[:2], *[1] * (x.ndim - 2)), x, value)

    recorded = {f: dirty(getattr(rollouts, f)) for f in ("logp_BT", "entropy_BT", "ref_logp_BT")}
    ids_BT = torch.where(rollouts.mask_BT, rollouts.ids_BT, -100)
    extra, current = ({k: dirty(x) for k, x in given.extra.items()} for given in (rollouts, forward))
    return dataclasses.replace(rollouts, **recorded, ids_BT=ids_BT, extra=extra), Forward(
        logp_BT=dirty(forward.logp_BT), entropy_BT=dirty(forward.entropy_BT), extra=current
    )


@EVERY
def test_padding_is_irrelevant_whatever_it_holds(name):
    rollouts, forward = random_rollouts(4)
    clean = learn(ROWS[name].make(), rollouts, forward)
    for garbage in (NAN, INF, -INF, 1e30, -7.5):
        same_learning(learn(ROWS[name].make(), *filled(rollouts, forward, garbage)), clean, exactly=True)


@EVERY
@pytest.mark.parametrize("k", [1, 7])
def test_more_padding_on_the_right_changes_nothing(name, k):
    rollouts, forward = random_rollouts(5)
    rollouts = dataclasses.replace(rollouts, max_tokens=None)
    plain = learn(ROWS[name].make(), rollouts, forward)

    def longer(extra):
        return {n: pad(x, (0, 0) * (x.ndim - 2) + (0, k)) if x.ndim > 1 else x for n, x in extra.items()}

    wider = dataclasses.replace(
        rollouts,
        **{f: pad(getattr(rollouts, f), (0, k)) for f in ("ids_BT", "mask_BT", "logp_BT", "entropy_BT", "ref_logp_BT")},
        extra=longer(rollouts.extra),
    )
    got = learn(
        ROWS[name].make(),
        wider,
        Forward(
            logp_BT=pad(forward.logp_BT, (0, k)),
            entropy_BT=pad(forward.entropy_BT, (0, k)),
            extra=longer(forward.extra),
        ),
    )
    assert got.value == pytest.approx(plain.value, abs=1e-12)
    close(got.logp_gradient_BT, pad(plain.logp_gradient_BT, (0, k)))
    close(got.entropy_gradient_BT, pad(plain.entropy_gradient_BT, (0, k)))


DEGENERATE = {
    "all rows empty": {"logp": [[], [], []], "groups": [0, 0, 1], "reward": [1.0, 0.0, 1.0]},
    "an empty row": {"logp": [[], [-1.0, -2.0]], "groups": [0, 0], "reward": [1.0, 0.0]},
    "one token a row": {"logp": [[-1.0], [-2.0]], "groups": [0, 0], "reward": [1.0, 0.0]},
    "one token": {"logp": [[-1.0]], "groups": [0], "reward": [1.0]},
    "equal rewards": {"logp": [[-1.0, -1.0], [-2.0]] * 3, "groups": [0] * 6, "reward": [10.1] * 6},
    "one answer a problem": {"logp": [[-1.0, -3.0], [-2.0]], "groups": [0, 1], "reward": [1.0, 0.0]},
    "nothing judged": {
        "logp": [[-1.0], [-2.0, -1.0]], "groups": [0, 0], "reward": [NAN, INF], "judged": [False, False],
    },
    "nothing": {"logp": [], "groups": [], "reward": []},
}  # fmt: skip


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_batches_stay_finite(name, dtype):
    for batch in DEGENERATE:
        degenerate_batch_stays_finite(name, batch, dtype)


def degenerate_batch_stays_finite(name, batch, dtype):
    given = DEGENERATE[batch]
    rollouts = rollouts_of(**given, ref=[[x - 0.1 for x in r] for r in given["logp"]], dtype=dtype)
    got = learn(ROWS[name].make(), *with_extra(rollouts, forward_of(rollouts, 0.05), seed=1))
    assert math.isfinite(got.value)
    assert got.logp_gradient_BT.isfinite().all()
    assert got.entropy_gradient_BT.isfinite().all()
    if batch in ("all rows empty", "nothing judged", "nothing"):
        assert got.value == 0
        assert not got.credit.keep_BT.any()
        assert (got.logp_gradient_BT == 0).all()
    batch_wide = any(link.name == "batch_advantage" for link in ROWS[name].make().links)
    if batch == "equal rewards" and not batch_wide and not ROWS[name].level_teaches:
        assert (got.credit.advantage_BT == 0).all()


@pytest.mark.parametrize("name", [name for name in ROWS if not ROWS[name].level_teaches])
def test_equal_rewards_teach_exactly_nothing(name):
    plain = Chain(links=tuple(x for x in ROWS[name].make().links if x.stage not in ("penalty", "regulariser")))
    rollouts, forward = random_rollouts(6)
    level = dataclasses.replace(rollouts, reward_B=torch.full_like(rollouts.reward_B, 2.0))
    got = learn(plain, level, forward)
    assert (got.logp_gradient_BT == 0).all()
    assert got.value == 0


@EVERY
def test_an_answer_that_was_not_judged_is_as_if_never_sampled(name):
    rollouts, forward = random_rollouts(7)
    unjudged = torch.tensor([False, True, False, False, False, False, True, False])
    reward_B = torch.where(unjudged, NAN, rollouts.reward_B)
    got = learn(ROWS[name].make(), dataclasses.replace(rollouts, reward_B=reward_B, judged_B=~unjudged), forward)
    rest = (~unjudged).nonzero().squeeze(1)
    expected = learn(ROWS[name].make(), rows_of(rollouts, rest), forward.select(rest))
    assert got.value == pytest.approx(expected.value, abs=1e-12)
    close(got.logp_gradient_BT[rest], expected.logp_gradient_BT)
    close(got.entropy_gradient_BT[rest], expected.entropy_gradient_BT)
    assert (got.logp_gradient_BT[unjudged] == 0).all()
    assert (got.entropy_gradient_BT[unjudged] == 0).all()
