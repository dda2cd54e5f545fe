"""Counter-based randomness: every draw is a function of a key, so there is no generator state to lose.

A key is derived from names and numbers (seed, step, problem, sample). The same key gives the same draws on
every machine, in every order and after every resume.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def key(*parts: str | int) -> int:
    """Return a 63-bit key that depends on all parts and their order.

    >>> key(0, "decode", 3) == key(0, "decode", 3), key(0, "decode", 3) == key(0, "decode", 4)
    (True, False)
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1


def generator(*parts: str | int) -> np.random.Generator:
    """Return a NumPy generator on the stream of `key(*parts)`."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def uniforms(stream: int, block: int, size: int) -> NDArray[np.float64]:
    """Return block number `block` of `size` uniforms in [0, 1) from a stream.

    Blocks of one stream do not overlap as long as `size` stays the same and below 2^64.

    >>> bool((uniforms(5, 1, 4) == uniforms(5, 1, 4)).all())
    True
    """
    return np.random.Generator(np.random.Philox(key=stream, counter=[0, 0, block, 0])).random(size)
