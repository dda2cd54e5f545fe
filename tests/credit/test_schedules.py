"""Schedules: values, the chains they move, and what is saved."""

from __future__ import annotations

import json
import math

import pytest
import torch

from core_batches import learn, random_rollouts
from forkpoint.credit import Chain, Link, chain, clip, entropy_bonus, init, run
from forkpoint.credit.schedules import (
    cosine,
    geometric,
    is_schedule,
    linear,
    power,
    schedule_of,
    scheduled_chain,
)
from forkpoint.errors import InputError
from forkpoint.methods.dapo import dapo
from forkpoint.methods.forking import forking
from forkpoint.rollouts import blank_credit


def test_values_by_hand():
    assert [linear(1.0, 0.2, steps=4, delay=2)(n) for n in (0, 2, 4, 6, 99)] == [1.0, 1.0, 0.6, 0.2, 0.2]
    assert cosine(2.0, 4.0, steps=3)(1) == pytest.approx(2 + 2 * (1 - 0.5) / 2, abs=1e-12)
    assert power(0.0, 8.0, steps=2, exponent=3.0)(1) == pytest.approx(1.0, abs=1e-12)
    assert geometric(4.0, 0.25, steps=4)(1) == pytest.approx(2.0, abs=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine", "power", "geometric"])
def test_every_schedule_begins_and_ends_where_it_says(kind):
    at = schedule_of({"schedule": kind, "start": 0.3, "stop": 0.1, "steps": 7, "delay": 3})
    assert at(0) == at(3) == pytest.approx(0.3, abs=1e-15)
    assert at(10) == at(10**9) == pytest.approx(0.1, abs=1e-15)
    assert 0.1 < at(6) < 0.3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"schedule": "linera", "start": 0, "stop": 1, "steps": 2}, "did you mean 'linear'"),
        ({"schedule": "linear", "start": 0, "stop": 1}, "needs steps"),
        ({"schedule": "linear", "start": 0, "stop": 1, "steps": 2, "exponent": 2}, "no argument 'exponent'"),
        ({"schedule": "linear", "start": 0, "stop": 1, "steps": 0}, "steps is 0"),
        ({"schedule": "power", "start": 0, "stop": 1, "steps": 2, "exponent": 0}, "exponent is 0"),
        ({"schedule": "linear", "start": math.nan, "stop": 1, "steps": 2}, "start is nan"),
        ({"schedule": "geometric", "start": 1.0, "stop": -1.0, "steps": 2}, "one sign"),
    ],
)
def test_bad_tables_are_named(table, message):
    with pytest.raises(InputError) as error:
        schedule_of(table)
    assert message in str(error.value)


def test_what_a_schedule_is():
    assert is_schedule({"schedule": "linear"})
    assert not is_schedule({"answer": 1.0})
    assert not is_schedule(0.2)


def test_a_chain_without_schedules_is_itself():
    assert scheduled_chain(forking, share=0.1).describe() == forking(share=0.1).describe()


def test_only_links_that_move_count():
    moving = scheduled_chain(forking, share=linear(1.0, 0.5, steps=2), clip_high=0.3)
    names = [link.name for link in moving.links]
    assert names == ["group_advantage", "clip", "aggregate", "scheduled(top_entropy)"]
    assert moving.links[1].arguments == {"low": 0.2, "high": 0.3}
    assert moving.links[-1].arguments["share"] == "schedule"
    assert init(moving) == [{}, {}, {}, {"calls": 0, "inner": {}}]


def same_gradient(got, expected):
    torch.testing.assert_close(got.logp_gradient_BT, expected.logp_gradient_BT, rtol=0, atol=1e-12)


def test_a_moving_share_is_that_share_at_every_update():
    """Share 1, 3/4, 1/2 in updates 0, 1, 2, saved as JSON between them."""
    moving = scheduled_chain(forking, share=linear(1.0, 0.5, steps=2))
    rollouts, forward = random_rollouts(1)
    states = init(moving)
    for share in (1.0, 0.75, 0.5, 0.5):
        states = json.loads(json.dumps(states))
        credit, states = run(moving, blank_credit(rollouts), rollouts, states, when="rollout")
        credit, states = run(moving, credit, rollouts, states, when="update", forward=forward)
        expected = learn(forking(share=share), rollouts, forward).credit
        assert credit.keep_BT.equal(expected.keep_BT)


def test_a_constant_schedule_changes_nothing():
    rollouts, forward = random_rollouts(2)
    moving = scheduled_chain(dapo, clip_high=lambda n: 0.28 + 0.0 * n)
    same_gradient(learn(moving, rollouts, forward), learn(dapo(), rollouts, forward))


def counter() -> Link:
    def update(credit, rollouts, *, state, **_):
        return credit, {"seen": state["seen"] + 1}

    return Link(name="counter", arguments={}, update=update, init=lambda: {"seen": 0})


def both(*, low: float) -> Chain:
    plain = counter()
    import dataclasses

    return chain(clip(low=low), dataclasses.replace(plain, arguments={"low": low}))


def test_a_link_keeps_its_own_state_beside_the_count():
    moving = scheduled_chain(both, low=linear(0.1, 0.3, steps=2))
    rollouts, _ = random_rollouts(3)
    states = init(moving)
    bounds = []
    for _ in range(3):
        credit, states = run(moving, blank_credit(rollouts), rollouts, states, when="rollout")
        bounds.append(float(credit.low_BT[0, 0]))
    assert bounds == pytest.approx([0.9, 0.8, 0.7], abs=1e-12)
    assert states[1] == {"calls": 3, "inner": {"seen": 3}}


def test_what_cannot_be_scheduled_says_so():
    with pytest.raises(InputError, match="may not change which links"):
        scheduled_chain(dapo, kl_coefficient=linear(0.0, 1.0, steps=5))
    with pytest.raises(InputError, match=r"share is 1\.5"):
        scheduled_chain(forking, share=linear(0.5, 1.5, steps=5))
    if entropy_bonus(coefficient=1.0).regularise is not None:
        with pytest.raises(InputError, match="cannot be scheduled"):
            scheduled_chain(entropy_bonus, coefficient=linear(0.1, 1.0, steps=5))
