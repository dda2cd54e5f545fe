"""The shipped model and the shipped recipes, run for real."""

import json
from pathlib import Path

import pytest

from forkpoint.analyze.views.report import report
from forkpoint.train.loop import train
from forkpoint.train.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
ARITHMETIC = (ROOT / "../shared/data/weights/verl_arithmetic_sequence").resolve()


def logged(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Half of the demo: five steps, evaluated on half of its held-out problems."""
    run_dir = tmp_path_factory.mktemp("runs") / "demo"
    changes = ["train.steps=5", "eval.problems=128", "model.threads=1", "checkpoint.every=5"]
    return train(load_recipe(ROOT / "recipes" / "demo.toml", changes), run_dir=run_dir)


def test_the_demo_learns_in_a_few_steps(demo):
    before, after = demo.before["eval/accuracy"], demo.after["eval/accuracy"]
    assert 0.2 < before < 0.31
    # Ten steps of the whole recipe gain more than 20 points; half of them and half of the problems must show it.
    assert after > before + 0.05
    rows = [row for row in logged(demo.run_dir) if "reward/mean" in row]
    assert all(row["credit/share"] == pytest.approx(0.2, abs=0.005) for row in rows)
    assert all(row["entropy/below_0.01"] > 0.3 for row in rows)


def test_what_learned_were_choices_and_not_arithmetic(demo):
    import pyarrow.parquet as pq

    rows = pq.read_table(demo.run_dir / "rollouts" / "step-00001.parquet").to_pylist()
    tokens = [(token.strip(), kept) for row in rows for token, kept in zip(row["tokens"], row["kept"], strict=True)]
    chosen = {token for token, kept in tokens if kept}
    share = sum(kept for _, kept in tokens) / len(tokens)
    certain = [kept for token, kept in tokens if token in ("=", ",")]
    assert share == pytest.approx(0.2, abs=0.005)
    assert len(certain) > 500
    assert sum(certain) == 0
    assert {"+", "-", "*"} <= chosen


def test_its_report_opens_from_disk(demo):
    page = report(demo.run_dir).read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "src=" not in page


@pytest.mark.skipif(not ARITHMETIC.is_dir(), reason=f"verl's arithmetic model is not at {ARITHMETIC}")
def test_verls_own_little_model_trains(tmp_path):
    changes = [
        f"model.path={ARITHMETIC}",
        f"task.train={ARITHMETIC / 'train.parquet'}",
        f"task.heldout={ARITHMETIC / 'test.parquet'}",
        "train.steps=2",
        "eval.problems=20",
        "model.threads=1",
    ]
    result = train(load_recipe(ROOT / "recipes" / "arithmetic_sequence.toml", changes), run_dir=tmp_path / "run")
    rows = [row for row in logged(result.run_dir) if "reward/mean" in row]
    assert len(rows) == 2
    # A random model of 16 characters guesses a first digit about once in sixteen.
    assert all(0 < row["reward/mean"] < 0.1 for row in rows)
    assert all(row["grad_norm"] > 0 for row in rows)
