"""pass@k by hand, by enumeration, and against the numbers the CRUXEval authors recorded."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import pytest

from forkpoint.evaluate.passk import mean_pass_at_k, pass_at_k

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not beside the repository")


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_equals_the_share_of_all_draws(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            draws = list(combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-15)


def test_large_counts_stay_exact():
    # 1 - C(9900, 100) / C(10000, 100), from exact integers.
    exact = 1 - math.comb(9_900, 100) / math.comb(10_000, 100)
    assert pass_at_k(10_000, 100, 100) == pytest.approx(exact, rel=1e-12)
    assert pass_at_k(10**6, 0, 10**5) == 0.0


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 1), (-1, -1, 1)])
def test_impossible_counts_are_errors(n, c, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, c, k)


def test_mean_of_nothing_is_not_a_number():
    assert math.isnan(mean_pass_at_k([], 1))


@needs_data
def test_cruxeval_as_its_authors_recorded_it():
    recorded = json.loads((DATA / "recorded/cruxeval_codellama7b_output_scored.json").read_text())
    scores = recorded["raw_scored_generations"].values()
    counts = [(len(row), sum(row)) for row in scores]
    assert len(counts) == 800
    assert 100 * mean_pass_at_k(counts, 1) == pytest.approx(34.2125, abs=1e-10)
    assert 100 * mean_pass_at_k(counts, 5) == pytest.approx(40.286706349206355, abs=1e-10)
    assert recorded["pass_at_1"] == pytest.approx(34.2125)
