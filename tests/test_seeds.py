"""Keys and counter-based streams."""

import numpy as np

from forkpoint.seeds import generator, key, uniforms


def test_keys_tell_parts_apart():
    keys = {key("a", 1), key("a", "1"), key("a1"), key(1, "a"), key("a", 1, 0), key("a", 2)}
    assert len(keys) == 6
    assert all(0 <= k < 2**63 for k in keys)


def test_blocks_of_a_stream_are_different_and_repeatable():
    a, b, again = uniforms(7, 0, 64), uniforms(7, 1, 64), uniforms(7, 0, 64)
    assert np.array_equal(a, again)
    assert not np.intersect1d(a, b).size
    assert a.min() >= 0
    assert a.max() < 1


def test_streams_are_uniform_and_uncorrelated():
    x = np.stack([uniforms(key("row", i), 0, 64) for i in range(500)])
    assert abs(x.mean() - 0.5) < 0.006
    assert abs(x.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(x[:-1].ravel(), x[1:].ravel())[0, 1]) < 0.02


def test_generator_is_repeatable():
    assert generator(1, "x").permutation(9).tolist() == generator(1, "x").permutation(9).tolist()
    assert generator(1, "x").permutation(9).tolist() != generator(2, "x").permutation(9).tolist()
