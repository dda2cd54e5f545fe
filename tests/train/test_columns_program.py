"""Columns from a program of the user's: what it sees, what it may not do, and what the run says of it."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from test_columns import answers, context
from test_loop import weights, write

from forkpoint.errors import InputError, TrainingError
from forkpoint.train.columns import filled
from forkpoint.train.columns_program import load_program
from forkpoint.train.loop import train
from forkpoint.train.recipe import load_recipe

JUDGE = """
import torch

def verdicts(rollouts, tokenizer):
    step = rollouts.extra["step"]
    return {"step_reward": torch.where(step > 0, rollouts.ids_BT % 5, 0).double()}

def late(rollouts, tokenizer):
    return {"step": rollouts.mask_BT.cumsum(1), "step_reward": rollouts.mask_BT.double()}

def several(rollouts, tokenizer):
    ids = rollouts.ids_BT
    return {
        "step_reward": ids / 4, "mood": torch.arange(rollouts.rows) % 3, "even": ids % 2 == 0,
        "states": torch.zeros(*ids.shape, 5),
    }

def misspelt(rollouts, tokenizer):
    return {"step_rewards": rollouts.logp_BT}

def wide(rollouts, tokenizer):
    return {"step_reward": rollouts.logp_BT[:, :-1]}

def listed(rollouts, tokenizer):
    return {"step_reward": [1.0]}

def nothing(rollouts, tokenizer):
    return None

def broken(rollouts, tokenizer):
    raise KeyError("gold")

number = 3
"""


@pytest.fixture
def judge(tmp_path):
    (tmp_path / "judge.py").write_text(JUDGE)
    return lambda name: load_program(f"{tmp_path / 'judge.py'}:{name}")


def test_a_program_sees_the_other_columns_and_what_it_gives_counts(judge):
    found = filled(answers(), {"step", "step_reward"}, context(judge("verdicts"), step=" , "))
    assert found.extra["step_reward"][0].tolist() == [0.0] * 7 + (found.ids_BT[0, 7:] % 5).tolist()
    assert found.extra["step_reward"][0, 7:].any()
    own = filled(answers(), {"step", "step_reward"}, context(judge("late")))
    assert own.extra["step"][0].tolist() == list(range(1, 13))


def test_a_program_stands_in_for_a_setting(judge):
    with pytest.raises(TrainingError, match="gave no 'planning'"):
        filled(answers(), {"planning"}, context(judge("late")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("misspelt", "gave no 'step_reward', which the chain reads: did you mean 'step_rewards'"),
        ("wide", r"'step_reward' has shape \(6, 11\) and must have \(6,\), one value an answer, or \(6, 12\)"),
        ("listed", "'step_reward' is a list and must be a tensor"),
        ("nothing", "must return a dict of tensors by name, not NoneType"),
        ("broken", "columns.program failed: KeyError: 'gold'"),
    ],
)
def test_what_a_program_may_not_do(name, message, judge):
    with pytest.raises(TrainingError, match=message):
        filled(answers(), {"step", "step_reward"}, context(judge(name)))


def test_a_program_that_cannot_be_loaded(tmp_path, judge):
    with pytest.raises(InputError, match=r"judge\.py has no function 'verdict'"):
        judge("verdict")
    with pytest.raises(InputError, match="has no function 'number'"):
        judge("number")
    with pytest.raises(InputError, match=r"there is no file .*none\.py"):
        load_program(f"{tmp_path / 'none.py'}:f")
    (tmp_path / "bad.py").write_text("import nowhere_at_all")
    with pytest.raises(InputError, match=r"bad\.py cannot be run: ModuleNotFoundError"):
        load_program(f"{tmp_path / 'bad.py'}:f")


SRAR = ["credit.method=srar", "train.steps=2", "eval.before=false", "eval.after=false", "columns.step='[0-9]'"]


def test_a_run_with_a_program_learns_from_it_and_says_which_file_it_was(tmp_path, judge):
    path = write(tmp_path)
    program = f"columns.program={tmp_path / 'judge.py'}:verdicts"
    train(load_recipe(path, [*SRAR, program]), run_dir=tmp_path / "run")
    about = json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]
    file = (tmp_path / "judge.py").read_bytes()
    assert about["program"] == {"path": str(tmp_path / "judge.py"), "sha256": hashlib.sha256(file).hexdigest()}
    other = f"columns.program={tmp_path / 'judge.py'}:late"
    train(load_recipe(path, [*SRAR, other]), run_dir=tmp_path / "other")
    a, b = weights(tmp_path / "run"), weights(tmp_path / "other")
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_columns_are_written_with_the_rollouts(tmp_path, judge):
    import pyarrow.parquet as pq

    program = f"columns.program={tmp_path / 'judge.py'}:several"
    train(load_recipe(write(tmp_path), [*SRAR, program, "train.steps=1"]), run_dir=tmp_path / "run")
    table = pq.read_table(tmp_path / "run" / "rollouts" / "step-00001.parquet")
    rows = table.to_pylist()
    assert {name for name in table.column_names if name.startswith("extra.")} == {
        "extra.step", "extra.step_reward", "extra.mood", "extra.even",
    }  # fmt: skip
    assert [row["extra.mood"] for row in rows] == [row % 3 for row in range(24)]
    for row in rows:
        assert row["extra.even"] == [token % 2 == 0 for token in row["ids"]]
        assert row["extra.step_reward"] == pytest.approx([token / 4 for token in row["ids"]])
        assert len(row["extra.step"]) == len(row["ids"])


def test_a_program_that_changed_is_told_when_a_run_resumes(tmp_path, judge, capsys):
    path = write(tmp_path)
    settings = [*SRAR, f"columns.program={tmp_path / 'judge.py'}:verdicts"]
    train(load_recipe(path, [*settings, "train.steps=1"]), run_dir=tmp_path / "run")
    (tmp_path / "judge.py").write_text(JUDGE + "\n# another\n")
    train(load_recipe(path, settings), run_dir=tmp_path / "run", resume=True)
    assert "another setting than the run began with: program.sha256" in capsys.readouterr().out


def test_what_a_program_does_wrong_in_a_run_is_told_with_the_step(tmp_path, judge):
    path = write(tmp_path)
    broken = f"columns.program={tmp_path / 'judge.py'}:broken"
    with pytest.raises(TrainingError, match=r"step 1: columns\.program failed: KeyError.*up to step 0 is intact"):
        train(load_recipe(path, [*SRAR, broken]), run_dir=tmp_path / "run")


def test_a_programs_path_starts_here_or_at_the_recipe(tmp_path, judge):
    recipe = load_recipe(write(tmp_path), ["columns.program=judge.py:verdicts"])
    assert recipe.columns.program == f"{tmp_path / 'judge.py'}:verdicts"
    with pytest.raises(InputError, match=r"columns\.program = 'jugde\.py' does not exist"):
        load_recipe(tmp_path / "toy.toml", ["columns.program=jugde.py:verdicts"])
