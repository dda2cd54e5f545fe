"""The run directory: metrics, tables, truncation, opening, trackers, console."""

import errno
import io
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from forkpoint.errors import InputError, TrainingError
from forkpoint.rollouts import Prompt, Rollouts, Verdict
from forkpoint.train import runlog, tables
from forkpoint.train.console import make_console
from forkpoint.train.runlog import (
    append_metrics,
    open_run,
    truncate_after,
    write_evals,
    write_recipe_json,
    write_rollouts,
)
from forkpoint.train.trackers import make_tracker


def rollouts(**changes):
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    values = {
        "prompts": (Prompt(id="a", text="1+1?", answer="2"), Prompt(id="b", text="?", answer=None)),
        "prompt_BS": torch.zeros(3, 1, dtype=torch.long),
        "prompt_length_B": torch.ones(3, dtype=torch.long),
        "ids_BT": torch.tensor([[5, 6, 5], [7, 99, 99], [99, 99, 99]]),
        "mask_BT": mask,
        "group_B": torch.tensor([0, 0, 1]),
        "sample_B": torch.tensor([0, 1, 0]),
        "logp_BT": torch.tensor([[-0.5, -1.0, -2.0], [-3.0, 9.0, 9.0], [9.0, 9.0, 9.0]]),
        "entropy_BT": torch.tensor([[0.1, 0.2, 0.3], [0.4, 9.0, 9.0], [9.0, 9.0, 9.0]]),
        "finish": ("stop", "length", "stop"),
        "text": ("<b>é", "7", ""),
        "reward_B": torch.tensor([1.0, -0.5, 0.0]),
        "reward_parts": {
            "answer": torch.tensor([1.0, 0.0, math.nan]),
            "overlong": torch.tensor([0.0, -0.5, 0.0]),
        },
        "judged_B": torch.tensor([True, True, False]),
        "verdicts": (Verdict.RIGHT, Verdict.WRONG, Verdict.UNJUDGED),
        "version": 4,
    }
    return Rollouts(**{**values, **changes})


def write(run, step=3, value=None):
    value = value or rollouts()
    asked = []

    def token_text(token):
        asked.append(token)
        return f"<{token}>"

    advantage = torch.full((3, 3), 0.5)
    kept = value.mask_BT & (value.ids_BT != 6)
    path = write_rollouts(
        run,
        step,
        value,
        token_text=token_text,
        advantage_BT=advantage,
        credit_BT=advantage * kept,
        kept_BT=kept,
    )
    return path, asked


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# Metrics


def test_a_line_is_json_whatever_is_in_it(tmp_path):
    append_metrics(tmp_path, {
        "loss": math.nan, "high": math.inf, "low": torch.tensor(-math.inf), "mean": torch.tensor(0.5),
        "count": torch.tensor(3), "text": "é", "step": 3, "time": 1.5,
    })  # fmt: skip
    append_metrics(tmp_path, {"step": 4, "eval/accuracy": 0.25})
    first, second = lines(tmp_path)
    assert first == {
        "step": 3, "time": 1.5, "loss": None, "high": None, "low": None, "mean": 0.5, "count": 3, "text": "é",
    }  # fmt: skip
    assert next(iter(first)) == "step"
    assert second["eval/accuracy"] == 0.25
    assert second["time"] > 1e9


def test_a_full_disk_takes_nothing_from_the_log(tmp_path, monkeypatch):
    append_metrics(tmp_path, {"step": 1})
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def fsync(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runlog.os, "fsync", fsync)
    with pytest.raises(TrainingError, match="disk is full") as error:
        append_metrics(tmp_path, {"step": 2})
    assert str(tmp_path) in str(error.value)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_real_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tiny file system cannot be mounted here")
    try:
        write(disk, 1)
        append_metrics(disk, {"step": 1})
        (disk / "filler").write_bytes(b"x" * 4096 * os.statvfs(disk).f_bavail)
        before = {p: p.read_bytes() for p in disk.rglob("*") if p.is_file()}
        with pytest.raises(TrainingError, match="disk is full"):
            append_metrics(disk, {"step": 2, "text": "x" * 5000})
        with pytest.raises(TrainingError, match=r"disk is full: rollouts/step-00002.parquet"):
            write(disk, 2)
        with pytest.raises(TrainingError, match=r"disk is full: recipe\.json"):
            write_recipe_json(disk, recipe={}, chain=[], device="cpu", seed=0)
        assert {p: p.read_bytes() for p in disk.rglob("*") if p.is_file()} == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Truncation


