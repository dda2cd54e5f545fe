"""Every method is its parent in its special case, to 1e-12: what the docstrings call `Reduces to`."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from identities import ELSEWHERE, TABLE

from core_batches import learn, random_rollouts
from forkpoint.methods import METHODS, describe_method
from method_kit import collected

ROWS_OF = {**TABLE, **collected("IDENTITIES")}

PLACES = [(name, place) for name, rows in ROWS_OF.items() for place in range(len(rows))]


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def in_units_of(credit, segment_B):
    """Advantages divided by the largest of every segment."""
    size_B = credit.advantage_BT.abs().amax(1)
    largest_S = torch.zeros(int(segment_B.max()) + 1).to(size_B).scatter_reduce(0, segment_B, size_B, "amax")
    return credit.advantage_BT / largest_S[segment_B][:, None].clamp(min=1e-30)


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_it_is_its_parent(name, place):
    given = ROWS_OF[name][place]
    moved = 0.0
    for seed in range(4):
        torch.manual_seed(seed)
        rollouts, forward = random_rollouts(seed)
        if seed % 2:  # ratios from 1/5 to 5: beyond wide bounds, too
            far_BT = rollouts.logp_BT + 4 * (forward.logp_BT - rollouts.logp_BT)
            forward = dataclasses.replace(forward, logp_BT=far_BT)
        rollouts, forward = given.change(rollouts, forward)
        got, expected = (learn(make(), rollouts, forward) for make in (given.special, given.parent))
        if given.of == "advantage":
            close(got.credit.advantage_BT, expected.credit.advantage_BT)
        elif given.of.endswith("direction"):
            segment_B = torch.zeros_like(rollouts.group_B) if given.of.startswith("batch") else rollouts.group_B
            close(in_units_of(got.credit, segment_B), in_units_of(expected.credit, segment_B))
        elif given.of != "entropy gradient":
            close(got.logp_gradient_BT, given.factor * expected.logp_gradient_BT)
        if given.of in ("learning", "entropy gradient"):
            close(got.entropy_gradient_BT, expected.entropy_gradient_BT)
        if given.of == "learning":
            assert got.value == pytest.approx(given.factor * expected.value, abs=1e-12)
        moved = max(moved, float(expected.logp_gradient_BT.abs().max()))
    # Equal rewards teach nothing, which is what that case says.
    assert moved > 1e-3 or name == "shear"


@pytest.mark.parametrize("name", METHODS)
def test_every_clause_of_its_docstring_has_a_row_or_a_reason(name):
    clauses = describe_method(name, METHODS[name])["reduces"].split(";")
    assert len(ROWS_OF.get(name, [])) + (name in ELSEWHERE) >= len(clauses)


def test_the_tables_name_methods_that_exist_and_each_once():
    assert set(ROWS_OF) | set(ELSEWHERE) == set(METHODS)
    assert not set(TABLE) & set(collected("IDENTITIES"))


def test_a_special_case_is_not_the_method_itself():
    """Without its special arguments the method learns otherwise: the rows above can fail."""
    rollouts, forward = random_rollouts(0)
    for name in ("forking", "steer", "eapo", "hapo", "sapo", "vespo", "luspo", "cispo"):
        special = ROWS_OF[name][0]
        required = dict.fromkeys(describe_method(name, METHODS[name])["required"], 1.0)
        plain = learn(METHODS[name](**required), rollouts, forward)
        parent = learn(special.parent(), rollouts, forward)
        assert float((plain.logp_gradient_BT - parent.logp_gradient_BT).abs().max()) > 1e-6, name
