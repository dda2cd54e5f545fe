"""What `benchmarks/head.py` rests on: equal work for every head, and a gate that refuses wrong ones."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import benchtables
import head_measure as measure
from head_peers import HEADS
from head_tables import goals, useful

SETTING = measure.Setting(tokens=40, hidden=16, words=300, temperature=0.7)
INSTALLED = [name for name, head in HEADS.items() if not head.absent("cpu")]


@pytest.fixture(scope="module")
def work():
    return measure.make(SETTING)


def gap(name, work, op=None):
    head = HEADS[name]
    true = measure.truth(work, dense=head.dense)
    return measure.errors(head, op or head.load(), work, true)


@pytest.mark.parametrize("name", INSTALLED)
def test_every_installed_head_passes_the_gate(name, work):
    assert measure.faults(gap(name, work), "float32") == []


@pytest.mark.parametrize("name", ["materialised", "prime", "ours"])
def test_a_frozen_head_gets_no_gradient(name):
    frozen = measure.make(replace(SETTING, frozen=True))
    assert measure.faults(gap(name, frozen), "float32") == []
    assert frozen.weight_VH.grad is None


def test_chunks_fold_across_words_and_tokens(work, monkeypatch):
    monkeypatch.setattr("head_peers.PRIME_ROWS", 7)
    monkeypatch.setattr("head_peers.PRIME_COLUMNS", 64)
    assert measure.faults(gap("prime", work), "float32") == []


def test_the_gate_names_what_is_wrong(work):
    def shifted(hidden, weight, ids, temperature):
        logp, entropy = HEADS["ours"].load()(hidden, weight, ids, temperature)
        return 1.01 * logp, -entropy

    named = [fault.split()[0] for fault in measure.faults(gap("ours", work, shifted), "float32")]
    assert named == ["logp", "entropy", "d_hidden", "d_weight", "moved"]


def test_the_gate_refuses_nan(work):
    def nan(hidden, weight, ids, temperature):
        logp, entropy = HEADS["ours"].load()(hidden, weight, ids, temperature)
        return logp * float("nan"), entropy

    assert [fault.split()[0] for fault in measure.faults(gap("ours", work, nan), "float32")] == [
        "logp", "d_hidden", "d_weight",
    ]  # fmt: skip


def test_the_weights_gradient_is_added_to_the_one_that_is_there(work):
    head = HEADS["ours"]
    measure.clear(work)
    measure.step(head, head.load(), work)
    once = work.weight_VH.grad.clone()
    work.hidden_NH.grad = None
    measure.step(head, head.load(), work)
    torch.testing.assert_close(work.weight_VH.grad, 2 * once)


def test_both_ways_of_selecting_choose_the_same_rows(work):
    own = measure.step(HEADS["ours"], HEADS["ours"].load(), replace(work, setting=replace(SETTING, threshold=True))).own
    assert len(set(own.tolist()) ^ set(work.chosen_K.tolist())) <= 1  # the row at the threshold may round away
    assert torch.equal(measure.step(HEADS["ours"], HEADS["ours"].load(), work).own, work.chosen_K)


def test_entropies_spread_and_are_those_of_the_plain_softmax():
    work = measure.make(measure.Setting(tokens=200, hidden=64, words=4000))
    log_p = (work.hidden_NH @ work.weight_VH.t()).detach().log_softmax(-1)
    torch.testing.assert_close(work.entropy_N, -(log_p.exp() * log_p).sum(-1), rtol=1e-4, atol=1e-4)
    assert work.entropy_N.min() < 1 < 5 < work.entropy_N.max()


def test_forcing_torchs_product_ends_with_the_context():
    from forkpoint import products

    usual = products.library
    with HEADS["ours_products"].around():
        assert products.library() == "torch"
    assert products.library is usual


def test_every_round_has_every_run_once_in_an_order_of_its_own():
    order, cleared = [], []
    runs = {name: (lambda name=name: order.append(name)) for name in "abcd"}
    found = benchtables.in_turn(
        runs, rounds=6, warmup=1, clock=lambda run: run() or 1.0, before=lambda: cleared.append(1)
    )
    rounds = ["".join(order[i : i + 4]) for i in range(0, 28, 4)]
    assert all(sorted(turn) == list("abcd") for turn in rounds)
    assert len(set(rounds)) > 1
    assert len(cleared) == 28
    assert found == {name: [1.0] * 6 for name in "abcd"}


def test_the_rate_counts_only_what_is_needed():
    seconds = {"ours": [3.2], "ours_known": [0.6], "product: torch": [1.0], "product: other": [2.0]}
    found = {"setting": {"share": 0.2, "frozen": False}, "seconds": seconds}
    assert useful(found, "ours") == pytest.approx([0.5])
    assert useful(found, "ours_known") == pytest.approx([1.0])


def test_a_goal_without_its_yardstick_is_a_dash():
    errors = {"logp": 1e-6, "d_hidden": 1e-6, "d_weight": 1e-6}
    setting = {"tokens": 1, "hidden": 1, "words": 1}
    found = {"setting": setting, "seconds": {"ours": [1.0]}, "peaks": {"ours": 10}, "errors": {"ours": errors}}
    assert {row.split("|")[-2].strip() for row in goals([found], "cpu").splitlines()[4:]} == {"-"}
