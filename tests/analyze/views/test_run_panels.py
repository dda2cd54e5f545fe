"""What a run's course adds to the page: percentiles, the law of the ceiling, warnings and gaps."""

import json
import math

import pytest
from synthetic_run import write_synthetic_run

from forkpoint.analyze.rundata import read_run
from forkpoint.analyze.traces.sources import open_traces
from forkpoint.analyze.views.analysis_page import drawn
from forkpoint.analyze.views.overview import analyse
from forkpoint.analyze.views.run_panels import law_figure, percentile_figure, spread_out


@pytest.fixture
def run(tmp_path):
    return write_synthetic_run(tmp_path / "run", steps=6, length=30)


def percentiles_of(path):
    return drawn("p", "", lambda: percentile_figure(read_run(path).rollout_files))


def law_of(path):
    return drawn("l", "", lambda: law_figure(read_run(path)))


def rewrite(path, change):
    """Write metrics.jsonl again with every record changed."""
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        change(record)
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_percentiles_of_the_steps_that_were_kept(run):
    percentiles = percentiles_of(run)
    assert "percentile 80" in percentiles.svg
    assert percentiles.caption.endswith("Steps 1, 6.")


def test_a_damaged_file_is_left_out_and_named(run):
    (run / "rollouts" / "step-00001.parquet").write_bytes(b"PAR1 cut short")
    percentiles = percentiles_of(run)
    assert "Steps 6." in percentiles.caption
    assert "step-00001.parquet was left out" in percentiles.caption
    (run / "rollouts" / "step-00006.parquet").write_bytes(b"PAR1")
    percentiles = percentiles_of(run)
    assert percentiles.absent.startswith("Not drawn: no rollout file has entropies. step-00001.parquet was left out")


def test_a_run_without_rollouts_says_what_to_do(run):
    for file in (run / "rollouts").iterdir():
        file.unlink()
    percentiles = percentiles_of(run)
    assert "train with log.rollouts_every above 0" in percentiles.absent


def test_the_law_of_a_run_that_follows_it(run):
    """R = -0.2 exp(H) + 0.9 at every evaluation: the ceiling is 0.7."""
    lines = [
        {"step": step, "eval/entropy": entropy, "eval/accuracy": 0.9 - 0.2 * math.exp(entropy)}
        for step, entropy in enumerate((1.0, 0.6, 0.3, 0.2))
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    law = law_of(run)
    assert "Fitted to 4 evaluations, R is the accuracy" in law.caption
    assert "predicted ceiling 0.700 (0.700 to 0.700), from entropies of 0.200 to 1.000 nats" in law.caption
    assert "R² 1.00" in law.caption
    assert "did not grow" not in law.caption


def test_a_ceiling_that_no_accuracy_can_reach_is_called_so(run):
    lines = [
        {"step": step, "eval/entropy": entropy, "eval/accuracy": 3.0 - math.exp(entropy)}
        for step, entropy in enumerate((1.05, 1.0, 0.95, 0.9))
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "predicted ceiling 2.000" in law_of(run).caption
    assert "The ceiling is outside what an accuracy can be." in law_of(run).caption


def test_few_evaluations_leave_the_training_steps(run):
    assert "R is the mean reward" in law_of(run).caption
    rewrite(run, lambda record: record.pop("eval/entropy", None))
    rewrite(run, lambda record: "loss" in record and record.update({"reward/right": record["entropy/mean"]}))
    law = law_of(run)
    assert "Fitted to 6 training steps, R is the share of right answers" in law.caption
    assert "did not grow as entropy fell" in law.caption


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: record.update({"entropy/mean": 0.3}), "all entropies are equal"),
        (lambda record: record.pop("entropy/mean", None), "the law needs two or more steps"),
        (lambda record: record.update({"entropy/mean": 1e9}), "the law needs two or more steps"),
    ],
)
def test_the_law_says_why_it_cannot_be_fitted(run, change, reason):
    rewrite(run, change)
    law = law_of(run)
    assert law.absent.startswith(f"Not drawn: {reason}")


def test_warnings_gaps_and_damaged_files_are_on_the_page(run, tmp_path):
    (run / "rollouts" / "step-00001.parquet").write_bytes(b"PAR1 cut short")
    rewrite(run, lambda record: record.update({"entropy/mean": 0.4 * 0.3 ** record["step"]}))
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["recipe"]["checkpoint"] = {"every": 3}
    (run / "recipe.json").write_text(json.dumps(recipe))
    stats = analyse(open_traces(run), tmp_path / "page.html", min_count=5)
    assert stats.responses == 64
    page = (tmp_path / "page.html").read_text()
    assert "Entropy collapse." in page
    assert "The checkpoint of step 6 is missing; there is none." in page
    assert "a file, or its rest, was left out: step-00001.parquet cannot be read as parquet" in page
    assert page.index("Entropy percentiles over training") < page.index("<h2>Most uncertain token types")


def test_at_most_so_many_files_are_read():
    assert spread_out(list(range(100)), 5) == [0, 25, 50, 74, 99]
    assert spread_out([1, 2], 5) == [1, 2]
