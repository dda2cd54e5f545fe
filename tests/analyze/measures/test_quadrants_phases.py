from __future__ import annotations

import numpy as np
import pytest

from forkpoint.analyze.measures.phases import (
    answer_starts,
    entropy_by_phase,
    entropy_by_position,
    text_answer_starts,
)
from forkpoint.analyze.measures.quadrants import quadrants
from forkpoint.errors import InputError

NAN = float("nan")


def test_quadrants_by_hand():
    entropy = [2.0, 0.0, 1.0, 0.5, 3.0, 1.5, NAN]
    advantage = [1.0, 1.0, -1.0, -1.0, 0.0, 1.0, 1.0]
    gradient = [4.0, 1.0, 3.0, 0.0, 0.0, -2.0, 1.0]
    found = quadrants(entropy, advantage, gradient, [0, 3, 7], share=0.5)
    # High: 3.0, 2.0, 1.5, one of them neutral. Masses: tokens 6, entropy 8, gradient 10.
    assert found.tokens.value == pytest.approx([2 / 6, 1 / 6, 0, 2 / 6])
    assert found.entropy.value == pytest.approx([3.5 / 8, 0, 0, 1.5 / 8])
    assert found.gradient.value == pytest.approx([6 / 10, 1 / 10, 0, 3 / 10])
    assert found.neutral == pytest.approx((1 / 6, 3 / 8, 0.0))
    assert (found.cut, found.count, found.left_out) == (1.5, 6, 1)


def test_quadrants_and_neutral_sum_to_one():
    rng = np.random.default_rng(0)
    args = rng.random(500), rng.integers(-1, 2, 500), rng.random(500)
    found = quadrants(*args, np.arange(0, 501, 50))
    for band, rest in zip((found.tokens, found.entropy, found.gradient), found.neutral, strict=True):
        assert band.value.sum() + rest == pytest.approx(1.0)
        assert (band.low <= band.value).all()
        assert (band.value <= band.high).all()


def test_quadrants_at_their_limits():
    none = quadrants([1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0, 1, 2])
    assert none.tokens.value.tolist() == [0.0] * 4
    assert np.isnan(none.gradient.value).all()
    assert quadrants([0.5], [-2.0], [1.0], [0, 1]).tokens.value.tolist() == [0.0, 0.0, 1.0, 0.0]
    with pytest.raises(InputError, match="entropy has 1, advantage has 2"):
        quadrants([0.5], [1.0, 1.0], [1.0], [0, 1])


def test_answers_start_after_the_first_whole_marker_of_their_own_response():
    ids = [8, 9, 1, 8, 9, 8, 9, 9, 8, 3]
    # Responses: [8 9 1 8 9], [8], [9 9 8 3]: the second's 8 and the third's 9 are no marker together.
    assert answer_starts(ids, [0, 5, 6, 10], [8, 9]).tolist() == [2, -1, -1]
    assert answer_starts(ids, [0, 5, 6, 10], [9]).tolist() == [2, -1, 1]
    assert answer_starts([], [0], [1]).tolist() == []
    assert answer_starts([5], [0, 1], [5, 5]).tolist() == [-1]
    assert answer_starts([5, 5], [0, 2], [5]).tolist() == [1]
    with pytest.raises(InputError, match="no token"):
        answer_starts([1], [0, 1], [])


def test_phases_by_hand():
    found = entropy_by_phase([1.0, 3.0, 9.0, NAN, 5.0, 2.0, 2.0], [0, 3, 5, 7], [2, -1, 0])
    thinking, answer = found
    assert (thinking.name, thinking.tokens, thinking.responses) == ("thinking", 3, 2)
    assert (thinking.mean.value, thinking.median.value) == (3.0, 3.0)
    assert (answer.tokens, answer.mean.value, answer.median.value) == (3, pytest.approx(13 / 3), 2.0)
    assert answer.cut.value == pytest.approx(2 + 0.6 * 7)


def test_a_phase_nobody_reached_is_left_out():
    assert [phase.name for phase in entropy_by_phase([1.0], [0, 1], [-1])] == ["thinking"]
    assert [phase.name for phase in entropy_by_phase([1.0], [0, 1], [0])] == ["answer"]
    with pytest.raises(InputError, match="2 answer starts do not match 1 responses"):
        entropy_by_phase([1.0], [0, 1], [0, 0])


def test_positions_by_hand():
    entropy = [1.0, 2.0, NAN, 4.0, 10.0, 20.0]
    relative = entropy_by_position(entropy, [0, 4, 6], bins=2)
    assert relative.mean.value.tolist() == [(1 + 2 + 10) / 3, 12.0]
    assert relative.tokens.tolist() == [3, 2]
    absolute = entropy_by_position(entropy, [0, 4, 6], bins=4, relative=False)
    assert absolute.edges.tolist() == [0, 1, 2, 3, 4]
    assert absolute.mean.value[[0, 1, 3]].tolist() == [5.5, 11.0, 4.0]
    assert np.isnan(absolute.mean.value[2])
    assert np.isnan(absolute.mean.low[2])
    with pytest.raises(InputError, match="bins"):
        entropy_by_position(entropy, [0, 4, 6], bins=0)


def test_text_answer_starts_by_hand():
    texts = ["so", "</", "think>", "4", "a</think>b", None, "c", "</think>", "</", "think", "x</think>", "</think>"]
    offsets = [0, 4, 7, 8, 10, 12, 12]
    # Spelled by two tokens; inside one that also holds what follows; at the end; cut by the end; twice; no token.
    assert text_answer_starts(texts, offsets, "</think>").tolist() == [3, 1, 1, -1, 1, -1]
    assert text_answer_starts(texts, offsets, "b").tolist() == [-1, 1, -1, -1, -1, -1]
    with pytest.raises(InputError, match="the marker that ends the thinking phase is empty"):
        text_answer_starts(["a"], [0, 1], "")
    with pytest.raises(InputError):
        text_answer_starts(["a"], [0, 2], "x")


def test_responses_whose_phases_are_not_known_are_whole_answers():
    found = entropy_by_phase([1.0, 3.0, 9.0, 5.0, 2.0], [0, 3, 5], [1, 1], known_R=[True, False])
    assert [(phase.name, phase.mean.value, phase.tokens) for phase in found] == [
        ("thinking", 1.0, 1), ("answer", 6.0, 2), ("whole answer", 3.5, 2),
    ]  # fmt: skip
    with pytest.raises(InputError, match="known_R has 1 entries for 2 responses"):
        entropy_by_phase([1.0, 2.0], [0, 1, 2], [0, 0], known_R=[True])
