"""One page about any source, through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from forkpoint.analyze.traces.sources import open_traces
from forkpoint.analyze.views.overview import analyse, hold
from forkpoint.cli import app

RECORDED = Path(__file__).resolve().parents[3] / "../shared/data/recorded/openai_logprobs_response.json"
WORDS = ("so", "wait", "<script>alert(1)</script>", "42")


def lines(count=40, tokens=12, **more):
    draw = np.random.default_rng(0)
    return [
        {
            "id": f"p{i // 4}", "tokens": [WORDS[k] for k in draw.integers(0, 4, tokens)],
            "logprobs": (-draw.random(tokens)).tolist(), "entropy": (2 * draw.random(tokens)).tolist(), **more,
        }
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines()))
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["analyze", *map(str, arguments)])


def test_a_file_of_tokens(trace, tmp_path):
    out = tmp_path / "page.html"
    found = run(trace, "--out", out, "--min-count", "10", "--entropy-kind", "exact")
    assert found.exit_code == 0, found.output
    assert "Responses: 40 (480 tokens)" in found.output
    assert "80th percentile of the entropy" in found.output
    page = out.read_text()
    assert "Most uncertain token types" in page
    assert "<script>alert(1)" not in page
    assert "Not drawn: the source does not say the advantage." in page


def test_bounds_are_named_and_a_saved_trace_gives_the_same_page(trace, tmp_path):
    first, second, saved = tmp_path / "a.html", tmp_path / "b.html", tmp_path / "mine.parquet"
    found = run(trace, "--out", first, "--save", saved)
    assert "lower bound of the entropy" in found.output
    again = run(saved, "--out", second)
    assert found.output.splitlines()[:2] == again.output.splitlines()[:2]


def test_statistics_see_every_token_and_figures_the_first(trace, tmp_path):
    traces = open_traces(trace, entropy_kind="exact", batch_tokens=100)
    page = tmp_path / "page.html"
    stats = analyse(traces, page, figure_tokens=100, min_count=1)
    assert stats.tokens == 480
    assert "of 480 tokens; the summary at all of them" in page.read_text()
    held = hold(list(traces))
    assert held.offsets.tolist() == list(range(0, 481, 12))
    assert len(set(held.problem.tolist())) == 10
    assert len(held.labels) == 480


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded response is not here")
def test_a_recorded_response(tmp_path):
    found = run(RECORDED, "--out", tmp_path / "page.html", "--min-count", "0")
    assert found.exit_code == 0, found.output
    assert "Responses: 3 (55 tokens)" in found.output
    assert "lower bound" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere"], "there is no /nowhere"),
        (["{trace}", "--part", "mine"], "--part 'mine' is none of rollouts, evals"),
        (["{trace}", "--entropy-kind", "true"], "--entropy-kind 'true' is none of exact, lower-bound"),
        (["{trace}", "--out", "/proc/nothing/page.html"], "page.html"),
    ],
)
def test_mistakes_end_in_one_sentence(trace, tmp_path, arguments, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run(*[argument.format(trace=trace) for argument in arguments])
    assert found.exit_code in (2, 3)
    assert said in found.output
    assert len(found.output.strip().splitlines()) == 1


def test_texts_without_entropies_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "texts.jsonl"
    row = {"input": "1 + 1 =", "output": "2", "score": 1.0, "gts": "2", "step": 1}
    path.write_text("\n".join(json.dumps(row) for _ in range(3)))
    found = run(path)
    assert found.exit_code == 2
    assert "--score-with" in found.output
