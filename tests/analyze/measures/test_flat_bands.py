from __future__ import annotations

import numpy as np
import pytest
import torch

from forkpoint.analyze.measures.bands import mean_interval, quantile_band, ratio_band
from forkpoint.analyze.measures.flat import check_offsets, of_responses, table_by, tokens, top_each, top_pooled
from forkpoint.credit.select import top_share
from forkpoint.errors import InputError
from forkpoint.scope import exact_count

NAN = float("nan")


def test_tokens_without_a_number_are_left_out_together():
    found = tokens([0, 2, 4, 4, 5], entropy=[0.1, NAN, 0.3, 0.4, 0.5], logp=[-1.0, -2.0, np.inf, -4.0, -5.0])
    assert found.value["entropy"].tolist() == [0.1, 0.4, 0.5]
    assert found.value["logp"].tolist() == [-1.0, -4.0, -5.0]
    assert found.response_N.tolist() == [0, 1, 3]
    assert (found.count, found.left_out, found.responses) == (3, 2, 4)


@pytest.mark.parametrize(
    ("offsets", "values", "says"),
    [
        ([0], {"entropy": []}, "there is no token"),
        ([0, 1], {"entropy": [NAN]}, "entropy is not a number everywhere"),
        ([0, 2], {"entropy": [1.0, 2.0, 3.0]}, "last offset is 2 but there are 3 tokens"),
        ([0, 2], {"a": [1.0, 2.0], "b": [1.0]}, "a has 2, b has 1"),
        ([1, 2], {"entropy": [1.0, 2.0]}, "begin with 0"),
        ([0, 3, 2], {"entropy": [1.0, 2.0]}, "never fall"),
        ([0.0, 2.0], {"entropy": [1.0, 2.0]}, "whole numbers"),
        ([0, 1], {"entropy": [[1.0]]}, "must be flat"),
        ([0, 1], {"entropy": ["x"]}, "not an array of numbers"),
    ],
)
def test_corpora_that_do_not_fit_are_told(offsets, values, says):
    with pytest.raises(InputError, match=says):
        tokens(offsets, **values)


def test_offsets_of_lengths():
    assert check_offsets(of_responses([3, 0, 1]), 4).tolist() == [0, 3, 3, 4]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 1 / 3, 0.9, 1.0])
def test_top_counts_and_choice_equal_those_of_credit(share):
    rng = np.random.default_rng(3)
    lengths = [1, 7, 30, 2]
    offsets = of_responses(lengths)
    value = rng.integers(0, 12, offsets[-1]) / 4.0  # many ties
    response = np.repeat(np.arange(4), lengths)
    mask = torch.arange(30)[None] < torch.tensor(lengths)[:, None]
    value_BT = torch.zeros(4, 30, dtype=torch.float64)
    value_BT[mask] = torch.from_numpy(value)
    order_BT = torch.arange(120).reshape(4, 30)  # by position
    pooled = top_share(value_BT, mask, share, torch.zeros(4, dtype=torch.int64), order_BT)[mask].numpy()
    each = top_share(value_BT, mask, share, torch.arange(4), order_BT)[mask].numpy()
    assert (top_pooled(value, share) == pooled).all()
    assert (top_each(value, response, 4, share) == each).all()
    assert top_pooled(value, share).sum() == exact_count(share, value.size)


def test_top_of_responses_some_of_which_are_empty():
    chosen = top_each(np.array([1.0, 2.0, 3.0]), np.array([1, 1, 3]), 5, 0.5)
    assert chosen.tolist() == [False, True, True]


@pytest.mark.parametrize("share", [0, -0.1, 1.1, True, "0.2", NAN])
def test_share_out_of_range(share):
    with pytest.raises(InputError, match="share is"):
        top_pooled(np.array([1.0]), share)


def test_sums_by_response_and_bin():
    table = table_by(np.array([0, 0, 2]), 3, np.array([1, 1, 0]), 2, np.array([1.0, 2.0, 4.0]))
    assert table.tolist() == [[0.0, 3.0], [0.0, 0.0], [4.0, 0.0]]


