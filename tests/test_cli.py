"""The command line: every shipped recipe, every exit code, and one sentence for every mistake."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forkpoint import cli
from forkpoint.errors import InputError, TrainingError
from forkpoint.train.recipe import load_recipe, resolved

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "../shared/data"
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
SEQUENCE = DATA / "weights/verl_arithmetic_sequence"

MINIMAL = 'name = "small"\n[model]\npath = "owner/model"\n[train]\nsteps = 3\n'


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def config(hidden=128, layers=4, feed_forward=384, vocabulary=64, head=32, heads=4):
    from transformers import Qwen3Config

    return Qwen3Config(
        hidden_size=hidden, intermediate_size=feed_forward, num_hidden_layers=layers, head_dim=head,
        num_attention_heads=heads, num_key_value_heads=heads // 2, vocab_size=vocabulary,
        tie_word_embeddings=True,
    )  # fmt: skip


CONFIGS = {
    "Qwen/Qwen3-0.6B-Base": (1024, 28, 3072, 151936, 128, 16),
    "Qwen/Qwen3-1.7B-Base": (2048, 28, 6144, 151936, 128, 16),
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(MINIMAL)
    monkeypatch.setattr(
        "forkpoint.train.dryrun.read_model_config", lambda found: config(*CONFIGS.get(found.model.path, ()))
    )
    return path


def overrides(path: Path, tmp_path: Path) -> list[str]:
    """What a recipe leaves to the command line."""
    if path.name != "arithmetic_sequence.toml":
        return []
    for name in ("train.parquet", "test.parquet"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).touch()
    data = tmp_path / "data"
    return [f"model.path={data}", f"task.train={data}/train.parquet", f"task.heldout={data}/test.parquet"]


def test_recipes_ship():
    names = {path.relative_to(ROOT / "recipes").as_posix() for path in RECIPES}
    assert {
        "demo.toml",
        "gsm8k_qwen3_0.6b.toml",
        "dapo_math_qwen3_1.7b_lora.toml",
        "arithmetic_sequence.toml",
    } <= names


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.relative_to(ROOT / "recipes").as_posix())
def test_every_recipe_dry_runs(path, recipe, tmp_path):
    given = overrides(path, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = run("train", path, *given, "--dry-run")
    assert done.exit_code == 0, done.output
    # What it prints is a recipe that says the same, chain and estimate being comments.
    printed = tmp_path / "printed.toml"
    printed.write_text(done.stdout)
    assert load_recipe(printed) == load_recipe(path, given)
    printed.unlink()
    assert "# chain" in done.stdout
    assert "total" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_countdown_recipes_differ_in_credit_alone():
    tables = {path.stem: tomllib.loads(path.read_text()) for path in RECIPES if path.parent.name == "countdown"}
    for name, table in tables.items():
        credit = table.pop("credit")
        assert table.pop("name") == f"countdown-{name.replace('_', '-')}"
        assert isinstance(credit, list) or credit["method"] == name
    assert len({json.dumps(table, sort_keys=True) for table in tables.values()}) == 1


@pytest.mark.parametrize(
    ("name", "least", "most"), [("gsm8k_qwen3_0.6b", 10e9, 75e9), ("dapo_math_qwen3_1.7b_lora", 50e9, 75e9)]
)
def test_gpu_recipes_fit_eighty_gigabytes_by_the_estimate(recipe, name, least, most):
    done = run("train", ROOT / "recipes" / f"{name}.toml", "--dry-run", "--json")
    assert least < json.loads(done.stdout)["estimate"]["total_bytes"] < most


def test_dry_run_as_json(recipe):
    account = json.loads(run("train", recipe, "train.lr=1e-4", "--dry-run", "--json").stdout)
    assert account["recipe"] == json.loads(json.dumps(resolved(load_recipe(recipe, ["train.lr=1e-4"]))))
    assert [row["link"] for row in account["chain"]] == [
        "group_advantage",
        "clip",
        "aggregate",
        "top_entropy",
    ]
    assert {"link", "arguments", "when", "scope", "needs"} <= set(account["chain"][0])
    assert account["estimate"]["parameters"] == 796_032


def test_dry_run_without_the_models_configuration(recipe, monkeypatch):
    def unreachable(found):
        raise InputError("the hub does not answer")

    monkeypatch.setattr("forkpoint.train.dryrun.read_model_config", unreachable)
    done = run("train", recipe, "--dry-run")
    assert done.exit_code == 0
    assert "no estimate of memory: the hub does not answer" in done.stdout
    assert "rows per step" in done.stdout
    assert "parameters" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "nope.toml"], "recipe nope.toml does not exist"),
        (["train", "small.toml", "train.lrr=1"], "did you mean 'train.lr'?"),
        (["train", "small.toml", "credit.method=grop"], "did you mean 'grpo'?"),
        (["train", "small.toml", "model.path=./nope"], "does not exist"),
        (["train", "small.toml", "--resume", "--fresh"], "give one of them"),
        (["eval"], "name a recipe, or a file"),
        (["eval", "--completions", "x.jsonl"], "--answer and --completion"),
        (["eval", "small.toml", "--completions", "x.jsonl"], "not both"),
        (
            ["eval", "--completions", "x.jsonl", "--answer", "a", "--completion", "c"],
            "x.jsonl cannot be read",
        ),
        (["report", "nowhere"], "nowhere"),
        (["sft", "x.jsonl", "--model", "m", "--steps", "1", "--name", "a/b"], "one folder"),
    ],
)
def test_mistakes_of_the_user_end_in_one_sentence(recipe, arguments, said):
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("bad share"), 2, "error: bad share"),
        (TrainingError("step 3 is NaN"), 3, "error: step 3 is NaN"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x"),
            3,
            "error: the disk is full while writing runs/x",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 3, "error: Permission denied: runs/x"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 3, "error: the device has no memory left"),
        (KeyboardInterrupt(), 130, "interrupted: continue with `forkpoint train small.toml seed=1 --resume`"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_exit_codes(recipe, monkeypatch, error, code, said):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr("forkpoint.train.recipe.load_recipe", stop)
    monkeypatch.setattr(sys, "argv", ["forkpoint", "train", "small.toml", "seed=1", "--fresh"])
    done = run("train", "small.toml", "seed=1", "--fresh")
    assert done.exit_code == code
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_a_defect_keeps_its_traceback(recipe, monkeypatch):
    def stop(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("forkpoint.train.recipe.load_recipe", stop)
    assert isinstance(run("train", recipe).exception, ZeroDivisionError)


def test_traceback_on_request(recipe, monkeypatch):
    monkeypatch.setenv("FORKPOINT_TRACEBACK", "1")
    assert isinstance(run("train", "nope.toml").exception, InputError)


@pytest.fixture
def trained(monkeypatch):
    """Stand in for the loop and record how it is called."""
    from forkpoint.train.loop import TrainResult

    calls = []
    metrics = {f"eval/accuracy{end}": 0.5 for end in ("", "_low", "_high")} | {
        "eval/problems": 8,
        "eval/samples": 4,
    }

    def loop(recipe, *, run_dir, resume, fresh, offline):
        assert offline is None
        calls.append((recipe.name, run_dir, resume, fresh))
        return TrainResult(run_dir=run_dir, steps=3, before=None, after=metrics)

    monkeypatch.setattr("forkpoint.train.loop.train", loop)
    monkeypatch.setattr("forkpoint.analyze.views.report.report", lambda run_dir: run_dir / "report.html")
    return calls


def test_train_prints_what_it_reached(recipe, trained):
    done = run("train", recipe)
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        "after   accuracy 50.0 % (95 % interval 50.0 to 50.0; 8 problems x 4 answers)\nreport  runs/small/report.html\n"
    )
    assert trained == [("small", Path("runs/small"), False, False)]
    found = json.loads(run("train", recipe, "--json", "--runs", "there").stdout)
    assert found["result"]["after"]["eval/accuracy"] == 0.5
    assert found["report"] == "there/small/report.html"


def test_an_existing_run_is_never_overwritten(recipe, trained):
    old = Path("runs/small/metrics.jsonl")
    old.parent.mkdir(parents=True)
    old.write_text("{}\n")
    done = run("train", recipe)
    assert done.exit_code == 2
    assert "--resume" in done.stderr
    assert "--fresh" in done.stderr
    assert old.read_text() == "{}\n"
    assert trained == []
    assert run("train", recipe, "--resume").exit_code == 0
    assert run("train", recipe, "--fresh").exit_code == 0
    assert [call[2:] for call in trained] == [(True, False), (False, True)]


def test_resume_without_a_run_says_so(recipe, trained):
    done = run("train", recipe, "--resume")
    assert done.exit_code == 0
    assert "no run to resume" in done.stderr


def test_methods():
    from forkpoint.methods import METHODS

    rows = json.loads(run("methods", "--json").stdout)
    assert {row["name"] for row in rows} >= set(METHODS)
    text = run("methods").stdout
    for row in rows:
        assert row["name"] in text
        assert row["summary"] in text
        assert not row["paper"] or f"arXiv {row['paper']}" in text
    assert "arXiv 2506.01939" in text


def test_env():
    found = json.loads(run("env", "--json").stdout)
    assert found["cores"] >= 1
    assert found["versions"]["forkpoint"]
    assert found["devices"][-1] == "cpu"
    text = run("env").stdout
    assert all(value in text for value in found["versions"].values())


def test_grading_two_lines(tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [
        {"a": "4", "c": [r"\boxed{4}", r"\boxed{5}"], "s": [True, True]},
        {"a": "1/2", "c": [r"\boxed{0.5}", "none"], "s": [True, False]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--completions", path, "--answer", "a", "--completion", "c", "--recorded", "s"]
    found = json.loads(run("eval", *options, "--json").stdout)
    assert (found["problems"], found["completions"], found["accuracy"]) == (2, 4, 0.5)
    assert (found["agreed"], found["compared"]) == (3, 4)
    text = run("eval", *options).stdout
    assert "accuracy     50.00 %" in text
    assert "line 1, sample 1: wrong, recorded right; reference '4', found '5'" in text


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_grading_real_completions():
    path = DATA / "recorded/qwen25math_math100x8.jsonl"
    options = ["--answer", "gt", "--completion", "code", "--recorded", "score"]
    text = run("eval", "--completions", path, *options).stdout
    assert "799 of 800" in text
    assert "line 73, sample 7" in text


@pytest.mark.skipif(not SEQUENCE.is_dir(), reason="../shared/data is not here")
def test_evaluating_a_real_model(recipe):
    given = [
        f"model.path={SEQUENCE}",
        f"task.train={SEQUENCE}/train.parquet",
        f"task.heldout={SEQUENCE}/test.parquet",
        "eval.problems=4",
        "decode.max_tokens=8",
    ]
    done = run("eval", ROOT / "recipes/arithmetic_sequence.toml", *given, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout[done.stdout.index("{") :])["eval/problems"] == 4


def test_help_imports_nothing_heavy():
    heavy = ("torch", "transformers", "pydantic", "numpy")
    code = f"import sys, forkpoint.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_installed_command_tells_a_mistake_without_traceback(tmp_path):
    code = "import sys; sys.argv = ['forkpoint', 'train', 'nope.toml']; from forkpoint.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: recipe nope.toml does not exist\n"
