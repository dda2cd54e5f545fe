"""Controllers: a running threshold and the temperature of extra rows."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from core_batches import forward_of, learn, random_rollouts, rollouts_of
from forkpoint.credit import Chain, chain, credit_of, group_advantage, init, run, top_entropy
from forkpoint.credit.control import explored_advantage, running, running_top_entropy, temperature_towards
from forkpoint.errors import InputError
from forkpoint.methods.dapo import dapo
from forkpoint.rollouts import blank_credit


def test_running():
    assert running(None, 5.0, 0.9) == 5.0
    assert running(2.0, 4.0, 0.75) == 2.5


def entropies(*values):
    return rollouts_of([[-1.0] * len(values)], groups=[0], reward=[1.0], entropy=[list(values)])


BEHAVIOUR = {"source": "behaviour", "scope": "rollout"}


def step(whole: Chain, rollouts, states):
    return run(whole, blank_credit(rollouts), rollouts, states, when="rollout")


def test_the_threshold_follows_the_batches_and_is_the_state():
    """Share 1/2 of 1..5: the median. 3 first; then 1/4 * 3 + 3/4 * 7 = 6; restored from JSON it goes on from there."""
    whole = chain(running_top_entropy(share=0.5, decay=0.25, **BEHAVIOUR))
    credit, states = step(whole, entropies(1, 2, 3, 4, 5), init(whole))
    assert credit.keep_BT.tolist() == [[False, False, True, True, True]]
    assert states == [{"threshold": 3.0, "metrics": {"credit/threshold": 3.0}}]
    states = json.loads(json.dumps(states))
    credit, states = step(whole, entropies(5, 6, 7, 8, 9), states)
    assert states[0]["threshold"] == 6.0
    assert credit.keep_BT.tolist() == [[False, True, True, True, True]]


def test_a_batch_without_tokens_leaves_the_threshold():
    whole = chain(running_top_entropy(**BEHAVIOUR))
    _, states = step(whole, entropies(1, 2), init(whole))
    rollouts = entropies(1, 2)
    empty = dataclasses.replace(rollouts, mask_BT=torch.zeros_like(rollouts.mask_BT))
    assert step(whole, empty, states)[1] == states
    assert step(whole, empty, init(whole))[1] == init(whole)


@pytest.mark.parametrize("denominator", ["selected", "all"])
def test_without_memory_it_is_the_quantile_of_the_batch(denominator):
    rollouts, forward = random_rollouts(1)
    got = learn(chain(dapo(), running_top_entropy(share=0.3, decay=0.0, denominator=denominator)), rollouts, forward)
    parent = top_entropy(share=0.3, ties="threshold", denominator=denominator)
    expected = learn(chain(dapo(), parent), rollouts, forward)
    torch.testing.assert_close(got.logp_gradient_BT, expected.logp_gradient_BT, rtol=0, atol=1e-12)
    assert got.credit.keep_BT.equal(expected.credit.keep_BT)


def test_micro_batches_add_up():
    rollouts, forward = random_rollouts(2)
    whole = chain(dapo(), running_top_entropy(share=0.3))
    one = learn(whole, rollouts, forward)
    cut = learn(whole, rollouts, forward, [[[0, 5], [1, 2, 3], [4, 6, 7]]])
    torch.testing.assert_close(one.logp_gradient_BT, cut.logp_gradient_BT, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "arguments", [{"share": 0.0}, {"decay": 1.0}, {"decay": -0.1}, {"scope": "micro"}, {"denominator": "some"}]
)
def test_bad_arguments_are_named(arguments):
    with pytest.raises(InputError, match=f"{next(iter(arguments))}"):
        running_top_entropy(**arguments)


def test_temperature_towards():
    settings = {"target": 0.5, "high": 1.2, "low": 0.8}
    assert [temperature_towards(h, **settings) for h in (0.0, 0.5, 0.500001)] == [1.2, 1.2, 0.8]


def test_extra_rows_take_no_part_in_their_group():
    """Own rows 1 0 of group 0: ±1/√2; extra rows: right 2, wrong 0, not judged out."""
    rollouts = rollouts_of(
        [[-1.0]] * 5, groups=[0] * 5, reward=[1.0, 0.0, 1.0, 0.0, math.nan], judged=[True] * 4 + [False]
    )
    extra = {"explore": torch.tensor([False, False, True, True, True])}
    got = credit_of(chain(explored_advantage(alpha=2.0, eps=0.0)), dataclasses.replace(rollouts, extra=extra))
    expected = torch.tensor([math.sqrt(0.5), -math.sqrt(0.5), 2.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(got.advantage_BT[:, 0], expected, rtol=0, atol=1e-12)
    assert got.keep_BT[:, 0].tolist() == [True] * 4 + [False]


def test_extra_rows_have_to_be_marked():
    rollouts = rollouts_of([[-1.0]] * 2, groups=[0] * 2, reward=[1.0, 0.0])
    with pytest.raises(InputError, match="needs 'explore'"):
        credit_of(chain(explored_advantage()), rollouts)
    assert credit_of(chain(group_advantage()), rollouts, forward=forward_of(rollouts)).keep_BT.all()
