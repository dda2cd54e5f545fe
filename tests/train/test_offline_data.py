"""Recorded answers read from files: what counts as a group, and mistakes by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from core_batches import random_rollouts
from forkpoint.errors import InputError
from forkpoint.train.offline_data import read_answers, rollouts_of_rows, with_ids
from forkpoint.train.runlog import write_rollouts
from tiny import tokenizer

GOOD = {"prompt": "1 + 1 =", "completion": "2", "reward": 1}


def file(tmp_path, *lines):
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def rollouts_of(tmp_path, *lines):
    return rollouts_of_rows(with_ids(read_answers(file(tmp_path, *lines)), tokenizer()))


def test_lines_of_one_prompt_are_a_group_and_an_id_tells_them_apart(tmp_path):
    got = rollouts_of(
        tmp_path,
        {"prompt": "1 + 1 =", "completions": ["2", "3 a"], "rewards": [1, 0.5], "answer": "2"},
        "",
        {"prompt": "a", "completion": "b", "reward": None},
        {"prompt": "1 + 1 =", "completion": "4", "reward": False},
        {"prompt": "a", "prompt_id": "other", "completion": "c", "reward": 2, "finish": "length"},
    )
    assert got.group_B.tolist() == [0, 0, 1, 0, 2]
    assert got.sample_B.tolist() == [0, 1, 0, 2, 0]
    assert got.reward_B.tolist() == [1, 0.5, 0, 0, 2]
    assert got.judged_B.tolist() == [True, True, False, True, True]
    assert [prompt.id for prompt in got.prompts] == ["1 + 1 =", "a", "other"]
    assert got.prompts[0].answer == "2"
    assert got.mask_BT.sum(1).tolist() == [2, 3, 2, 2, 1], "an end token where the answer was not cut off"
    assert got.logp_BT[got.mask_BT].isnan().all()
    assert got.finish[-1] == "length"
    assert got.verdicts == ()


def test_recorded_ids_are_kept_as_they_are(tmp_path):
    row = {"prompt": "a", "ids": [5, 6], "logp": [-1, -0.5], "entropy": [0.5, None], "reward": 1}
    got = rollouts_of(tmp_path, row)
    assert got.ids_BT.tolist() == [[5, 6]]
    assert got.logp_BT.tolist() == [[-1.0, -0.5]]
    assert got.entropy_BT.isnan().tolist() == [[False, True]]


def test_a_run_and_its_files(tmp_path):
    rollouts, _ = random_rollouts(2)
    rollouts = dataclasses.replace(
        rollouts, prompts=tuple(dataclasses.replace(prompt, text="1 + 1 =") for prompt in rollouts.prompts)
    )
    ones = torch.ones_like(rollouts.logp_BT)
    for step in (1, 3):
        write_rollouts(
            tmp_path, step, rollouts, token_text=str, advantage_BT=ones, credit_BT=ones, kept_BT=rollouts.mask_BT
        )
    groups = len(rollouts.prompts)
    both = rollouts_of_rows(read_answers(tmp_path))
    assert both.rows == 2 * rollouts.rows
    assert len(both.prompts) == 2 * groups, "one problem in two steps is two groups"
    one = rollouts_of_rows(read_answers(tmp_path / "rollouts" / "step-00003.parquet"))
    for name in ("ids_BT", "mask_BT", "group_B", "sample_B"):
        assert torch.equal(getattr(one, name), getattr(rollouts, name)), name
    assert torch.equal(one.logp_BT, rollouts.logp_BT.float().double())


def test_shards_of_an_evaluation_are_one_set(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "answers").mkdir()
    for part, sample in enumerate("ab"):
        row = {"prompt_id": "p", "sample": part, "prompt": "1 =", "completion": sample, "ids": None, "reward": 1.0}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "answers" / f"part-0000{part}.parquet")
    rows = read_answers(tmp_path)
    assert [row["completion"] for row in rows] == ["a", "b"]
    got = rollouts_of_rows(with_ids(rows, tokenizer()))
    assert (got.group_B.tolist(), got.sample_B.tolist()) == ([0, 0], [0, 1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "a JSON list where an object is needed"),
        ({"question": "a"}, "it has question"),
        ({"prompt": "a", "reward": 1}, "it has prompt, reward"),
        ({**GOOD, "prompt": " "}, "`prompt` is empty"),
        ({**GOOD, "prompt": [{"role": "user"}]}, "`prompt` is a list: write a string"),
        ({**GOOD, "completion": 3}, "`completion` is a int"),
        ({**GOOD, "reward": "1"}, "`reward` is '1': write a finite number"),
        ('{"prompt": "a", "completion": "b", "reward": NaN}', "`reward` is nan"),
        ({**GOOD, "ids": [1.5]}, "`ids` must be a list of whole numbers"),
        ({**GOOD, "logp": "x"}, "`logp` must be a list of numbers"),
        ({"prompt": "a", "completions": []}, "`completions` must be a list of texts that is not empty"),
        ({"prompt": "a", "completions": ["b"], "rewards": [1, 2]}, "`rewards` must be a list of 1 numbers"),
        ({"prompt": "a", "completions": ["b", 3], "rewards": [1, 2]}, "`completion` is a int"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = file(tmp_path, GOOD, "", line)
    with pytest.raises(InputError) as error:
        read_answers(path)
    assert message in str(error.value)
    assert f"{path}, line 3: " in str(error.value)


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="does not exist: name a run directory"):
        read_answers(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no answers"):
        read_answers(file(tmp_path, ""))
    with pytest.raises(InputError, match="1 of 2 answers have a reward"):
        read_answers(file(tmp_path, GOOD, {"prompt": "a", "completion": "b"}))
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="no rollouts/step"):
        read_answers(tmp_path / "bare")
    (tmp_path / "answers.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        read_answers(tmp_path / "answers.jsonl")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_answers(tmp_path / "x.parquet")


def test_answers_that_have_no_tokens_or_foreign_ones(tmp_path):
    with pytest.raises(InputError, match="answer 0 to problem 'a' has no token"):
        rollouts_of(tmp_path, {"prompt": "a", "completion": "", "finish": "length", "reward": 1})
    with pytest.raises(InputError, match="answer 0 has token 900, and the tokenizer has 23"):
        rollouts_of(tmp_path, {"prompt": "a", "ids": [5, 900], "reward": 1})
    with pytest.raises(InputError, match="no end token"):
        with_ids([{**GOOD, "prompt_id": "a"}], tokenizer(eos=False))
    with pytest.raises(InputError, match=r"lists of \[1, 2\] tokens"):
        rollouts_of(tmp_path, {"prompt": "a", "ids": [5, 6], "logp": [-1.0], "reward": 1})
    with pytest.raises(InputError, match="no answers"):
        rollouts_of_rows([])