def test_ratio_is_of_sums_and_its_band_is_the_bootstrap_of_clusters():
    # Two units, 0 of 1 and 3 of 3: a draw takes (0,0), (0,1), (1,0) or (1,1), so ratios 0, 3/4, 3/4, 1.
    band = ratio_band([0.0, 3.0], [1.0, 3.0], level=0.4, draws=4000)
    assert band.value.tolist() == [0.75]
    assert (band.low[0], band.high[0]) == (0.75, 0.75)  # 30 % and 70 % lie inside the half at 3/4
    wide = ratio_band([0.0, 3.0], [1.0, 3.0], level=0.6, draws=4000)
    assert (wide.low[0], wide.high[0]) == (0.0, 1.0)  # 20 % and 80 % lie in the outer quarters


def test_band_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        values = rng.exponential(1.0, (60, 1))
        band = ratio_band(values, np.ones(60), level=0.9, draws=300, seed=trial)
        hits += bool(band.low[0] <= 1.0 <= band.high[0])
    assert 0.83 < hits / 300 < 0.95  # the percentile band of 60 skewed units is a little narrow


def test_clusters_are_drawn_together():
    # Four responses, two problems: within a problem all agree, so the band spans the two problems.
    top, one = [1.0, 1.0, 0.0, 0.0], np.ones(4)
    alone = ratio_band(top, one, level=0.7)
    together = ratio_band(top, one, cluster_R=["a", "a", "b", "b"], level=0.7)
    assert (together.low[0], together.high[0]) == (0.0, 1.0)
    assert 0.0 < alone.low[0] < alone.high[0] < 1.0
    with pytest.raises(InputError, match="2 problems are named for 4 responses"):
        ratio_band(top, one, cluster_R=["a", "b"])


def test_nothing_to_compare_has_no_interval():
    assert np.isnan(ratio_band([1.0], [2.0]).low[0])
    assert np.isnan(ratio_band([[0.0], [0.0]], [[0.0], [0.0]]).value[0])
    with pytest.raises(InputError, match="level in"):
        ratio_band([1.0, 2.0], [1.0, 1.0], level=1.0)


def test_draws_come_in_blocks_of_bounded_size(monkeypatch):
    from forkpoint.analyze.measures import bands

    rng = np.random.default_rng(1)
    top, bottom = rng.random((50, 3)), rng.random((50, 3)) + 1
    whole = ratio_band(top, bottom, draws=64)
    sizes = []
    weights = bands._weights
    monkeypatch.setattr(bands, "_CELLS", 500)
    monkeypatch.setattr(bands, "_weights", lambda *a: (sizes.append(w.shape) or w for w in weights(*a)))
    split = ratio_band(top, bottom, draws=64)
    assert {rows for rows, _ in sizes} == {10, 4}
    assert np.array_equal(whole.low, split.low)  # one stream, whatever the blocks


def test_quantiles_equal_numpy_and_their_bands_follow_the_share():
    rng = np.random.default_rng(5)
    value, response = rng.gamma(2.0, 1.0, 4000), np.repeat(np.arange(100), 40)
    q = [0.9, 0.5, 0.0, 1.0]
    band = quantile_band(value, response, 100, q)
    assert np.allclose(band.value, np.quantile(value, q), rtol=1e-12)
    assert np.isnan(band.low[2:]).all()
    assert np.isnan(band.high[2:]).all()
    # Independent tokens: the interval is that of an order statistic, 0.9 ± 1.96 sqrt(0.9 * 0.1 / 4000).
    half = 1.96 * np.sqrt(0.09 / 4000)
    low, high = np.quantile(value, [0.9 - half, 0.9 + half])
    assert band.value[0] - band.low[0] == pytest.approx(band.value[0] - low, rel=0.25)
    assert band.high[0] - band.value[0] == pytest.approx(high - band.value[0], rel=0.25)


def test_quantiles_of_all_equal_values():
    band = quantile_band(np.full(6, 0.3), np.repeat([0, 1, 2], 2), 3, [0.5])
    assert (band.value[0], band.low[0], band.high[0]) == pytest.approx((0.3, 0.3, 0.3))


def test_mean_over_tokens_weighs_long_responses_more():
    assert mean_interval(np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1]), 2).value == 2.0
