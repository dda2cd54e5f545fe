from __future__ import annotations

import json

import numpy as np
import pytest
from browser import ABSENT, CHROMIUM, artefacts, tab
from test_report import Page

from forkpoint.analyze.traces.records import batch_of
from forkpoint.analyze.views.analysis_page import write_analysis
from forkpoint.analyze.views.page import Numbers, Panel
from forkpoint.analyze.views.summary import Fact
from forkpoint.analyze.views.trace_answers import answers_of_batch

RECORDS = [
    {
        "tokens": ["a", "</script>"],
        "ids": [1, 2],
        "logp": [-0.5, -1.0],
        "top": [[("a", 1, -0.5), ("b", 5, -1.5)], [(None, 9, -0.75)]],
        "verdict": "right",
        "prompt": "Why?",
        "prompt_id": "p1",
        "step": 3,
        "reward": 1.0,
    },
    {
        "ids": [7, 8],
        "logp": [-0.1, -0.2],
        "entropy": [0.25, 0.75],
        "entropy_kind": "exact",
        "advantage": [-2.0, -2.0],
        "credit": [0.0, -1.0],
    },
]


def test_a_batch_of_traces_becomes_answers():
    first, second = answers_of_batch(batch_of(RECORDS, file="dump.jsonl"), source="dump.jsonl")
    assert first.tokens == ("a", "</script>")
    assert (first.source, first.verdict, first.prompt, first.reward) == ("dump.jsonl, step 3", "right", "Why?", 1.0)
    np.testing.assert_allclose(first.logp, [-0.5, -1.0])
    np.testing.assert_array_equal(first.rank, [1, 0])
    assert first.top_tokens == (("a", "b"), ("⟨id 9⟩",))
    np.testing.assert_allclose(first.top_logp[0], [-0.5, -1.5])
    assert first.lower_bound, "entropies come from the alternatives alone"
    assert second.tokens == ("⟨id 7⟩", "⟨id 8⟩")
    assert (second.source, second.verdict, second.lower_bound) == ("dump.jsonl", "unjudged", False)
    np.testing.assert_array_equal(second.entropy, np.float32([0.25, 0.75]))
    np.testing.assert_array_equal(second.weight, [0.0, 0.5])
    assert second.prompt_id == "dump.jsonl line 2", "an answer without a name is called by its place"


def page_of(tmp_path, **changes):
    content = {
        "title": "dump.jsonl",
        "about": {"Responses": "2", "<b>": "\u202e"},
        "panels": [
            Panel(title="One", caption="A figure.", svg="<svg></svg>"),
            Panel(title="Two", caption="None.", absent="Too few."),
        ],
        "facts": [Fact(label="Tokens", before="4")],
        "tables": {"Tokens by entropy": Numbers(columns=["token", "entropy"], rows=[["</script>", "0.5"]], total=1)},
        "answers": answers_of_batch(batch_of(RECORDS, file="dump.jsonl"), source="dump.jsonl"),
        "notes": ["No advantage is recorded."],
    }
    return write_analysis(tmp_path / "page.html", **(content | changes))


def test_whole_page(tmp_path):
    html = page_of(tmp_path).read_text("utf-8")
    page = Page(html)
    assert page.open == []
    for said in ("dump.jsonl", "Too few.", "No advantage is recorded.", "Tokens by entropy", "⟨U+202E⟩", "<b>"):
        assert said in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 1
    assert len(json.loads(page.data["token-index"])["answers"]) == 2
    assert "lower bounds come from the most likely tokens alone" in page.text


def test_a_page_of_figures_alone(tmp_path):
    page = Page(page_of(tmp_path, facts=[], tables={}, answers=[], notes=[]).read_text("utf-8"))
    assert page.open == []
    assert "token by token" not in page.text
    assert "over the full vocabulary" in page.text


@pytest.mark.skipif(CHROMIUM is None, reason=ABSENT)
def test_lower_bounds_are_marked_wherever_they_are_shown(tmp_path):
    with tab() as browser:
        browser.open(page_of(tmp_path))
        browser.until("document.getElementById('tokens').dataset.shown")
        assert browser.js("document.querySelector('.legend-entropy').innerText").startswith("lower bound of entropy")
        browser.hover(*browser.middle("[data-part=text] .t"))
        assert "entropy, at least" in browser.js("document.getElementById('tip').textContent")
        assert "mean entropy at least" in browser.js("document.querySelector('[data-part=facts]').textContent")
        browser.screenshot(artefacts() / "analysis.png")
        browser.click("[data-part=next]")
        browser.until("document.getElementById('tokens').dataset.shown === '1'")
        assert browser.js("document.querySelector('.legend-entropy').innerText").startswith("entropy in nats")
        assert browser.errors == []
