from __future__ import annotations

import math
import re

import pyarrow as pa
import pytest

from forkpoint.analyze.report import TEMPLATES
from forkpoint.analyze.tokenview import ENTROPY_EDGES, TOKENS_SHOWN, completions, visible
from forkpoint.errors import InputError


def row(**changes) -> dict:
    base = {
        "prompt_id": "p",
        "sample": 0,
        "prompt": "problem",
        "answer": "24",
        "tokens": ["a", "b"],
        "logp": [0.0, math.log(0.25)],
        "entropy": [0.0, 0.8],
        "credit": [0.0, -1.5],
        "reward": 1.0,
        "verdict": "right",
        "finish": "stop",
    }
    return base | changes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x00", "⟨U+0000⟩"),
        ("\r", "⟨U+000D⟩"),
        ("\x7f", "⟨U+007F⟩"),
        ("\x85", "⟨U+0085⟩"),
        ("\u202e", "⟨U+202E⟩"),
        ("\u2066", "⟨U+2066⟩"),
        ("\u200b", "⟨U+200B⟩"),
        ("\u2028", "⟨U+2028⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\ufffe", "⟨U+FFFE⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
    ],
)
def test_dangerous_characters_are_shown(text, shown):
    assert visible(f"x{text}y") == f"x{shown}y"
    assert visible(visible(text)) == shown


def test_ordinary_text_is_left_alone():
    text = "Größe\n\t= 3\u00a0× 4 – 𝑥² \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 👩\u200d🔬 '\"<&>"
    assert visible(text) == text


def test_token_classes_and_tip():
    (answer,) = completions(pa.Table.from_pylist([row()]))
    first, second = answer.tokens
    assert first.classes == "t e0"
    assert first.tip == "token 1: entropy 0.000 nats, probability 100.00 %, credit none"
    assert second.classes == "t e5 k n3"
    assert second.tip == "token 2: entropy 0.800 nats, probability 25.00 %, credit -1.500"


def test_entropy_classes_start_at_their_edge():
    edges = list(ENTROPY_EDGES)
    table = pa.Table.from_pylist(
        [row(tokens=["x"] * len(edges), entropy=edges, logp=[0.0] * len(edges), credit=[0.0] * len(edges))]
    )
    classes = [token.classes for token in completions(table)[0].tokens]
    assert classes == [f"t e{index}" for index in range(1, len(edges) + 1)]


def test_credit_strength_in_thirds():
    values = [3.0, 2.0, 1.9, 1.0, 0.5, -3.0, -0.1]
    table = pa.Table.from_pylist([row(tokens=["x"] * 7, entropy=[0.0] * 7, logp=[0.0] * 7, credit=values)])
    classes = [token.classes.split()[-1] for token in completions(table)[0].tokens]
    assert classes == ["p3", "p2", "p2", "p1", "p1", "n3", "n1"]


def test_short_nan_and_missing_columns_leave_gaps():
    table = pa.Table.from_pylist(
        [
            row(tokens=["a", None, ""], logp=[math.nan], entropy=[0.5, math.nan], credit=None),
            row(credit=[1.0]),
        ]
    )
    answer = completions(table)[0]
    assert [token.text for token in answer.tokens] == ["a", "▯", "▯"]
    assert [token.classes for token in answer.tokens] == ["t e4", "t", "t"]
    assert answer.tokens[0].tip == "token 1: entropy 0.500 nats, probability n/a %, credit n/a"


def test_choice_prefers_new_prompts_and_both_verdicts():
    rows = [row(prompt_id=f"p{i // 3}", sample=i, verdict="right" if i < 12 else "wrong") for i in range(18)]
    chosen = completions(pa.Table.from_pylist(rows), each=3)
    assert [answer.verdict for answer in chosen] == ["right"] * 3 + ["wrong"] * 3
    assert [re.search(r"sample (\d+)", answer.facts)[1] for answer in chosen] == [
        "0",
        "3",
        "6",
        "12",
        "13",
        "15",
    ]


def test_unjudged_answers_fill_up():
    rows = [row(verdict="unjudged"), row(verdict="right")]
    assert [answer.verdict for answer in completions(pa.Table.from_pylist(rows))] == ["right", "unjudged"]


def test_long_answers_are_cut_and_say_so():
    count = TOKENS_SHOWN + 7
    table = pa.Table.from_pylist(
        [row(tokens=["x"] * count, entropy=[0.0] * count, logp=[0.0] * count, credit=[0.0] * count)]
    )
    (answer,) = completions(table)
    assert (len(answer.tokens), answer.hidden) == (TOKENS_SHOWN, 7)


def test_wrong_columns_are_named():
    with pytest.raises(InputError, match="no column logp"):
        completions(pa.Table.from_pylist([row()]).drop_columns(["logp"]))
    with pytest.raises(InputError, match="tokens does not hold a list"):
        completions(pa.Table.from_pylist([row(tokens="ab")]))


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_keeps_its_text_readable(scheme):
    light, dark = re.findall(r":root \{(.*?)\}", (TEMPLATES / "report.css").read_text(), re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light if scheme == "light" else dark))
    pairs = [(f"{name}-text", name) for name in colors if f"{name}-text" in colors]
    assert len(pairs) == 8 + 3 + 3
    pairs += [(name, ground) for name in ("ink", "muted", "good", "bad") for ground in ("card", "page")]
    assert {
        p: round(contrast(colors[p[0]], colors[p[1]]), 2) for p in pairs if contrast(*map(colors.get, p)) < 4.5
    } == {}
    # Lines of the figures need 3 : 1 against their card.
    assert all(contrast(colors[f"series-{i}"], colors["card"]) >= 3 for i in range(1, 5))
