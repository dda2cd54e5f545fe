"""The sketch against exact statistics over the same numbers, and against itself cut and merged in other ways."""

import math

import numpy as np
import pytest

from forkpoint.analyze.traces.records import batch_of
from forkpoint.analyze.traces.sketch import BINS, RELATIVE_ERROR, Sketch, histogram, merged, quantiles, sketch
from forkpoint.analyze.traces.stats import batch_stats, merged_stats, trace_stats

SHARES = [0.0, 0.001, 0.01, 0.2, 0.5, 0.8, 0.95, 0.999, 1.0]


def exact(values, shares):
    ordered = np.sort(values.astype(np.float64))
    return ordered[[max(0, math.ceil(share * len(ordered)) - 1) for share in shares]]


def streams():
    rng = np.random.default_rng(0)
    return {
        "entropies": np.where(rng.random(50_000) < 0.5, rng.exponential(0.003, 50_000), rng.gamma(1.5, 0.5, 50_000)),
        "tiny": 10.0 ** rng.uniform(-8, 4, 50_000),
        "signed": rng.normal(0, 3, 50_000),
        "negative": -rng.exponential(1, 1_000),
        "few": np.array([3.0, 1.0, 2.0]),
        "equal": np.full(1_000, 0.7),
        "one": np.array([0.25]),
        "zeros": np.zeros(100),
    }


@pytest.mark.parametrize("name", streams())
def test_quantiles_are_within_the_stated_error(name):
    values = streams()[name].astype(np.float32)
    found = quantiles(sketch(values), SHARES)
    np.testing.assert_allclose(found, exact(values, SHARES), rtol=RELATIVE_ERROR, atol=2.0**-30)


def test_the_stated_error_is_not_generous():
    values = streams()["tiny"].astype(np.float32)
    shares = np.linspace(0.01, 0.99, 500)
    truth = exact(values, shares)
    worst = np.max(np.abs(quantiles(sketch(values), shares) - truth) / truth)
    assert RELATIVE_ERROR / 3 < worst <= RELATIVE_ERROR


@pytest.mark.parametrize("name", streams())
def test_moments_and_extremes(name):
    values = streams()[name].astype(np.float32)
    s, wide = sketch(values), values.astype(np.float64)
    assert (s.count, s.missing, s.low, s.high) == (len(values), 0, wide.min(), wide.max())
    assert s.mean == pytest.approx(wide.mean(), rel=1e-9)
    assert s.below == (int((wide < np.float32(0.01)).sum()),)
    if len(values) > 1:
        assert s.variance == pytest.approx(wide.var(ddof=1), rel=1e-9, abs=1e-20)
    else:
        assert math.isnan(s.variance)


def test_a_large_offset_does_not_eat_the_variance():
    values = (1000 + np.random.default_rng(0).normal(0, 0.01, 100_000)).astype(np.float32)
    parts = merged(sketch(values[:30_000]), sketch(values[30_000:]))
    assert parts.variance == pytest.approx(values.astype(np.float64).var(ddof=1), rel=1e-7)


@pytest.mark.parametrize("cuts", [[1], [10, 11, 40_000], list(range(0, 50_000, 777))])
def test_merging_gives_what_one_pass_gives(cuts):
    values = streams()["signed"].astype(np.float32)
    whole, joined = sketch(values), Sketch()
    for part in np.split(values, cuts)[::-1]:
        joined = merged(joined, sketch(part))
    assert (joined.positive == whole.positive).all()
    assert (joined.negative == whole.negative).all()
    assert (joined.count, joined.low, joined.high, joined.below) == (whole.count, whole.low, whole.high, whole.below)
    assert joined.mean == pytest.approx(whole.mean, rel=1e-12)
    assert joined.squares == pytest.approx(whole.squares, rel=1e-12)


def test_missing_values_are_counted_and_change_nothing_else():
    values = np.array([1.0, np.nan, 2.0, np.inf, -np.inf, 4.0], np.float32)
    s = sketch(values)
    assert (s.count, s.missing, s.mean, s.low, s.high) == (3, 3, pytest.approx(7 / 3), 1.0, 4.0)
    assert quantiles(s, [0.5]) == pytest.approx(2.0, rel=RELATIVE_ERROR)
    assert merged(s, s).missing == 6


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_nothing_has_no_statistics(values):
    s = sketch(np.array(values, np.float32))
    assert (s.count, s.missing) == (0, len(values))
    assert np.isnan(quantiles(s, [0.1, 0.9])).all()
    assert math.isnan(s.mean)
    assert math.isnan(s.share_below(0.01))
    assert merged(s, sketch(np.ones(2))).mean == 1.0
    assert merged(s, sketch(np.ones(2))).missing == len(values)


