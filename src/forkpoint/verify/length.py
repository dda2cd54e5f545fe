"""Soft overlong punishment: a penalty that grows over the last tokens before the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forkpoint.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def overlong_penalty(length: int, *, max_length: int, buffer: int) -> float:
    r"""Return the soft overlong punishment of one answer (DAPO, arXiv 2503.14476, equation 13).

    With M = `max_length` and b = `buffer`:

        0                        where length <= M - b
        ((M - b) - length) / b   where M - b < length <= M
        -1                       where length > M

    Args:
        length: Tokens of the answer, the stop token included.
        max_length: M in tokens, the length at which the penalty reaches -1.
        buffer: b in tokens, in [1, max_length].

    Returns:
        A penalty in [-1, 0], to be added to the reward.

    Raises:
        InputError: Where `buffer` is outside [1, max_length].

    >>> overlong_penalty(18, max_length=20, buffer=4)
    -0.5
    """
    start = _start(max_length, buffer)
    return min(0.0, max(-1.0, (start - length) / buffer))


def overlong_penalty_B(length_B: Tensor, *, max_length: int, buffer: int) -> Tensor:
    """Return the soft overlong punishment of every row, float32 (B,).

    Args:
        length_B: int64 (B,): tokens of every answer, the stop token included.
        max_length: Tokens at which the penalty reaches -1.
        buffer: Tokens over which it grows, in [1, max_length].

    Returns:
        float32 (B,) in [-1, 0]; see `overlong_penalty` for the equation.

    Raises:
        InputError: Where `buffer` is outside [1, max_length].
    """
    start = _start(max_length, buffer)
    return ((start - length_B).float() / buffer).clamp(-1.0, 0.0)


def _start(max_length: int, buffer: int) -> int:
    if not 1 <= buffer <= max_length:
        raise InputError(
            f"the overlong buffer must be between 1 and max_length ({max_length}), not {buffer}: "
            "it is the number of last tokens over which the penalty grows"
        )
    return max_length - buffer