def test_truncation_keeps_the_checkpoints_past_and_no_torn_line(tmp_path):
    for step in (0, 1, 2, 2, 3):
        append_metrics(tmp_path, {"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "torn')
    for step in (1, 2, 3):
        write(tmp_path, step)
        write_evals(tmp_path, step, rollouts(), token_text=str)
    (tmp_path / "rollouts" / ".tmp-step-00001.parquet").write_text("half")
    truncate_after(tmp_path, 2)
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 2]
    for folder in ("rollouts", "evals"):
        assert sorted(os.listdir(tmp_path / folder)) == ["step-00001.parquet", "step-00002.parquet"]


def test_a_last_line_without_its_end_is_torn_though_it_parses(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    truncate_after(tmp_path, 5)
    assert [line["step"] for line in lines(tmp_path)] == [1]


@pytest.mark.parametrize("bad", ["oops", "[]", '{"loss": 1}', '{"step": "x"}', ""])
def test_a_broken_line_in_the_middle_is_named(tmp_path, bad):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + bad + '\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl line 2 is not a metrics line"):
        truncate_after(tmp_path, 5)


def test_truncating_an_empty_run_is_nothing(tmp_path):
    truncate_after(tmp_path, 0)
    assert os.listdir(tmp_path) == []


# Tables


def test_rollouts_as_parquet_without_padding(tmp_path):
    path, asked = write(tmp_path)
    assert path == tmp_path / "rollouts" / "step-00003.parquet"
    table = pq.read_table(path)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    kinds = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert kinds["ids"] == "list<element: int32>"
    assert kinds["kept"] == "list<element: bool>"
    assert kinds["entropy"] == kinds["credit"] == "list<element: float>"
    first, second, third = table.to_pylist()
    assert first == {
        "step": 3, "prompt_id": "a", "group": 0, "sample": 0, "prompt": "1+1?", "answer": "2",
        "completion": "<b>é", "ids": [5, 6, 5], "tokens": ["<5>", "<6>", "<5>"], "logp": [-0.5, -1.0, -2.0],
        "entropy": pytest.approx([0.1, 0.2, 0.3], abs=1e-7), "entropy_kind": "exact", "advantage": [0.5] * 3,
        "credit": [0.5, 0.0, 0.5],
        "kept": [True, False, True], "reward": 1.0, "reward_parts": '{"answer": 1.0, "overlong": 0.0}',
        "verdict": "right", "finish": "stop", "version": 4,
    }  # fmt: skip
    assert (second["ids"], second["tokens"], second["verdict"]) == ([7], ["<7>"], "wrong")
    assert (third["ids"], third["tokens"], third["entropy"], third["answer"]) == ([], [], [], None)
    assert third["reward_parts"] == '{"answer": null, "overlong": 0.0}'
    assert sorted(asked) == [5, 6, 7]


def test_evals_as_parquet_without_rewards_yet(tmp_path):
    bare = rollouts(reward_B=None, verdicts=(), reward_parts={}, logp_BT=rollouts().logp_BT.bfloat16())
    path = write_evals(tmp_path, 0, bare, token_text=str)
    table = pq.read_table(path)
    assert set(table.column_names) == {
        "step", "prompt_id", "sample", "prompt", "answer", "completion", "ids", "tokens", "entropy", "logp",
        "entropy_kind",
        "verdict", "reward", "finish",
    }  # fmt: skip
    row = table.to_pylist()[0]
    assert (row["verdict"], row["reward"], row["tokens"]) == (None, None, ["5", "6", "5"])


def test_a_failed_table_leaves_the_old_one(tmp_path, monkeypatch):
    path, _ = write(tmp_path)
    before = path.read_bytes()

    def replace(*args):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("forkpoint.train.files.os.replace", replace)
    with pytest.raises(TrainingError, match=r"rollouts/step-00003.parquet could not be written .*Permission denied"):
        write(tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    assert tables.EVAL_COLUMNS.keys() < tables.ROLLOUT_COLUMNS.keys()


def test_the_recipe_says_what_ran(tmp_path):
    path = write_recipe_json(tmp_path, recipe={"method": "forking"}, chain=[{"link": "clip"}], device="cpu", seed=3)
    content = json.loads(path.read_text())
    assert (content["schema"], content["recipe"], content["chain"]) == (
        1,
        {"method": "forking"},
        [{"link": "clip"}],
    )
    assert (content["device"], content["seed"]) == ("cpu", 3)
    assert content["versions"]["torch"] == torch.__version__
    assert "commit" in content


# Opening


def checkpoint(run, step):
    from test_checkpoint import save

    return save(run, step)


@pytest.fixture(autouse=True)
def _checkpoint_helpers(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_a_new_run_makes_its_directory_and_refuses_an_old_one(tmp_path):
    run = tmp_path / "runs" / "demo"
    assert open_run(run, "new") is None
    assert open_run(run, "new") is None  # still empty
    append_metrics(run, {"step": 1})
    with pytest.raises(InputError, match=r"demo already holds a run; continue it with --resume, .*--fresh"):
        open_run(run, "new")


def test_a_fresh_run_moves_the_old_ones_aside(tmp_path):
    run = tmp_path / "demo"
    for step in (1, 2, 3):
        assert open_run(run, "fresh") is None
        append_metrics(run, {"step": step})
    assert sorted(os.listdir(tmp_path)) == ["demo", "demo.1", "demo.2"]
    assert [lines(tmp_path / name)[0]["step"] for name in ("demo.1", "demo.2", "demo")] == [1, 2, 3]


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path):
    open_run(tmp_path, "new")
    for step in (1, 2, 3):
        append_metrics(tmp_path, {"step": step})
        write(tmp_path, step)
    path = checkpoint(tmp_path, 2)
    assert open_run(tmp_path, "resume") == path
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert sorted(os.listdir(tmp_path / "rollouts")) == ["step-00001.parquet", "step-00002.parquet"]


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    append_metrics(tmp_path, {"step": 0})
    write_evals(tmp_path, 0, rollouts(), token_text=str)
    (tmp_path / "checkpoints" / ".tmp-step-00001").mkdir(parents=True)
    assert open_run(tmp_path, "resume") is None
    assert lines(tmp_path) == []
    assert os.listdir(tmp_path / "evals") == []
    assert open_run(tmp_path / "nothing yet", "resume") is None


def test_a_damaged_checkpoint_stops_the_resume_before_anything_is_dropped(tmp_path):
    path = checkpoint(tmp_path, 1)
    append_metrics(tmp_path, {"step": 3})
    (path / "trainer.json").write_text("{")
    with pytest.raises(InputError, match="corrupt"):
        open_run(tmp_path, "resume")
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize("mode", ["new", "resume", "fresh"])
def test_a_directory_that_is_no_run_is_left_alone(tmp_path, mode):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds no run"):
        open_run(tmp_path, mode)
    with pytest.raises(InputError, match="is a file"):
        open_run(tmp_path / "thesis.tex", mode)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(InputError, match="did you mean 'resume'"):
        open_run(tmp_path, "resum")


# Trackers


def tracker(names, run, said):
    return make_tracker(names, run_dir=run, recipe={"seed": 1}, report=said.append)


def test_a_tracker_that_is_unknown_or_missing_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="unknown tracker 'wand'; did you mean 'wandb'"):
        tracker(["wand"], tmp_path, [])
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(InputError, match="pip install trackio"):
        tracker(["trackio"], tmp_path, [])


def fake(monkeypatch, **functions):
    calls = []

    def record(name):
        return lambda *a, **k: calls.append((name, a, k))

    names = {name: record(name) for name in ("init", "log", "finish")}
    module = types.SimpleNamespace(**{**names, "Table": lambda **k: k, **functions})
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_a_tracker_gets_finite_numbers_and_text(tmp_path, monkeypatch):
    calls = fake(monkeypatch)
    one = tracker(["wandb"], tmp_path, [])
    one.log({"loss": 0.5, "bad": math.nan, "text": "x", "mean": torch.tensor(2.0)}, 3)
    one.table("answers", [{"prompt": "a", "answer": "b"}], 3)
    one.finish()
    assert calls == [
        ("init", (), {"project": "forkpoint", "name": tmp_path.name, "config": {"seed": 1}}),
        ("log", ({"loss": 0.5, "mean": 2.0},), {"step": 3}),
        ("log", ({"answers": {"columns": ["prompt", "answer"], "data": [["a", "b"]]}},), {"step": 3}),
        ("finish", (), {}),
    ]


def test_a_tracker_that_fails_is_reported_once_and_the_run_goes_on(tmp_path, monkeypatch):
    def log(*args, **named):
        raise ConnectionError("no network\ndetails")

    fake(monkeypatch, log=log)
    said = []
    one = tracker(["wandb"], tmp_path, said)
    for step in range(3):
        one.log({"loss": 0.5}, step)
    one.finish()
    assert said == ["tracker wandb failed and is left out from here on: ConnectionError: no network"]


def test_no_tracker_is_silent(tmp_path):
    one = tracker([], tmp_path, [])
    one.log({"loss": 1.0}, 1)
    one.finish()
    assert os.listdir(tmp_path) == []


# Console

STEP = {"step": 3, "reward/mean": 0.25, "entropy/mean": math.nan, "credit/share": 0.2, "time/step": 4.25}


def test_a_plain_console_writes_one_line_a_step():
    stream = io.StringIO()
    console = make_console(10, stream=stream)
    console.note("start [bold]")
    console.progress(1, 2)
    console.step({**STEP, "loss": None})
    console.evaluation({"step": 3, "eval/accuracy": 0.5})
    console.close()
    assert stream.getvalue().splitlines() == [
        "start [bold]",
        "step 3/10  reward 0.250  entropy -  credit 20.0%  loss -  seconds 4.2",
        "evaluation after step 3: accuracy 50.0%",
    ]


def test_a_live_console_shows_a_table_and_bars():
    stream = io.StringIO()
    console = make_console(10, stream=stream, live=True)
    console.note("start [bold]")
    console.progress(1, 2)
    console.step(STEP)
    console.evaluation({"step": 3, "eval/accuracy": 0.5})
    console.close()
    shown = stream.getvalue()
    for text in ("start [bold]", "reward", "0.250", "20.0%", "3/10", "accuracy 50.0%"):
        assert text in shown


@pytest.mark.parametrize(
    ("environment", "live"),
    [({}, True), ({"CI": "1"}, False), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_the_console_is_live_only_on_a_terminal(monkeypatch, environment, live):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    console = make_console(1, stream=Terminal())
    console.close()
    assert type(console).__name__ == ("_Live" if live else "_Plain")
    assert type(make_console(1, stream=io.StringIO())).__name__ == "_Plain"