def test_values_beyond_the_bins_stay_in_the_extremes():
    s = sketch(np.array([1e-20, 1e30], np.float32))
    assert (s.positive[0], s.positive[-1], s.positive.sum()) == (1, 1, 2)
    assert len(s.positive) == BINS
    assert s.high == np.float32(1e30)


def test_histogram_counts_every_value_once():
    values = streams()["entropies"].astype(np.float32)
    edges = np.linspace(0, 8, 33)
    found = histogram(sketch(values), edges)
    assert found.sum() == ((values >= 0) & (values <= 8)).sum()
    # A value may fall on the other side of an edge only within the bin of the edge.
    assert np.abs(found - np.histogram(values, edges)[0]).sum() < 0.002 * len(values)


def test_memory_of_a_sketch_does_not_grow_with_the_stream():
    small, large = sketch(np.ones(10)), sketch(streams()["tiny"])
    assert small.positive.nbytes == large.positive.nbytes == 8 * BINS < 2e6


RECORDS = [
    {"tokens": ["So", " 2", "."], "ids": [5, 6, 7], "entropy": [1.0, 0.5, 0.0], "logp": [-1.0, -0.2, -0.1],
     "entropy_kind": "exact", "reward": 1, "verdict": "right", "finish": "stop"},
    {"tokens": ["So", " 3"], "entropy": [3.0, math.nan], "logp": [-2.0, -0.3], "reward": 0, "verdict": "wrong"},
    {"ids": [5], "logp": [-0.5], "finish": "length"},
    {"completion": ""},
]  # fmt: skip


def test_statistics_of_a_batch_by_hand():
    stats = batch_stats(batch_of(RECORDS, file="f"))
    assert (stats.responses, stats.tokens) == (4, 6)
    bound = -(math.exp(-0.5) * -0.5) - (1 - math.exp(-0.5)) * math.log(1 - math.exp(-0.5))
    assert stats.entropy.count == 5
    assert stats.entropy.missing == 1
    assert stats.entropy.mean == pytest.approx((1.0 + 0.5 + 0.0 + 3.0 + bound) / 5)
    assert stats.surprisal.mean == pytest.approx((1.0 + 0.2 + 0.1 + 2.0 + 0.3 + 0.5) / 6)
    assert stats.length.high == 3
    assert stats.reward.mean == 0.5
    assert stats.kinds == {"exact": 3, "lower-bound": 3, "none": 0}
    assert stats.is_lower_bound
    assert stats.verdicts == {"right": 1, "wrong": 1}
    assert stats.finishes == {"stop": 1, "length": 1}
    assert stats.types.ranked(least=1)[0] == ("So", 2, 2.0)
    assert {key: count for key, count, _ in stats.types.ranked(least=1)} == {"So": 2, " 2": 1, ".": 1, 5: 1}
    assert stats.types.ranked(least=2, most_uncertain=False) == [("So", 2, 2.0)]


def test_statistics_do_not_depend_on_how_the_stream_is_cut():
    whole = batch_stats(batch_of(RECORDS, file="f"))
    cut = trace_stats(batch_of([record], file="f", places=[place]) for place, record in enumerate(RECORDS, start=1))
    backwards = merged_stats([batch_stats(batch_of([record], file="f")) for record in RECORDS[::-1]])
    for other in (cut, backwards):
        assert (other.responses, other.tokens) == (whole.responses, whole.tokens)
        assert (other.entropy.positive == whole.entropy.positive).all()
        assert other.entropy.mean == pytest.approx(whole.entropy.mean)
        assert {row[:2] for row in other.types.ranked(least=1)} == {row[:2] for row in whole.types.ranked(least=1)}
        assert other.verdicts == whole.verdicts
    assert cut.notes == whole.notes


def test_all_equal_entropies_and_one_token_answers():
    stats = trace_stats([batch_of([{"tokens": ["a"], "entropy": [0.7]}] * 50, file="f")])
    assert stats.entropy.variance == pytest.approx(0, abs=1e-12)
    assert quantiles(stats.entropy, [0.0, 0.2, 0.8, 1.0]) == pytest.approx([0.7] * 4, rel=1e-6)
    assert (stats.length.low, stats.length.high) == (1, 1)


def test_no_batches_are_no_statistics():
    stats = trace_stats([])
    assert (stats.responses, stats.tokens, stats.types.ranked(least=1)) == (0, 0, [])
