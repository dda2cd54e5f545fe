"""Tokens of many responses as flat arrays: what every analysis of this package works on.

A corpus is one flat array a quantity (entropy, log-prob, advantage, id) and `offsets`: response r owns the
tokens `offsets[r]` to `offsets[r + 1]`. Nothing here loops over tokens, so ten million of them are ordinary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forkpoint.errors import InputError
from forkpoint.scope import exact_count

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Aligned quantities of the tokens that have a finite value in every one of them."""

    value: Mapping[str, Floats]
    """float64 (N,) each, by name."""
    response_N: Ints
    """The response of every token, ascending."""
    responses: int
    """R, responses in the corpus, empty ones included."""
    kept_M: Bools | None
    """Which of the M tokens given are among the N; None where all are."""

    @property
    def count(self) -> int:
        """N, tokens with finite values."""
        return int(self.response_N.size)

    @property
    def left_out(self) -> int:
        """Tokens left out because a value was NaN or infinite."""
        return 0 if self.kept_M is None else int(self.kept_M.size - self.response_N.size)


def check_offsets(offsets: ArrayLike, size: int | None = None) -> Ints:
    """Return offsets as int64 (R + 1,).

    Args:
        offsets: 0 = o_0 <= o_1 <= ... <= o_R; response r owns the tokens o_r to o_{r+1}.
        size: tokens the last offset has to name, where given.

    Raises:
        InputError: offsets that are no such numbers.

    >>> check_offsets([0, 2, 2, 5]).tolist()
    [0, 2, 2, 5]
    """
    array = np.asarray(offsets)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise InputError("offsets are one row of whole numbers, one more than there are responses: 0, ..., tokens")
    array = array.astype(np.int64)
    if array[0] != 0 or (np.diff(array) < 0).any():
        raise InputError("offsets begin with 0 and never fall: response r owns the tokens offsets[r] to offsets[r + 1]")
    if size is not None and array[-1] != size:
        raise InputError(
            f"the last offset is {array[-1]} but there are {size} tokens: they belong to different corpora"
        )
    return array


def of_responses(lengths: ArrayLike) -> Ints:
    """Return the offsets of responses of the given lengths.

    >>> of_responses([2, 0, 3]).tolist()
    [0, 2, 2, 5]
    """
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)


def positions(offsets: ArrayLike) -> Ints:
    """Return the place of every token in its response, from 0.

    >>> positions([0, 2, 2, 5]).tolist()
    [0, 1, 0, 1, 2]
    """
    bounds = check_offsets(offsets)
    return np.arange(bounds[-1]) - np.repeat(bounds[:-1], np.diff(bounds))


