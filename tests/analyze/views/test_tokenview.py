from __future__ import annotations

import base64
import json
import math
import re
import zlib

import numpy as np
import pyarrow as pa
import pytest

from forkpoint.analyze.text import visible
from forkpoint.analyze.views.answers import ALTERNATIVES_SHOWN, TOKENS_SHOWN, answers
from forkpoint.analyze.views.page import TEMPLATES
from forkpoint.analyze.views.tokenview import pack, script_json, shown_token, token_data
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
        "advantage": [-1.5, -1.5],
        "credit": [0.0, -1.5],
        "kept": [False, True],
        "reward": 1.0,
        "verdict": "right",
        "finish": "stop",
    }
    return base | changes


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows))


def one(**changes):
    (answer,) = answers(table(row(**changes)), source="step 1")
    return answer


def unpacked(block: str) -> dict:
    """Read a block as a page's script does, written a second time."""
    held = json.loads(block)
    raw = zlib.decompress(base64.b64decode(held["data"]))
    found, at = {}, 0
    for name, kind, length in held["columns"]:
        dtype = {"Float32": "<f4", "Uint32": "<u4", "Uint8": "u1"}[kind]
        found[name] = np.frombuffer(raw, dtype, length, at)
        at += found[name].nbytes
    assert at == len(raw)
    return found | {name: np.full(length, value) for name, (value, length) in held["constants"].items()}


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


def test_line_breaks_and_nothing_are_marked():
    assert [shown_token(text) for text in ("a\n", "\t", "", None, "\u2028")] == ["a↵\n", "⇥\t", "▯", "▯", "⟨U+2028⟩"]


HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    "<!--",
    "-->",
    "]]>",
    "&amp;",
    "\u202e",
    "\u2028",
    "\x00",
    "\ud800",
]


def test_json_for_script_blocks_is_the_same_value_in_harmless_characters():
    value = {text: [text] for text in HOSTILE}
    text = script_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set(text) & set("<>&\x00")


def test_numbers_survive_packing():
    columns = {
        "kept": np.array([1, 0, 1], np.uint8),
        "entropy": np.array([0.1, np.nan, 2.5], np.float32),
        "text": np.array([0, 1, 0xFFFFFFFF], np.uint32),
        "advantage": np.full(3, -0.75, np.float32),
        "none": np.zeros(0, np.float32),
        "gone": np.full(3, np.nan, np.float32),
    }
    held = pack(columns)
    assert list(held["constants"]) == ["advantage"]
    back = unpacked(script_json(held))
    assert back.keys() == columns.keys()
    for name, values in columns.items():
        np.testing.assert_array_equal(back[name], values)


