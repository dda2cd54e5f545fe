from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import write_synthetic_run, write_table

from forkpoint.analyze.rundata import column_tokens, number, read_rollouts, read_run, series, table_rows
from forkpoint.errors import InputError


def write_lines(path: Path, text: str) -> Path:
    path.mkdir(exist_ok=True)
    (path / "metrics.jsonl").write_text(text)
    return path


def test_reads_a_whole_run(tmp_path):
    run = read_run(write_synthetic_run(tmp_path / "run", steps=12))
    assert [record["step"] for record in run.metrics] == list(range(1, 13))
    assert [record["step"] for record in run.evaluations] == [0, 3, 6, 9, 12]
    assert [path.name for path in run.rollout_files] == ["step-00001.parquet", "step-00012.parquet"]
    assert [path.name for path in run.eval_files] == ["step-00000.parquet", "step-00012.parquet"]
    assert run.recipe["seed"] == 17
    assert run.notes == ()


def test_files_sort_by_number_not_by_name(tmp_path):
    for step in (2, 100_000, 30_000):
        write_table(tmp_path / "rollouts" / f"step-{step:05d}.parquet", [{"step": step}])
    (tmp_path / "rollouts" / "step-00003.parquet.tmp").touch()
    names = [path.name for path in read_run(tmp_path).rollout_files]
    assert names == ["step-00002.parquet", "step-30000.parquet", "step-100000.parquet"]


def test_missing_and_foreign_directories_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a directory"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(InputError, match=r"is not a run directory.*forkpoint train"):
        read_run(tmp_path)


def test_unfinished_last_line_is_ignored_with_a_note(tmp_path):
    run = read_run(write_lines(tmp_path, '{"step": 1, "loss": 2.0}\n{"step": 2, "lo'))
    assert run.metrics == [{"step": 1, "loss": 2.0}]
    assert any("last line of metrics.jsonl (line 2) is unfinished" in note for note in run.notes)


def test_complete_last_line_without_line_break_counts(tmp_path):
    run = read_run(write_lines(tmp_path, '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}'))
    assert [record["step"] for record in run.metrics] == [1, 2]
    assert not any("line" in note and "2" in note for note in run.notes)


@pytest.mark.parametrize("bad", ["{]", "[1]", '{"loss": 1}', '{"step": "one"}', "[" * 100_000])
def test_broken_line_in_the_middle_is_named(tmp_path, bad):
    run = read_run(write_lines(tmp_path, f'{{"step": 1, "loss": 1}}\n{bad}\n{{"step": 3, "loss": 1}}\n'))
    assert [record["step"] for record in run.metrics] == [1, 3]
    assert any(note.startswith("Line 2 of metrics.jsonl") for note in run.notes)


def test_evaluation_and_training_lines_of_a_step_do_not_mix(tmp_path):
    lines = [
        {"step": 1, "loss": 1.0, "time/step": 2},
        {"step": 1, "time": 3.0, "eval/accuracy": 0.5, "time/eval": 1},
    ]
    run = read_run(write_lines(tmp_path, "".join(json.dumps(line) + "\n" for line in lines)))
    assert (run.metrics, run.evaluations) == ([lines[0]], [lines[1]])
    both = {"step": 1, "loss": 1.0, "eval/accuracy": 0.5}
    run = read_run(write_lines(tmp_path, json.dumps(both)))
    assert (run.metrics, run.evaluations) == ([both], [both])


def test_step_written_again_after_a_resume_counts_once(tmp_path):
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 2.0}]
    run = read_run(write_lines(tmp_path, "".join(json.dumps(line) + "\n" for line in lines)))
    assert [record["loss"] for record in run.metrics] == [1.0, 2.0]
    assert any("after a resume" in note for note in run.notes)


@pytest.mark.parametrize(("text", "said"), [("{", "not valid JSON"), ("[]", "object"), ('{"schema": 7}', "schema 7")])
def test_odd_recipe_is_a_note(tmp_path, text, said):
    (tmp_path / "recipe.json").write_text(text)
    assert any(said in note for note in read_run(tmp_path).notes)


def test_numbers_from_json():
    assert math.isnan(number(10**400))
    assert math.isnan(number(True))
    assert number(2) == 2.0
    records = [{"x": 1}, {}, {"x": float("inf")}, {"x": "3"}]
    np.testing.assert_array_equal(series(records, "x"), [1.0, np.nan, np.nan, np.nan])


def test_column_tokens_drops_nulls_and_nan(tmp_path):
    path = tmp_path / "step-00001.parquet"
    write_table(path, [{"entropy": [0.5, None]}, {"entropy": []}, {"entropy": None}, {"entropy": [math.nan, 2.0]}])
    np.testing.assert_array_equal(column_tokens(read_rollouts(path), "entropy"), [0.5, 2.0])
    write_table(path, [{"entropy": 0.5}])
    with pytest.raises(InputError, match="column entropy holds double"):
        column_tokens(read_rollouts(path), "entropy")


def test_unreadable_parquet_is_named(tmp_path):
    path = tmp_path / "step-00001.parquet"
    write_table(path, [{"entropy": [0.5]}])
    with pytest.raises(InputError, match="no column logp, tokens"):
        read_rollouts(path, ["entropy", "tokens", "logp"])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"step-00001\.parquet cannot be read as parquet"):
        read_rollouts(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_rollouts(tmp_path / "absent.parquet")


def test_bytes_that_are_not_utf8_become_visible(tmp_path):
    path = tmp_path / "step-00001.parquet"
    raw = pa.array([b"ok", b"\xed\xa0\x80", b"\xff"]).cast(pa.string(), safe=False)
    tokens = pa.ListArray.from_arrays(pa.array([0, 3]), raw)
    pq.write_table(pa.table({"tokens": tokens}), path)
    rows = table_rows(read_rollouts(path), [0])
    assert rows == [{"tokens": ["ok", r"\xed\xa0\x80", r"\xff"]}]