def tokens(offsets: ArrayLike, **values: ArrayLike) -> Tokens:
    """Return aligned token quantities without the tokens where any of them is NaN or infinite.

    Args:
        offsets: int (R + 1,).
        values: (N,) each, by name.

    Raises:
        InputError: lengths differ, the offsets do not fit, or no token is left.

    >>> tokens([0, 2, 3], entropy=[0.1, float("nan"), 0.3]).response_N.tolist()
    [0, 1]
    """
    arrays: dict[str, Floats] = {}
    for name, value in values.items():
        arrays[name] = _floats(name, value)
    sizes = {name: array.size for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        words = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise InputError(f"token quantities differ in length ({words}): they belong to different corpora")
    size = next(iter(sizes.values()))
    bounds = check_offsets(offsets, size)
    finite = np.ones(size, dtype=bool)
    for array in arrays.values():
        finite &= np.isfinite(array)
    response_N = np.repeat(np.arange(bounds.size - 1, dtype=np.int64), np.diff(bounds))
    everything = bool(finite.all())
    if not everything:
        arrays = {name: array[finite] for name, array in arrays.items()}
        response_N = response_N[finite]
    if response_N.size == 0:
        what = " and ".join(arrays)
        raise InputError(
            f"there is no token to analyse: the corpus is empty, or {what} is not a number everywhere; "
            "check the trace's columns"
        )
    return Tokens(value=arrays, response_N=response_N, responses=bounds.size - 1, kept_M=None if everything else finite)


def _floats(name: str, value: ArrayLike) -> Floats:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is not an array of numbers: give one number a token, flat over responses") from error
    if array.ndim != 1:
        raise InputError(f"{name} has {array.ndim} dimensions and must be flat: join the tokens of all responses")
    return array


def check_share(share: float) -> None:
    """Raise `InputError` unless `share` is a number in (0, 1]."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError(f"share is {share!r} and must be a number in (0, 1]: the fraction of tokens selected")


def sums_by(response_N: Ints, responses: int, weight_N: NDArray[Any] | None = None) -> Floats:
    """Return the sum of a weight over the tokens of every response, or their number, float64 (R,)."""
    return np.bincount(response_N, weights=weight_N, minlength=responses).astype(np.float64)


def table_by(response_N: Ints, responses: int, bin_N: Ints, bins: int, weight_N: NDArray[Any] | None = None) -> Floats:
    """Return the sum of a weight over the tokens of every response and bin, or their number, float64 (R, K)."""
    cell_N = response_N * bins + bin_N
    flat = np.bincount(cell_N, weights=weight_N, minlength=responses * bins)
    return flat.reshape(responses, bins).astype(np.float64)


def top_pooled(value_N: Floats, share: float) -> Bools:
    """Return the mask of the max(1, ceil(share N)) largest values of all tokens.

    Where the cut falls among equal values the earliest tokens are taken, so the count is exact; the count is
    that of `forkpoint.credit.select.top_share`.

    >>> top_pooled(np.array([0.1, 0.9, 0.9, 0.0, 2.0]), 0.4).tolist()
    [False, True, False, False, True]
    """
    check_share(share)
    count = exact_count(share, value_N.size)
    if count == value_N.size:
        return np.ones(value_N.size, dtype=bool)
    cut = np.partition(value_N, value_N.size - count)[value_N.size - count]
    chosen = value_N > cut
    ties = np.flatnonzero(value_N == cut)[: count - int(chosen.sum())]
    chosen[ties] = True
    return chosen


def descending(value_N: Floats) -> Ints:
    """Return the order of tokens from the largest value to the smallest, earlier tokens first among equals."""
    return np.argsort(-value_N, kind="stable")


def within_responses(order_N: Ints, response_N: Ints, responses: int) -> Ints:
    """Return an order of tokens sorted by response, otherwise as it was."""
    # Sixteen bits are sorted by counting, several times faster than comparing.
    kind = np.uint16 if responses <= 1 << 16 else np.int64
    return order_N[np.argsort(response_N.astype(kind)[order_N], kind="stable")]


def top_each(value_N: Floats, response_N: Ints, responses: int, share: float, *, order_N: Ints | None = None) -> Bools:
    """Return the mask of the max(1, ceil(share n)) largest values of every response; ties as in `top_pooled`.

    Args:
        value_N: finite values.
        response_N: their responses, ascending.
        responses: R.
        share: in (0, 1].
        order_N: `within_responses(descending(value_N), ...)` where it is at hand: the sort is most of the cost.

    >>> top_each(np.array([1.0, 2.0, 5.0, 5.0]), np.array([0, 0, 1, 1]), 2, 0.5).tolist()
    [False, True, True, False]
    """
    check_share(share)
    size_R = np.bincount(response_N, minlength=responses)
    lengths, which_R = np.unique(size_R, return_inverse=True)
    count_R = np.array([exact_count(share, int(n)) for n in lengths])[which_R]
    order = within_responses(descending(value_N), response_N, responses) if order_N is None else order_N
    start_R = np.cumsum(size_R) - size_R
    rank_N = np.arange(value_N.size) - start_R[response_N]  # responses ascend, so sorting keeps their places
    chosen = np.zeros(value_N.size, dtype=bool)
    chosen[order] = rank_N < count_R[response_N]
    return chosen


def all_equal(value_N: Floats) -> bool:
    """Return whether no value differs from the first."""
    return bool((value_N == value_N[0]).all()) if value_N.size else True
