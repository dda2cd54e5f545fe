from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_run import write_synthetic_run

from forkpoint.analyze.rundata import read_run
from forkpoint.analyze.views.alarms import Limits, warnings_of
from forkpoint.analyze.views.watch import finished, sparkline, view, watch
from forkpoint.errors import InputError


def lines(count: int = 20, **curves) -> list[dict]:
    """Return metric lines whose values run from the first to the second number of every curve."""
    names = {"entropy": "entropy/mean", "bound": "entropy_lower_bound/mean", "length": "length/mean"}
    names |= {"cut": "length/truncated", "useful": "groups/useful", "right": "reward/right"}
    return [
        {"step": step} | {names[k]: a + (b - a) * (step - 1) / (count - 1) for k, (a, b) in curves.items()}
        for step in range(1, count + 1)
    ]


def plateau(first: float, last: float, name: str, count: int = 20) -> list[dict]:
    """Return metric lines that hold one value in the first half and another in the second."""
    return [{"step": step, name: first if step <= count // 2 else last} for step in range(1, count + 1)]


def kinds(metrics, limits: Limits | None = None) -> list[str]:
    return [warning.kind for warning in (warnings_of(metrics, limits) if limits else warnings_of(metrics))]


def test_a_healthy_run_says_nothing():
    assert kinds(lines(entropy=(0.4, 0.25), length=(30, 60), cut=(0.0, 0.12), useful=(0.9, 0.6))) == []
    assert kinds([]) == []


def test_every_kind_with_its_numbers():
    metrics = [
        a | b | c | d
        for a, b, c, d in zip(
            plateau(0.5, 0.05, "entropy/mean"),
            plateau(100.0, 400.0, "length/mean"),
            plateau(0.02, 0.5, "length/truncated"),
            plateau(0.8, 0.1, "groups/useful"),
            strict=True,
        )
    ]
    found = {warning.kind: warning for warning in warnings_of(metrics)}
    assert list(found) == ["entropy collapse", "length explosion", "few useful groups"]
    assert "fell from 0.500 to 0.050 nats, 10 % of what it was (means of steps 1 to 5 and 16 to 20)" in (
        found["entropy collapse"].text
    )
    assert found["entropy collapse"].numbers == {
        "early": pytest.approx(0.5),
        "late": pytest.approx(0.05),
        "early_first": 1,
        "early_last": 5,
        "late_first": 16,
        "late_last": 20,
    }
    assert "from 100 to 400 tokens, 4.0 times the length" in found["length explosion"].text
    assert "the share cut at the limit went from 2 to 50 %" in found["length explosion"].text
    assert found["length explosion"].numbers["late_truncated"] == pytest.approx(0.5)
    assert "went from 80 to 10 %" in found["few useful groups"].text
    assert all(warning.advice for warning in found.values())
    (risen,) = warnings_of(plateau(0.3, 0.9, "entropy/mean"))
    assert risen.kind == "entropy explosion"
    assert "rose from 0.300 to 0.900 nats, 3.0 times what it was" in risen.text


@pytest.mark.parametrize(
    ("name", "first", "last", "kind"),
    [
        ("entropy/mean", 0.4, 0.101, None),
        ("entropy/mean", 0.4, 0.099, "entropy collapse"),
        ("entropy/mean", 0.03, 0.021, None),
        ("entropy/mean", 0.03, 0.019, "entropy collapse"),
        ("entropy/mean", 0.015, 0.016, None),
        ("entropy/mean", 0.4, 0.79, None),
        ("entropy/mean", 0.4, 0.81, "entropy explosion"),
        ("entropy/mean", 0.05, 0.24, None),
        ("entropy/mean", 0.05, 0.26, "entropy explosion"),
        ("length/mean", 100, 249, None),
        ("length/mean", 100, 251, "length explosion"),
        ("length/truncated", 0.1, 0.24, None),
        ("length/truncated", 0.1, 0.26, "length explosion"),
        ("length/truncated", 0.5, 0.59, None),
        ("groups/useful", 0.3, 0.21, None),
        ("groups/useful", 0.3, 0.19, "few useful groups"),
        ("groups/useful", 0.9, 0.31, None),
        ("groups/useful", 0.9, 0.29, "few useful groups"),
    ],
)
def test_the_limits_are_where_they_are_documented(name, first, last, kind):
    assert kinds(plateau(first, last, name)) == ([kind] if kind else [])


def test_limits_are_arguments():
    falling = plateau(0.4, 0.3, "entropy/mean")
    assert kinds(falling) == []
    assert kinds(falling, Limits(entropy_fall=0.8)) == ["entropy collapse"]


def test_short_runs_are_left_alone_and_small_windows_named():
    metrics = plateau(0.5, 0.01, "entropy/mean", count=4)
    assert kinds(metrics[:3]) == []
    (warning,) = warnings_of(metrics)
    assert "(means of steps 1 to 2 and 3 to 4)" in warning.text


def test_gaps_are_left_out():
    metrics = plateau(0.5, 0.01, "entropy/mean")
    for record in metrics[::2]:
        record["entropy/mean"] = None if record["step"] % 4 == 1 else math.nan
    (warning,) = warnings_of(metrics)
    assert "(means of steps 2 to 10 and 12 to 20)" in warning.text


def test_lower_bounds_are_called_so():
    (warning,) = warnings_of(plateau(0.5, 0.01, "entropy_lower_bound/mean"))
    assert warning.text.startswith("The lower bound of mean entropy fell")


@pytest.mark.parametrize(("right", "said"), [(0.95, "too easy"), (0.02, "too hard"), (0.5, "all right or all wrong")])
def test_the_cause_of_missing_groups_is_told(right, said):
    curves = zip(plateau(0.8, 0.1, "groups/useful"), plateau(0.5, right, "reward/right"), strict=True)
    (warning,) = warnings_of([one | other for one, other in curves])
    assert f" {100 * right:.0f} % of the answers are right." in warning.text
    assert said in warning.advice
    assert warning.numbers["late_right"] == pytest.approx(right)


# --- the view ---


def drawn(path: Path, *, now: float = 1.7e9 + 50) -> str:
    out = io.StringIO()
    Console(file=out, width=160, color_system=None).print(view(read_run(path), now=now))
    return out.getvalue()


def set_steps(path: Path, steps: int, **tables) -> Path:
    recipe = json.loads((path / "recipe.json").read_text())
    recipe["recipe"] |= {"train": {"steps": steps}} | tables
    (path / "recipe.json").write_text(json.dumps(recipe))
    return path


def test_view_shows_progress_curves_and_evaluations(tmp_path):
    run = set_steps(write_synthetic_run(tmp_path / "run"), 24)
    said = drawn(run)
    assert re.search(r"step 12 of 24, about .* of training left\n", said)
    assert "synthetic-countdown  ·  forking(share=0.2, scope=mini)" in said
    metrics = read_run(run).metrics
    assert f"{metrics[0]['reward/mean']:.3f}  {metrics[-1]['reward/mean']:.3f}  ▁" in said
    assert re.search(r"step +0 +\d+\.\d%  \(95 % interval", said)
    assert "warning" not in said


def test_view_says_when_nothing_new_comes(tmp_path):
    run = set_steps(write_synthetic_run(tmp_path / "run"), 24)
    assert "may have stopped" not in drawn(run)
    assert "nothing new for 60.0 min: the run may have stopped" in drawn(run, now=1.7e9 + 48 + 3600)


def test_view_warns(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in plateau(0.5, 0.01, "entropy/mean"))
    )
    assert "warning: entropy collapse. Mean entropy fell from 0.500 to 0.010 nats" in drawn(tmp_path)
    assert "note: recipe.json is missing" in drawn(tmp_path)


def test_view_of_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    assert "waiting for the first step" in drawn(tmp_path)


def test_names_are_no_instructions_to_the_terminal(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": {"name": "[red]x[/red]\x1b[2J\u202e"}}))
    said = drawn(tmp_path)
    assert "[red]x[/red]⟨U+001B⟩[2J⟨U+202E⟩" in said
    assert "\x1b" not in said


def test_finished_needs_the_last_evaluation_where_one_is_due(tmp_path):
    run = set_steps(write_synthetic_run(tmp_path / "run"), 12)
    assert finished(read_run(run))
    set_steps(run, 13)
    assert not finished(read_run(run))
    set_steps(run, 12, eval={"after": True})
    assert finished(read_run(run))
    kept = [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"eval/accuracy"' not in line]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    assert not finished(read_run(run))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n')
    assert not finished(read_run(tmp_path / "bare"))


def test_watch_draws_until_the_run_is_finished(tmp_path, monkeypatch):
    run = set_steps(write_synthetic_run(tmp_path / "run"), 12)
    log = run / "metrics.jsonl"
    whole = log.read_text().splitlines(keepends=True)
    log.write_text("".join(whole[:4]))
    waits = []

    def another_line(seconds):
        waits.append(seconds)
        log.write_text("".join(whole[: 4 + len(waits)]))

    monkeypatch.setattr("forkpoint.analyze.views.watch.time.sleep", another_line)
    out = io.StringIO()
    watch(run, 0.5, console=Console(file=out, width=160, force_terminal=True))
    assert waits == [0.5] * (len(whole) - 4 - (1 if '"eval/accuracy"' in whole[-1] else 0))
    assert "finished: 12 of 12 steps" in out.getvalue()


def test_watch_reads_again_only_what_changed(tmp_path, monkeypatch):
    run = set_steps(write_synthetic_run(tmp_path / "run"), 99)
    reads, waits = [], []
    monkeypatch.setattr("forkpoint.analyze.views.watch.read_run", lambda path: reads.append(path) or read_run(path))

    def wait(_):
        waits.append(1)
        if len(waits) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr("forkpoint.analyze.views.watch.time.sleep", wait)
    watch(run, console=Console(file=io.StringIO(), width=160))
    assert (len(reads), len(waits)) == (2, 6), "Ctrl-C ends the view without an error"


def test_watch_once_and_wrong_input(tmp_path):
    out = io.StringIO()
    watch(write_synthetic_run(tmp_path / "run"), once=True, console=Console(file=out, width=160))
    assert "answer length" in out.getvalue()
    with pytest.raises(InputError, match="not a directory"):
        watch(tmp_path / "nowhere", once=True)
    with pytest.raises(InputError, match="refresh=0 must be"):
        watch(tmp_path / "run", 0)


def test_sparkline_by_hand():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 0, 4, 7, 7], width=3) == "▁▃█", "means 0, 2, 7"
    assert sparkline([math.nan, 1.0]) == " ▁"
    assert sparkline([]) == sparkline([math.nan]) == ""
    assert sparkline([1.0, 1.001]) == "▁▁", "a flat curve is not blown up"
