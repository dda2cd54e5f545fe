from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from forkpoint.analyze.measures.sequence import (
    answer_clusters,
    entropy_area,
    entropy_reduction,
    semantic_entropy,
    top_k_bits,
    window_entropy,
)
from forkpoint.errors import InputError
from forkpoint.verify.exact import exactly_equal

NAN = float("nan")


def test_bits_of_the_most_likely_by_hand():
    p = np.array([[0.5, 0.25, 0.125, 0.125], [1.0, 0.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        logp = np.log(p)
    assert top_k_bits(logp, 4).tolist() == pytest.approx([1.75, 0.0], abs=1e-15)
    assert top_k_bits(logp, 20).tolist() == top_k_bits(logp, 4).tolist()
    assert top_k_bits(logp, 2).tolist() == pytest.approx([1.0, 0.0])  # 0.5 * 1 + 0.25 * 2, not renormalised
    assert np.isnan(top_k_bits([[NAN, 0.0]], 2)[0])
    with pytest.raises(InputError, match="k is 0"):
        top_k_bits(logp, 0)


def test_bits_left_out_are_within_the_stated_bound():
    rng = np.random.default_rng(1)
    z = rng.normal(0, 3, (50, 200))
    logp = z - np.log(np.exp(z).sum(1, keepdims=True))
    missing = top_k_bits(logp, 200) - top_k_bits(logp, 20)
    rest = 1 - np.sort(np.exp(logp), 1)[:, -20:].sum(1)
    assert (missing >= 0).all()
    assert (missing <= rest * np.log2(180 / rest) + 1e-12).all()


def test_area_by_hand():
    found = entropy_area([1.0, 0.5, 0.25, NAN, 1.0], [0, 2, 2, 3, 5])
    assert found.area[:3].tolist() == [1.5, 0.0, 0.25]
    assert found.mean[[0, 2]].tolist() == [0.75, 0.25]
    assert np.isnan(found.mean[1])
    assert np.isnan(found.area[3])
    assert found.positions.tolist() == [2, 0, 1, 2]
    strided = entropy_area([1.0, 0.5], [0, 2], stride=3)
    assert (strided.area.tolist(), strided.mean.tolist()) == ([4.5], [0.75])
    assert entropy_area([], [0]).area.size == 0
    with pytest.raises(InputError, match="stride"):
        entropy_area([], [0], stride=0)
    with pytest.raises(InputError, match="3 tokens"):
        entropy_area([1.0, 2.0, 3.0], [0, 2])


def test_answers_are_clustered_by_the_verifier_within_their_prompt():
    answers = ["1/2", "0.5", None, "3", "0.50", None, "3"]
    prompts = ["p", "p", "p", "p", "p", "p", "q"]
    equal = lambda a, b: exactly_equal(a, b) is True  # noqa: E731
    assert answer_clusters(answers, prompts, equal).tolist() == [0, 0, 1, 2, 0, 1, 3]
    assert answer_clusters(answers, prompts, equal, missing="own").tolist() == [0, 0, 1, 2, 0, 3, 4]
    assert answer_clusters([], [], equal).size == 0
    with pytest.raises(InputError, match="1 answers do not match 2 prompts"):
        answer_clusters(["a"], ["p", "q"], equal)


def test_semantic_entropy_by_counting():
    found = semantic_entropy([0, 0, 0, 1, 7, 5, 6], ["p"] * 4 + ["q"] + ["r"] * 2)
    assert found.prompts == ("p", "q", "r")
    assert found.entropy == pytest.approx([-0.75 * math.log(0.75) - 0.25 * math.log(0.25), 0.0, math.log(2)])
    assert found.normalised[[0, 2]] == pytest.approx([found.entropy[0] / math.log(4), 1.0])
    assert math.isnan(found.normalised[1])
    assert (found.clusters.tolist(), found.answers.tolist()) == ([2, 1, 2], [4, 1, 2])
    assert semantic_entropy([3, 3, 3], ["p"] * 3).entropy.tolist() == [0.0]


def test_semantic_entropy_by_likelihood():
    logp = np.log([0.2, 0.1, 0.4, 0.25])
    found = semantic_entropy([0, 0, 1, 0], ["p"] * 3 + ["q"], logp=logp)
    assert found.entropy == pytest.approx([-(math.log(0.3) + math.log(0.4)) / 2, -math.log(0.25)])
    assert np.isnan(semantic_entropy([0, 0], ["p"] * 2, logp=[NAN, -1.0]).entropy[0])
    # Probabilities of whole answers underflow; their logarithms do not.
    assert semantic_entropy([0, 0], ["p"] * 2, logp=[-5000.0, -5000.0]).entropy[0] == pytest.approx(5000 - math.log(2))


def test_semantic_entropy_of_nothing():
    with pytest.raises(InputError, match="no answer"):
        semantic_entropy([], [])
    with pytest.raises(InputError, match="differ in length"):
        semantic_entropy([0], ["p", "q"])
    with pytest.raises(InputError, match="differ in length"):
        semantic_entropy([0], ["p"], logp=[-1.0, -2.0])


def test_reduction_by_hand():
    found = entropy_reduction([2.0, 1.5, 0.5, 1.0, 3.0, NAN, 1.0], [0, 3, 4, 4, 7])
    assert found.reduction[:2].tolist() == [0.5, 1.0]
    assert np.isnan(found.reduction[2:]).all()
    assert found.offsets.tolist() == [0, 2, 2, 2, 4]
    assert found.total[[0, 1, 3]].tolist() == [1.5, 0.0, 2.0]
    assert np.isnan(found.total[2])


@pytest.mark.parametrize("lengths", [[], [0], [1], [0, 0, 3, 0], [2, 0, 2], [4, 1, 1, 0]])
def test_reduction_never_crosses_a_border(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    value = np.random.default_rng(0).random(offsets[-1])
    found = entropy_reduction(value, offsets)
    expected = [value[i] - value[i + 1] for a, b in itertools.pairwise(offsets) for i in range(a, b - 1)]
    assert found.reduction.tolist() == expected
    assert found.offsets[-1] == len(expected)


def test_window_by_hand():
    found = window_entropy([1.0, 2.0, 3.0, 10.0, NAN, 1.0, 5.0], [0, 4, 7], width=3)
    assert found[:2].tolist() == [2.0, 5.0]
    assert np.isnan(found[2:]).all()
    assert window_entropy([1.0, NAN, 2.0], [0, 1, 3], width=1)[[0, 2]].tolist() == [1.0, 2.0]
    assert np.isnan(window_entropy([1.0, 2.0], [0, 1, 2], width=2)).all()
    assert window_entropy([], [0]).size == 0
    assert window_entropy([0.3] * 6, [0, 6])[:3] == pytest.approx([0.3] * 3)
    with pytest.raises(InputError, match="a window"):
        window_entropy([1.0], [0, 1], width=0)
