from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import metric_line, rollout_rows, write_synthetic_run, write_table

from forkpoint.analyze.text import visible
from forkpoint.analyze.views.report import report
from forkpoint.errors import InputError

SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    "\"'><img src=x onerror=alert(1)>",
    "\u202eabc\u2066",
    "\x00",
    "&lt;b&gt;",
    "{{ 7 * 7 }}",
    "</span>",
    "</script>",
    "<!--",
    "\u2028",
]


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.data: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attrs = self.tags[-1] if self.tags else ("", {})
        if tag == "script" and self.open[-1:] == ["script"] and "id" in attrs:
            self.data[attrs["id"]] = self.data.get(attrs["id"], "") + data
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("synthetic") / "run")


@pytest.fixture(scope="module")
def html(whole) -> str:
    return report(whole).read_text("utf-8")


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the figures out, which take most of the time of a report."""
    monkeypatch.setattr("forkpoint.analyze.views.report._panels", lambda run, shown: [])


def test_whole_run(whole, html):
    assert (whole / "report.html").read_text("utf-8") == html
    page = Page(html)
    assert page.open == []
    assert sum(tag == "svg" for tag, _ in page.tags) == 8
    for said in (
        "synthetic-countdown",
        "forking(share=0.2, scope=mini)",
        "models/countdown-1m",
        "paired by problem",
        "step 12",
    ):
        assert said in page.text
    assert "What is missing" not in page.text
    index = json.loads(page.data["token-index"])
    assert len(index["answers"]) == 128
    assert {answer["verdict"] for answer in index["answers"]} == {"right", "wrong"}
    assert sorted(page.data) == sorted(["token-index", *(f"answer-{number}" for number in range(128))])
    assert len(html) < 1_000_000


def test_page_is_self_contained_and_its_ids_unique(html):
    page = Page(html)
    packed = re.sub(r'(?s)<script type="application/json".*?</script>', "", html)
    assert not re.search(r"(https?:)?//(?!www\.w3\.org/2000/svg)\w", packed.split("</style>")[1])
    assert not re.search("fetch|XMLHttp|import\\(|innerHTML|insertAdjacent|document.write|eval\\(", packed)
    assert {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "base"} == set()
    assert all("src" not in attrs for _, attrs in page.tags)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_tables_have_headers_and_figures_have_names(html):
    page = Page(html)
    headers = [attrs.get("scope") for tag, attrs in page.tags if tag == "th"]
    assert headers.count("row") == 5 + 12
    assert headers.count(None) == 0
    assert all(attrs["aria-label"] for tag, attrs in page.tags if tag == "svg")
    assert sum(tag == "figcaption" for tag, _ in page.tags) == 8


def test_same_run_gives_the_same_bytes(whole, html, tmp_path):
    assert html == report(whole, out=tmp_path / "two.html").read_text("utf-8")


@pytest.mark.parametrize("removed", ["recipe.json", "metrics.jsonl", "rollouts", "evals"])
def test_any_part_may_be_missing(whole, tmp_path, removed, request):
    if removed != "metrics.jsonl":
        request.getfixturevalue("undrawn")
    run = shutil.copytree(whole, tmp_path / "run")
    target = run / removed
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = Page(report(run).read_text("utf-8"))
    assert page.open == []
    assert removed in page.text.split("Summary")[0]


def test_run_killed_in_its_first_step(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    text = Page(report(tmp_path).read_text("utf-8")).text
    assert "No training step and no evaluation has been recorded yet." in text
    assert text.count("The run holds no numbers for this figure.") == 8


@pytest.mark.usefixtures("undrawn")
def test_run_killed_while_writing(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(lines[:-30])
    last = run / "rollouts" / "step-00012.parquet"
    last.write_bytes(last.read_bytes()[:-100])
    text = Page(report(run).read_text("utf-8")).text
    assert "is unfinished and was ignored" in text
    assert "A rollout file was left out: step-00012.parquet cannot be read" in text
    assert "step 1" in text.split("From")[1]


def test_one_step_and_null_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5, "entropy/mean": null, "loss": NaN}\n')
    page = Page(report(tmp_path).read_text("utf-8"))
    assert sum(tag == "svg" for tag, _ in page.tags) == 1


@pytest.mark.usefixtures("undrawn")
def test_long_runs_show_a_sample_of_lines(tmp_path):
    lines = [{"step": step, "loss": 1.0 / step} for step in range(1, 1001)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(report(tmp_path).read_text("utf-8"))
    assert "60 of 1000 lines" in page.text
    assert sum(attrs.get("scope") == "row" for tag, attrs in page.tags if tag == "th") == 60
    assert "0.001" in page.text


@pytest.fixture
def hostile(tmp_path, rng_line) -> Path:
    recipe = {
        "name": SCRIPT,
        "method": {"name": HOSTILE[1], SCRIPT: HOSTILE},
        "model": HOSTILE[2],
        "task": "\x00",
    }
    content = {
        "recipe": recipe,
        "chain": HOSTILE,
        "versions": {SCRIPT: HOSTILE[1]},
        "commit": SCRIPT,
        "schema": 1,
    }
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps(rng_line | {SCRIPT: 1, "reward/\u202e": SCRIPT})
        + "\n"
        + json.dumps({"step": 0, "eval/<b>": 1})
        + "\n"
    )
    rows = rollout_rows(1, prompts=2, answers=2, length=len(HOSTILE), accuracy=0.5, seed=1)
    for row in rows:
        count = len(HOSTILE)
        row.update({k: [0.5] * count for k in ("logp", "entropy", "credit")}, tokens=HOSTILE, kept=[True] * count)
        row.update(dict.fromkeys(("prompt", "answer", "prompt_id", "finish", "verdict"), "".join(HOSTILE)))
    write_table(tmp_path / "rollouts" / "step-00001.parquet", rows)
    return tmp_path


@pytest.fixture
def rng_line() -> dict:
    import numpy as np

    return metric_line(1, 1, np.random.default_rng(0))


def test_foreign_text_is_escaped_once_everywhere(hostile):
    html = report(hostile).read_text("utf-8")
    page = Page(html)
    assert [attrs for tag, attrs in page.tags if tag == "script" and "type" not in attrs] == [{}]
    assert {tag for tag, _ in page.tags} & {"img", "b"} == {"b"}, "only the time split uses <b>"
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count(SCRIPT) >= 5
    assert "&lt;b&gt;" in page.text
    assert "&amp;lt;b&amp;gt;" in html
    assert "&amp;amp;" not in html
    assert "{{ 7 * 7 }}" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", html)
    assert "⟨U+202E⟩abc⟨U+2066⟩" in page.text
    assert "⟨U+0000⟩" in page.text


@pytest.mark.usefixtures("undrawn")
def test_embedded_text_cannot_leave_its_script_block(hostile):
    page = Page(report(hostile).read_text("utf-8"))
    assert len(page.data) == 1 + 4
    assert all(text.isascii() and not set(text) & set("<>&") for text in page.data.values())
    index = json.loads(page.data["token-index"])
    assert index["texts"] == [visible(text) for text in HOSTILE]
    assert index["answers"][0]["prompt"] == visible("".join(HOSTILE))
    assert {"⟨U+2028⟩", "⟨U+0000⟩", "</script>", "<!--"} <= set(index["texts"])


@pytest.mark.usefixtures("undrawn")
def test_warnings_stand_in_the_summary(whole, html, tmp_path):
    assert "Warnings" not in html
    run = shutil.copytree(whole, tmp_path / "run")
    lines = [{"step": step, "entropy/mean": 0.5 / step**2} for step in range(1, 13)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = Page(report(run).read_text("utf-8")).text
    assert "Entropy collapse. Mean entropy fell from" in text.split("Figures")[0]


@pytest.mark.usefixtures("undrawn")
def test_what_the_recipe_promised_and_is_not_there_is_named(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["recipe"] |= {"checkpoint": {"every": 5}, "log": {"rollouts_every": 1}}
    (run / "recipe.json").write_text(json.dumps(recipe))
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] not in (4, 7)))
    first = Page(report(run).read_text("utf-8")).text.split("Summary")[0]
    assert "metrics.jsonl has no line for step 4, 7, so the curves have gaps." in first
    assert "There is no rollout file for step 2, 3, 4, 5, 6, 7 and 4 more." in first
    assert "The checkpoint of step 10 is missing; there is none." in first
    (run / "checkpoints" / "step-00005").mkdir(parents=True)
    assert "step 10 is missing; the newest one is of step 5." in Page(report(run).read_text("utf-8")).text
    (run / "checkpoints" / "step-00010").mkdir()
    assert "The checkpoint of" not in Page(report(run).read_text("utf-8")).text


def test_lower_bounds_are_marked_in_every_figure(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace('"entropy/', '"entropy_lower_bound/'))
    for path in (run / "rollouts").iterdir():
        rows = rollout_rows(1, prompts=2, answers=2, length=9, accuracy=0.5, seed=1)
        write_table(path, [row | {"entropy_kind": "lower-bound"} for row in rows])
    html = report(run).read_text("utf-8")
    page = Page(html)
    assert "Entropies here are lower bounds" in page.text.split("Summary")[0]
    assert "Entropy, at least, nats" in page.text
    said = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert [label for label in said if label.startswith("Lower bound of token entropy over training. Mean 0.3")]
    assert [label for label in said if label.startswith("Histogram of lower bounds of token entropy.")]
    assert html.count("entropy, lower bound (nats)") == 2
    assert "entropy (nats)" not in html


@pytest.mark.usefixtures("undrawn")
def test_columns_that_are_missing_leave_the_rest(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    rows = [{"tokens": ["a", "b"], "logp": [-0.1, -0.2]}]
    for step in (1, 12):
        write_table(run / "rollouts" / f"step-{step:05d}.parquet", rows)
    page = Page(report(run).read_text("utf-8"))
    answers = json.loads(page.data["token-index"])["answers"]
    assert [answer["verdict"] for answer in answers] == ["unjudged", "unjudged"]
    assert ["mean entropy", "not recorded"] in answers[0]["facts"]


def test_only_our_script_may_run(html):
    import base64
    import hashlib

    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "default-src 'none'" in html


@pytest.mark.usefixtures("undrawn")
def test_old_report_survives_a_failure(whole, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match=r"cannot be written to .*No space left on device"):
        report(whole, out=out)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.usefixtures("undrawn")
def test_unwritable_place_and_foreign_directory_are_one_sentence(whole, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        report(whole, out=tmp_path / "nowhere" / "report.html")
    with pytest.raises(InputError, match="not a run directory"):
        report(tmp_path)