def test_an_answer_is_embedded_whole():
    data = token_data([one(rank=[1, 3], tokens=["<b>", "\u202e"])])
    index, back = json.loads(data.index), unpacked(data.blocks[0])
    assert [index["texts"][code] for code in back["text"]] == ["<b>", "⟨U+202E⟩"]
    np.testing.assert_allclose(back["logp"], [0.0, math.log(0.25)], rtol=1e-6)
    np.testing.assert_allclose(back["entropy"], [0.0, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(back["credit"], [0.0, -1.5])
    np.testing.assert_array_equal(back["advantage"], [-1.5, -1.5])
    np.testing.assert_array_equal(back["weight"], [0.0, 1.0])
    np.testing.assert_array_equal(back["rank"], [1, 3])
    np.testing.assert_array_equal(back["kept"], [0, 1])
    assert index["largest"] == pytest.approx({"entropy": 0.8, "credit": 1.5, "advantage": 1.5, "weight": 1.0}, rel=1e-6)
    about = index["answers"][0]
    assert (about["verdict"], about["source"], about["hidden"], about["bound"]) == ("right", "step 1", 0, False)
    assert ["mean entropy", "0.400 nats"] in about["facts"]


def test_texts_are_shared_between_answers_and_alternatives():
    rows = [
        row(top_tokens=[["a", "b"], ["c"]], top_logp=[[-0.1, -3.0], [-0.2]]),
        row(tokens=["c", "a"], top_tokens=None, top_logp=None),
    ]
    data = token_data(answers(table(*rows), source="x"))
    index = json.loads(data.index)
    assert sorted(index["texts"]) == ["a", "b", "c"]
    first = unpacked(data.blocks[0])
    assert json.loads(data.blocks[0])["width"] == 2
    assert [index["texts"][code] for code in first["top_text"][:3]] == ["a", "b", "c"]
    assert first["top_text"][3] == 0xFFFFFFFF
    np.testing.assert_allclose(first["top_logp"], [-0.1, -3.0, -0.2, np.nan], rtol=1e-6)
    assert json.loads(data.blocks[1])["width"] == 0


def test_same_answers_give_the_same_texts_and_counts_by_verdict():
    rows = [row(verdict=verdict) for verdict in ("wrong", "odd", "right", "wrong")]
    found = answers(table(*rows), source="step 1")
    assert token_data(found) == token_data(found)
    assert list(token_data(found).verdicts.items()) == [("right", 1), ("wrong", 2), ("odd", 1)]


def test_short_nan_and_missing_columns_leave_gaps():
    answer = one(tokens=["a", None, ""], logp=[math.nan], entropy=[0.5, math.nan], credit=None, kept=[True])
    np.testing.assert_array_equal(answer.entropy, [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(answer.kept, [True, False, False])
    assert (answer.logp, answer.credit, answer.weight) == (None, None, None)
    assert answer.tokens == ("a", None, "")
    # More numbers than tokens: the rest belongs to nobody.
    np.testing.assert_array_equal(one(entropy=[0.5, 0.25, 9.0]).entropy, [0.5, 0.25])
    (bare,) = answers(table({"tokens": ["a"]}), source="trace")
    assert (bare.verdict, bare.entropy, bare.rank, bare.top_tokens) == ("unjudged", None, None, ())


def test_weight_is_credit_over_advantage_unless_recorded():
    answer = one(advantage=[2.0, 0.0], credit=[1.0, 0.0])
    np.testing.assert_array_equal(answer.weight, [0.5, np.nan])
    np.testing.assert_array_equal(one(weight=[0.25, 4.0]).weight, [0.25, 4.0])


def test_lower_bounds_are_marked():
    index = json.loads(token_data([one(entropy_kind="lower-bound")]).index)
    assert index["answers"][0]["bound"] is True
    assert ["mean entropy", "at least 0.400 nats"] in index["answers"][0]["facts"]


def test_choice_prefers_new_prompts_and_both_verdicts():
    rows = [row(prompt_id=f"p{i // 3}", sample=i, verdict="right" if i < 12 else "wrong") for i in range(18)]
    chosen = answers(table(*rows), source="step 1", count=6)
    assert [(answer.verdict, answer.sample) for answer in chosen] == [
        ("right", "0"),
        ("right", "3"),
        ("right", "6"),
        ("wrong", "12"),
        ("wrong", "13"),
        ("wrong", "15"),
    ]


def test_others_fill_up_where_a_verdict_is_short():
    rows = [
        row(verdict=verdict, sample=i) for i, verdict in enumerate(["unjudged", "right", "right", "right", "wrong"])
    ]
    assert [a.sample for a in answers(table(*rows), source="x", count=4)] == ["0", "1", "2", "4"]
    assert len(answers(table(*rows), source="x")) == 5


def test_long_answers_are_cut_and_say_so():
    count = TOKENS_SHOWN + 7
    answer = one(tokens=["x"] * count, entropy=[0.0] * count, logp=[0.0] * count)
    assert (len(answer.tokens), answer.total) == (TOKENS_SHOWN, count)
    assert json.loads(token_data([answer]).index)["answers"][0]["hidden"] == 7
    many = one(top_tokens=[["a"] * 9, []], top_logp=[[-1.0] * 9, []])
    assert [len(texts) for texts in many.top_tokens] == [ALTERNATIVES_SHOWN, 0]


def test_wrong_columns_are_named():
    with pytest.raises(InputError, match="no column tokens"):
        answers(table(row()).drop_columns(["tokens"]), source="x")
    with pytest.raises(InputError, match="no column tokens that holds a list"):
        answers(table(row(tokens="ab")), source="x")
    with pytest.raises(InputError, match="column entropy holds string"):
        answers(table(row(entropy="high")), source="x")


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
