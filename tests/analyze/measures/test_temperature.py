from __future__ import annotations

import pytest

from forkpoint.analyze.measures.temperature import temperature_curves
from forkpoint.errors import InputError
from forkpoint.evaluate.paired import paired_test
from forkpoint.evaluate.stats import accuracy

P = ["a", "a", "b", "b", "c", "c"]
RESULTS = {
    (1.0, 1.0): (P, [1, 0, 1, 1, 0, 0]),
    (2.0, 1.0): (P, [1, 1, 1, 1, 0, 1]),
    (1.0, 0.0): (P, [1, 1, 0, 0, 0, 0]),
    (2.0, 2.0): (P, [0] * 6),
}


def test_curves_hold_one_temperature_still():
    found = temperature_curves(RESULTS)
    assert [point.temperature for point in found.fork] == [1.0, 2.0]
    assert [point.temperature for point in found.other] == [0.0, 1.0]
    assert found.fork[1].accuracy == accuracy(*RESULTS[2.0, 1.0])
    assert found.fork[1].difference == paired_test(*RESULTS[2.0, 1.0], *RESULTS[1.0, 1.0]).difference
    assert found.fork[1].difference.value == pytest.approx((0.5 + 0.0 + 0.5) / 3)
    assert found.fork[0].difference is None


def test_curves_without_the_reference():
    found = temperature_curves({(2.0, 1.0): RESULTS[2.0, 1.0]})
    assert found.fork[0].difference is None
    assert found.other == ()
    with pytest.raises(InputError, match="no result was decoded"):
        temperature_curves({(2.0, 2.0): RESULTS[2.0, 2.0]})
