"""Contracts of every method on order and splits, and what each reduces to."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_table import EVERY, ROWS, close, same_learning

from core_batches import forward_of, learn, random_rollouts, rows_of
from forkpoint import methods
from forkpoint.credit import (
    Chain,
    chain,
    kl,
    masked,
    scheduled,
    top_entropy,
)
from forkpoint.loss import coefficients
from forkpoint.methods import METHODS, forking
from forkpoint.scope import one_batch

NAN, INF = float("nan"), float("inf")


@EVERY
@settings(deadline=None, max_examples=8)
@given(order=st.permutations(range(8)), levels=st.sampled_from([None, 1, 3]))
def test_the_order_of_rows_does_not_matter(name, order, levels):
    rollouts, forward = random_rollouts(8, levels=levels)
    plain = learn(ROWS[name].make(), rollouts, forward, rng=5)
    rows = torch.tensor(order)
    got = learn(ROWS[name].make(), rows_of(rollouts, rows), forward.select(rows), rng=5)
    assert got.value == pytest.approx(plain.value, abs=1e-12)
    close(got.logp_gradient_BT, plain.logp_gradient_BT[rows])
    close(got.entropy_gradient_BT, plain.entropy_gradient_BT[rows])


@EVERY
@pytest.mark.parametrize("levels", [None, 2])
def test_the_order_of_groups_does_not_matter(name, levels):
    rollouts, forward = random_rollouts(9, levels=levels, groups=(0, 0, 0, 1, 1, 1, 2, 2))
    plain = learn(ROWS[name].make(), rollouts, forward, rng=5)
    renamed = dataclasses.replace(
        rollouts, prompts=tuple(rollouts.prompts[p] for p in (2, 0, 1)), group_B=(rollouts.group_B + 1) % 3
    )
    rows = torch.tensor([6, 7, 0, 1, 2, 3, 4, 5])
    got = learn(ROWS[name].make(), rows_of(renamed, rows), forward.select(rows), rng=5)
    close(got.logp_gradient_BT, plain.logp_gradient_BT[rows])
    close(got.entropy_gradient_BT, plain.entropy_gradient_BT[rows])


@st.composite
def splits(draw):
    """Mini-batches of whole groups (rows 0-3 and 4-7), each cut anywhere into micro-batches."""
    together = draw(st.booleans())

    def cut(rows):
        order = draw(st.permutations(rows))
        cuts = sorted(draw(st.sets(st.integers(1, len(rows) - 1), max_size=len(rows) - 1)))
        edges = [0, *cuts, len(rows)]
        return [order[x:y] for x, y in itertools.pairwise(edges)]

    groups = [range(8)] if together else [range(4), range(4, 8)]
    return [cut(list(rows)) for rows in groups]


@pytest.mark.parametrize("name", [name for name, entry in ROWS.items() if not entry.micro])
@settings(deadline=None, max_examples=10)
@given(minis=splits(), levels=st.sampled_from([None, 2]))
def test_micro_batches_add_up_to_the_mini_batch(name, minis, levels):
    rollouts, forward = random_rollouts(10, levels=levels)
    whole = [[[row for micro in micros for row in micro]] for micros in minis]
    expected = learn(ROWS[name].make(), rollouts, forward, whole, rng=3)
    got = learn(ROWS[name].make(), rollouts, forward, minis, rng=3)
    same_learning(got, expected)
    assert torch.equal(got.credit.keep_BT, expected.credit.keep_BT)


@pytest.mark.parametrize("name", [name for name, entry in ROWS.items() if entry.micro])
def test_micro_scope_depends_on_the_split(name):
    """So that the test above can fail."""
    rollouts, forward = random_rollouts(10)
    whole = learn(ROWS[name].make(), rollouts, forward)
    parts = learn(ROWS[name].make(), rollouts, forward, [[[0, 1, 2], [3], [4, 5, 6, 7]]])
    assert float((whole.logp_gradient_BT - parts.logp_gradient_BT).abs().max()) > 1e-3


@pytest.mark.parametrize("name", [name for name, entry in ROWS.items() if entry.micro])
def test_micro_scope_of_one_pass_is_mini_scope(name):
    rollouts, forward = random_rollouts(10)
    links = [
        type(x)(**{**vars(x)}) if x.name != "top_entropy" else top_entropy(**{**x.arguments, "scope": "mini"})
        for x in ROWS[name].make().links
    ]
    got, expected = learn(ROWS[name].make(), rollouts, forward), learn(chain(*links), rollouts, forward)
    same_learning(got, expected)


def _open(method: str, **arguments) -> Chain:
    return METHODS[method](clip_low=None, clip_high=None, **arguments)


REDUCTIONS = {
    "forking(share=1) is DAPO": (lambda: forking(share=1), methods.dapo),
    "forking(share=1) of the bottom is DAPO": (lambda: forking(share=1, keep="bottom"), methods.dapo),
    "forking(share=1) at random is DAPO": (lambda: forking(share=1, keep="random"), methods.dapo),
    "forking(trl, share=1) is DAPO": (lambda: forking(preset="trl", share=1), methods.dapo),
    "entropy bonus 0 is DAPO": (lambda: methods.entropy_bonus(coefficient=0), methods.dapo),
    "KL 0 is GRPO": (lambda: chain(methods.grpo(), kl(coefficient=0.0)), methods.grpo),
    "DAPO with equal clips and GRPO's denominator is GRPO": (
        lambda: chain(methods.dapo(clip_high=0.2), methods.grpo().links[-1]),
        methods.grpo,
    ),
    "GRPO without std, constant denominator is Dr. GRPO": (
        lambda: chain(methods.grpo(std=False), methods.dr_grpo().links[-1]),
        methods.dr_grpo,
    ),
    "infinite clip is no clip": (
        lambda: methods.grpo(clip_low=1.0, clip_high=INF),
        lambda: _open("grpo"),
    ),
    "infinite dual clip is none": (lambda: methods.dapo(dual=INF), methods.dapo),
    "masked everywhere": (
        lambda: chain(*[masked(x, lambda r, c: torch.ones_like(c.keep_BT)) if x.name == "clip" else x
                        for x in methods.dapo().links]),
        methods.dapo,
    ),
    "a constant schedule": (
        lambda: chain(*forking().links[:-1], scheduled(top_entropy, share=lambda n: 0.2)),
        forking,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    special, parent = REDUCTIONS[name]
    for seed in range(5):
        rollouts, forward = random_rollouts(seed)
        same_learning(learn(special(), rollouts, forward), learn(parent(), rollouts, forward))


@pytest.mark.parametrize("method", ["gspo", "cispo"])
def test_on_policy_other_ratios_have_the_gradient_of_their_parent(method):
    """r = 1: GSPO's gradient is GRPO's, CISPO's is DAPO's."""
    parent = {"gspo": methods.grpo, "cispo": methods.dapo}[method]
    rollouts, _ = random_rollouts(11)
    got, expected = (learn(make(), rollouts, forward_of(rollouts)) for make in (METHODS[method], parent))
    close(got.logp_gradient_BT, expected.logp_gradient_BT)
    assert (got.logp_gradient_BT != 0).any()


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "dapo"])
def test_on_policy_without_clip_the_gradient_is_reinforce(method):
    """-coefficient * A, token by token."""
    rollouts, _ = random_rollouts(12)
    got = learn(_open(method), rollouts, forward_of(rollouts))
    coefficient_BT = coefficients(got.credit, rollouts, one_batch(rollouts.rows))
    close(got.logp_gradient_BT, -coefficient_BT * got.credit.advantage_BT)
    assert (got.logp_gradient_BT != 0).any()
