from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy.stats import t as student

from forkpoint.analyze.measures.token_types import TokenType, plot_word_cloud, token_types
from forkpoint.errors import InputError

NAN = float("nan")
WORDS = ["so", "2", "so", "2", "wait", "2", "so", "2"]
ENTROPY = [1.0, 0.0, 3.0, 0.1, 5.0, 0.2, 2.0, NAN]


def test_table_by_hand():
    found = token_types(WORDS, ENTROPY, [0, 3, 5, 8], min_count=1, top=5)
    assert [(row.token, row.count) for row in found.most] == [("so", 3), ("2", 3)]
    assert found.most[0].entropy == 2.0
    assert found.least[0].entropy == pytest.approx(0.1)
    assert (found.types, found.counted, found.left_out) == (3, 2, 1)  # `wait` is not above one occurrence
    # `so`: response 0 wrote it twice with sum 4 (residual 4 - 2*2 = 0), response 2 once with 2 (residual 0).
    assert (found.most[0].low, found.most[0].high, found.most[0].responses) == (2.0, 2.0, 2)
    # `2`: sums 0, 0.1, 0.2 of one each, residuals -0.1, 0, 0.1: error² = 3/2 * 0.02 / 9.
    half = student.ppf(0.975, 2) * math.sqrt(1.5 * 0.02 / 9)
    assert found.least[0].high == pytest.approx(0.1 + half)


def test_ids_and_texts_give_the_same_table():
    ids = [{"so": 7, "2": 1, "wait": 9}[word] for word in WORDS]
    by_id = token_types(ids, ENTROPY, [0, 3, 5, 8], min_count=0)
    by_text = token_types(WORDS, ENTROPY, [0, 3, 5, 8], min_count=0)
    assert [row.token for row in by_id.most] == [9, 7, 1]
    assert [row.token for row in by_text.most] == ["wait", "so", "2"]
    assert [row.entropy for row in by_id.most] == [row.entropy for row in by_text.most]
    assert by_id.least[0].token == 1
    assert [row.count for row in token_types(np.array(ids), ENTROPY, [0, 3, 5, 8], min_count=0).most] == [1, 3, 3]


def test_more_than_the_count_means_more():
    assert len(token_types(["a"] * 3, [1.0] * 3, [0, 3], min_count=2).most) == 1
    assert token_types(["a"] * 3, [1.0] * 3, [0, 3], min_count=3).most == ()


def test_equal_means_are_ordered_by_label():
    found = token_types(["b", "a", "c"], [1.0] * 3, [0, 3], min_count=0, top=2)
    assert [row.token for row in found.most] == ["a", "b"]
    assert [row.token for row in found.least] == ["a", "b"]
    assert math.isnan(found.most[0].low)  # one response wrote it


def test_labels_that_do_not_fit():
    with pytest.raises(InputError, match="2 labels do not match 3 entropies"):
        token_types(["a", "b"], [1.0] * 3, [0, 3])
    with pytest.raises(InputError, match="there is no token"):
        token_types([], [], [0])
    with pytest.raises(InputError, match="ids"):
        token_types([0.5, 1.5], [1.0, 2.0], [0, 2])


def rows(count):
    return [
        TokenType(token=f"word{i}", count=200, entropy=3.0 - i / count, low=0.0, high=4.0, responses=9)
        for i in range(count)
    ]


def test_words_of_the_cloud_do_not_touch_and_grow_with_entropy():
    svg = plot_word_cloud(rows(60))
    root = ET.fromstring(svg)
    texts = [node for node in root if node.tag.endswith("text")]
    assert len(texts) >= 50
    assert f"{len(texts)} of 60 token types drawn" in root.get("aria-label")
    boxes = []
    for node in texts:
        x, y, wide, size = (float(node.get(k)) for k in ("x", "y", "textLength", "font-size"))
        boxes.append((x - wide / 2, y - 0.9 * size, x + wide / 2, y + 0.22 * size))
    for i, a in enumerate(boxes):
        assert a[0] >= 0
        assert a[1] >= 0
        assert a[2] <= 640
        assert a[3] <= 360
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 0.01 or b[3] <= a[1] + 0.01
    sizes = [float(node.get("font-size")) for node in texts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 34.0
    assert svg == plot_word_cloud(rows(60))


def test_hostile_words_are_shown_not_obeyed():
    row = TokenType(token="<script>\u202e\x00\n &", count=5, entropy=1.0, low=0.0, high=2.0, responses=2)
    svg = plot_word_cloud([row], title="<b>")
    assert "<script>" not in svg
    assert "\u202e" not in svg
    assert "\x00" not in svg
    assert "&lt;script&gt;" in svg
    ET.fromstring(svg)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", svg)


def test_cloud_of_nothing_says_so():
    assert "No token type occurs often enough" in plot_word_cloud([])
    assert "34.0" not in plot_word_cloud(rows(1))  # one word has no scale: the middle size
