"""Contracts of every method on composition, needs, state and selection."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from method_table import EVERY, ROWS, close, same_learning

from core_batches import learn, random_rollouts
from forkpoint.credit import (
    chain,
    clip,
    credit_of,
    init,
    run,
    snapshot,
)
from forkpoint.errors import InputError
from forkpoint.methods import forking
from forkpoint.rollouts import Forward, blank_credit
from forkpoint.scope import exact_count, one_batch

NAN, INF = float("nan"), float("inf")


@EVERY
def test_a_chain_is_its_links_one_after_another(name):
    whole = chain(clip(low=0.9, high=0.9), ROWS[name].make(), clip(low=0.5, high=0.6))  # the last one wins
    rollouts, forward = random_rollouts(13)
    stepwise = blank_credit(rollouts)
    for when in ("rollout", "update"):
        for index, link in enumerate(whole.links):
            if link.when == when:
                stepwise, _ = link.update(
                    stepwise, rollouts, forward=forward, batching=one_batch(8), state=link.init(), rng=index
                )
    expected = credit_of(whole, rollouts, forward=forward)
    for field in ("advantage_BT", "weight_BT", "keep_BT", "low_BT", "high_BT"):
        assert torch.equal(getattr(stepwise, field), getattr(expected, field))
    late = any(link.stage == "clip" and link.when == "update" for link in whole.links)
    assert late or (expected.low_BT == 0.5).all()
    for field in ("ratio", "order", "inner_bounds", "denominator", "constant", "dual_clip"):
        assert getattr(stepwise, field) == getattr(expected, field)


@EVERY
def test_unknown_extra_arguments_are_swallowed(name):
    rollouts, forward = random_rollouts(13)
    for link in ROWS[name].make().links:
        for extra in ({}, {"anything": object(), "later": 3}):
            link.update(
                blank_credit(rollouts), rollouts, forward=forward, batching=one_batch(8), state=link.init(),
                rng=0, **extra,
            )  # fmt: skip


@EVERY
def test_a_missing_need_is_named(name):
    whole = ROWS[name].make()
    rollouts, forward = random_rollouts(13)
    for need in whole.needs - {"entropy", "entropy_gradient"}:
        lacking = {"reward": {"reward_B": None}, "ref_logp": {"ref_logp_BT": None}}.get(
            need, {"extra": {key: x for key, x in rollouts.extra.items() if key != need}}
        )
        without = None if need == "forward" else dataclasses.replace(
            forward, extra={key: x for key, x in forward.extra.items() if f"forward_{key}" != need}
        )  # fmt: skip
        with pytest.raises(InputError, match=f"needs '{need}'"):
            credit_of(whole, dataclasses.replace(rollouts, **lacking), forward=without)
    assert "reward" in whole.needs


@EVERY
def test_what_is_not_needed_may_be_absent(name):
    whole = ROWS[name].make()
    rollouts, forward = random_rollouts(13)
    if "ref_logp" not in whole.needs:
        rollouts = dataclasses.replace(rollouts, ref_logp_BT=None)
    rollouts = dataclasses.replace(rollouts, extra={k: x for k, x in rollouts.extra.items() if k in whole.needs})
    current = {k: x for k, x in forward.extra.items() if f"forward_{k}" in whole.needs}
    looks = any(need.startswith("forward") for need in whole.needs)
    credit_of(whole, rollouts, forward=dataclasses.replace(forward, extra=current) if looks else None)


@EVERY
def test_state_survives_json_and_measuring_changes_nothing(name):
    plain = ROWS[name].make()
    watched = chain(plain, snapshot("end"))
    rollouts, forward = random_rollouts(14)
    same_learning(learn(watched, rollouts, forward), learn(plain, rollouts, forward), exactly=True)
    states = init(watched)
    kept, restored = states, json.loads(json.dumps(states))
    for _ in range(2):
        outcomes = []
        for begin in (kept, restored):
            credit, after = run(watched, blank_credit(rollouts), rollouts, begin, when="rollout")
            outcomes.append(run(watched, credit, rollouts, after, when="update", forward=forward))
        (one, kept), (two, after) = outcomes
        assert torch.equal(one.keep_BT, two.keep_BT)
        assert torch.equal(one.advantage_BT, two.advantage_BT)
        assert kept == after
        restored = json.loads(json.dumps(after))
    share = float((kept[-1])["metrics"]["end/share"])
    assert share == pytest.approx(float(one.keep_BT.sum() / rollouts.mask_BT.sum()), abs=1e-6)


@EVERY
def test_a_method_is_a_function_of_its_inputs(name):
    rollouts, forward = random_rollouts(15)
    torch.manual_seed(0)
    one = learn(ROWS[name].make(), rollouts, forward, rng=9)
    torch.manual_seed(1)
    same_learning(learn(ROWS[name].make(), rollouts, forward, rng=9), one, exactly=True)


SELECTING = [name for name, entry in ROWS.items() if entry.method == "forking"]


@pytest.mark.parametrize("name", [n for n in SELECTING if "threshold" not in n and "trl" not in n])
@pytest.mark.parametrize("levels", [None, 1, 3])
def test_the_number_of_learning_tokens_is_exact(name, levels):
    whole = ROWS[name].make()
    (link,) = (x for x in whole.links if x.name == "top_entropy")
    rollouts, forward = random_rollouts(16, levels=levels)
    credit = learn(whole, rollouts, forward).credit
    learns_BT = credit.keep_BT & (credit.weight_BT != 0)
    lengths = rollouts.mask_BT.sum(1)
    sizes = {"sequence": lengths.tolist(), "group": [int(lengths[:4].sum()), int(lengths[4:].sum())]}
    share, keep = link.arguments["share"], link.arguments["keep"]
    total = 0
    for n in sizes.get(link.scope, [int(lengths.sum())]):
        total += n - exact_count(1 - share, n) if keep == "bottom" else exact_count(share, n)
    assert int(learns_BT.sum()) == total


@pytest.mark.parametrize("scope", ["sequence", "group", "micro", "mini", "rollout"])
@pytest.mark.parametrize("ties", ["count", "threshold"])
@pytest.mark.parametrize("levels", [None, 3])
def test_bottom_is_the_complement_of_top(scope, ties, levels):
    rollouts, forward = random_rollouts(17, levels=levels, lengths=[7] * 8)
    top = learn(forking(share=0.2, scope=scope, ties=ties), rollouts, forward).credit.keep_BT
    bottom = learn(forking(share=0.8, scope=scope, ties=ties, keep="bottom"), rollouts, forward).credit.keep_BT
    assert torch.equal(top ^ bottom, rollouts.mask_BT)


@pytest.mark.parametrize("name", ["forking bonus", "forking all bonus"])
def test_the_bonus_acts_on_the_tokens_that_learn(name):
    rollouts, forward = random_rollouts(18)
    got = learn(ROWS[name].make(), rollouts, forward)
    learns_BT = got.credit.keep_BT & (got.credit.weight_BT != 0)
    assert torch.equal(got.entropy_gradient_BT != 0, learns_BT)
    n = learns_BT.sum() if "all" not in name else rollouts.mask_BT.sum()
    close(
        got.entropy_gradient_BT[learns_BT],
        torch.full((int(learns_BT.sum()),), -0.2 / float(n), dtype=torch.float64),
    )


def test_random_draws_anew_in_every_update_and_does_not_see_entropy():
    rollouts, forward = random_rollouts(19)
    whole = forking(keep="random")
    one, two = (learn(whole, rollouts, forward, rng=r).credit.keep_BT for r in (1, 2))
    assert not torch.equal(one, two)
    reversed_entropy = Forward(logp_BT=forward.logp_BT, entropy_BT=-forward.entropy_BT)
    assert torch.equal(learn(whole, rollouts, reversed_entropy, rng=1).credit.keep_BT, one)
