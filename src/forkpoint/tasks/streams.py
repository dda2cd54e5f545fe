"""Counter-based random streams: what is drawn depends on a seed and a position, never on what came before."""

from __future__ import annotations

import numpy as np

from forkpoint.errors import InputError


def random_stream(seed: int, position: int, purpose: int = 0) -> np.random.Generator:
    """Return the generator that belongs to `(seed, position, purpose)`, a counter-based Philox stream.

    Args:
        seed: 0 to 2**64 - 1.
        position: 0 to 2**64 - 1; every position has 2**64 draws of its own.
        purpose: small integer that keeps independent uses of one seed apart.

    Raises:
        InputError: seed or position is negative or too large.

    >>> int(random_stream(1, 5).integers(1000)) == int(random_stream(1, 5).integers(1000))
    True
    """
    for name, value in (("seed", seed), ("position", position)):
        if not 0 <= value < 2**64:
            raise InputError(f"{name} {value} is outside 0 to 2**64 - 1; choose one inside.")
    key = np.array([seed, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, position, 0, 0], dtype=np.uint64)))
