from __future__ import annotations

import numpy as np
import pytest

from forkpoint.analyze.measures.paper_figures import change_by_percentile, entropy_histogram
from forkpoint.analyze.measures.training_curves import percentiles_over_training
from forkpoint.errors import InputError

NAN = float("nan")


def test_histogram_by_hand():
    found = entropy_histogram([0.0, 0.005, 0.5, NAN, 0.9, 1.0, -1e-9], [0, 3, 6, 7], bins=4)
    # Bins of 0.25: three tokens near 0, one at 0.5 (a bin's left end is its own), two in the last.
    assert found.edges.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.count.value.tolist() == [3.0, 0.0, 1.0, 2.0]
    assert found.below.value == 0.5
    assert found.cut.value == pytest.approx(0.9)  # place 0.8 * 5 = 4 of 0, 0, 0.005, 0.5, 0.9, 1
    assert (found.tokens, found.responses, found.left_out) == (6, 3, 1)
    assert (found.count.low <= found.count.value).all()
    assert (found.count.high >= found.count.value).all()


def test_histogram_at_its_limits():
    equal = entropy_histogram([0.7] * 5, [0, 2, 5], bins=3)
    assert equal.count.value.tolist() == [0.0, 0.0, 5.0]
    assert equal.cut.value == pytest.approx(0.7)
    one = entropy_histogram([0.0], [0, 1])
    assert (one.below.value, one.cut.value) == (1.0, 0.0)
    assert np.isnan(one.below.low)
    with pytest.raises(InputError, match="there is no token"):
        entropy_histogram([NAN, NAN], [0, 2])
    with pytest.raises(InputError, match="bins"):
        entropy_histogram([1.0], [0, 1], bins=0)


def test_change_by_hand():
    base = np.array([3.0, 1.0, 2.0, 0.0, 9.0])
    final = np.array([3.5, 1.25, 1.0, 0.125, NAN])
    found = change_by_percentile(base, final, [0, 2, 5], bins=2)
    # Sorted base 0, 1 | 2, 3: changes 0.125, 0.25 | -1, 0.5. The NaN token is out.
    assert found.change.value.tolist() == [0.1875, -0.25]
    assert found.base_low.tolist() == [0.0, 2.0]
    assert found.base_high.tolist() == [1.0, 3.0]
    assert (found.tokens, found.left_out) == (4, 1)


def test_every_bin_gets_its_share_of_tokens():
    base = np.random.default_rng(2).permutation(23).astype(float)
    found = change_by_percentile(base, base + base**2, [0, 11, 23], bins=5)
    # floor(5 r / 23) of the ranks r = 0..22.
    assert found.base_low.tolist() == [0, 5, 10, 14, 19]
    assert found.base_high.tolist() == [4, 9, 13, 18, 22]
    assert found.change.value[3] == np.mean(np.arange(14, 19) ** 2)


def test_fewer_tokens_than_bins_leave_bins_empty():
    found = change_by_percentile([1.0], [1.5], [0, 1], bins=3)
    assert found.change.value[0] == 0.5
    assert np.isnan(found.change.value[1:]).all()
    assert np.isnan(found.base_low[1:]).all()
    with pytest.raises(InputError, match="base has 1, final has 2"):
        change_by_percentile([1.0], [1.0, 2.0], [0, 1])


def test_equal_base_entropies_are_cut_by_position():
    assert change_by_percentile([1.0] * 4, [1, 2, 3, 4], [0, 4], bins=2).change.value.tolist() == [0.5, 2.5]


def test_percentiles_over_training_by_hand():
    corpora = {20: ([0.0, 10.0, NAN], [0, 1, 3]), 5: ([0.0, 1.0, 2.0, 3.0, 4.0], [0, 2, 5])}
    found = percentiles_over_training(corpora, percentiles=[0, 25, 100])
    assert found.steps == (5, 20)
    assert found.tokens == (5, 2)
    assert [band.value.tolist() for band in found.value] == [[0.0, 0.0], [1.0, 2.5], [4.0, 10.0]]
    assert np.isnan(found.value[0].low).all()


def test_percentiles_name_the_step_that_is_empty():
    with pytest.raises(InputError, match="step 7: there is no token"):
        percentiles_over_training({5: ([1.0], [0, 1]), 7: ([], [0])})
    with pytest.raises(InputError, match="there is no step"):
        percentiles_over_training({})
