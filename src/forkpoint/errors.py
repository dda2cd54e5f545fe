"""The one exception a user sees: a sentence that names the thing and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ForkpointError(Exception):
    """A mistake in the input or the surroundings, told in one sentence.

    The command line prints the message alone and exits with `exit_code`; library callers catch it like
    any exception. The message names what is wrong and what to do about it.
    """

    exit_code = 2


class InputError(ForkpointError):
    """A recipe, an argument, a data file or a checkpoint cannot be used."""


class NotFiniteRowError(InputError):
    """A row of hidden states has no distribution: it, the head or the bias holds NaN or infinity."""

    def __init__(self, row: int) -> None:
        super().__init__(
            f"row {row} has no finite log-partition: its hidden state, the head or the bias holds NaN or inf"
        )
        self.row = row


class TrainingError(ForkpointError):
    """A run had to stop; everything written so far is intact."""

    exit_code = 3


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the nearest valid name, else the list of valid names.

    >>> did_you_mean("shar", ["share", "scope"])
    "did you mean 'share'?"
    >>> did_you_mean("zzz", ["share", "scope"])
    'valid names: scope, share'
    """
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid names: {', '.join(names)}"
