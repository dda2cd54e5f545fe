"""Recorded answers read back as rollouts."""

from __future__ import annotations

import dataclasses
import math

import pyarrow as pa
import pytest
import torch

from core_batches import random_rollouts
from forkpoint.analyze.recorded import rollouts_of_table
from forkpoint.analyze.rundata import read_rollouts
from forkpoint.errors import InputError
from forkpoint.rollouts import Verdict
from forkpoint.train.runlog import write_rollouts

ROW = {
    "prompt_id": "a", "sample": 0, "prompt": "2+2", "answer": "4", "completion": "four", "ids": [5, 6],
    "logp": [-1.0, -0.5], "entropy": [0.5, 0.25], "entropy_kind": "exact", "reward": 1.0,
    "reward_parts": '{"answer": 1}', "verdict": "right", "finish": "stop", "version": 3,
}  # fmt: skip


def table(*changes):
    return pa.Table.from_pylist([{**ROW, **change} for change in changes])


def test_what_a_run_wrote_comes_back(tmp_path):
    rollouts, _ = random_rollouts(2)
    verdicts = tuple([Verdict.RIGHT, Verdict.WRONG, Verdict.UNJUDGED, Verdict.WRONG] * 2)
    judged_B = torch.tensor([verdict is not Verdict.UNJUDGED for verdict in verdicts])
    rollouts = dataclasses.replace(
        rollouts, verdicts=verdicts, judged_B=judged_B, reward_parts={"answer": rollouts.reward_B}, version=7
    )
    ones = torch.ones_like(rollouts.logp_BT)
    path = write_rollouts(
        tmp_path, 4, rollouts, token_text=str, advantage_BT=ones, credit_BT=ones, kept_BT=rollouts.mask_BT
    )
    got = rollouts_of_table(read_rollouts(path), max_tokens=7)
    for name in ("mask_BT", "ids_BT", "group_B", "sample_B", "judged_B"):
        assert torch.equal(getattr(got, name), getattr(rollouts, name)), name
    for name in ("logp_BT", "entropy_BT"):
        assert torch.equal(getattr(got, name), getattr(rollouts, name).float().double()), name
    assert torch.equal(got.reward_B, torch.where(judged_B, rollouts.reward_B, 0.0))
    assert torch.equal(got.reward_parts["answer"], rollouts.reward_B)
    assert [prompt.id for prompt in got.prompts] == [prompt.id for prompt in rollouts.prompts]
    assert (got.verdicts, got.max_tokens, got.version, got.entropy_kind) == (verdicts, 7, 7, "exact")


def test_what_is_not_said():
    """No verdicts: a finite reward is a judgement. No sample numbers: places among the answers to a problem."""
    rows = [
        {"verdict": None, "sample": None, "reward_parts": "no json"},
        {"prompt_id": "b", "verdict": None, "sample": None},
        {"verdict": None, "sample": None, "reward": None, "ids": [7], "logp": [math.nan], "entropy": [0.0]},
    ]  # fmt: skip
    got = rollouts_of_table(table(*rows))
    assert got.verdicts == ()
    assert got.judged_B.tolist() == [True, True, False]
    assert got.sample_B.tolist() == [0, 0, 1]
    assert got.group_B.tolist() == [0, 1, 0]
    assert got.reward_parts["answer"].tolist() == [0.0, 1.0, 1.0]
    assert got.logp_BT[2].isnan().tolist() == [True, False]


def test_an_odd_verdict_is_no_judgement_and_bounds_of_some_are_bounds_of_all():
    got = rollouts_of_table(table({"verdict": "maybe"}, {"entropy_kind": "lower-bound"}, {"entropy_kind": "rescored"}))
    assert got.judged_B.tolist() == [False, True, True]
    assert got.entropy_kind == "lower-bound"
    assert rollouts_of_table(table({}, {"entropy_kind": "rescored"})).entropy_kind == "rescored"


def test_empty_answers():
    got = rollouts_of_table(table({"ids": [], "logp": [], "entropy": []}, {}))
    assert got.mask_BT.tolist() == [[False, False], [True, True]]


def test_what_cannot_be_credited_is_refused():
    with pytest.raises(InputError, match="no column logp, reward"):
        rollouts_of_table(table({}).drop_columns(["logp", "reward"]))
    with pytest.raises(InputError, match=r"answer 1 has lists of \[1, 2\] tokens"):
        rollouts_of_table(table({}, {"logp": [-1.0]}))
    with pytest.raises(InputError, match="holds no answers"):
        rollouts_of_table(table({}).slice(0, 0))
