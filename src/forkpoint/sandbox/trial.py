"""What goes into the sandbox and what comes out: limits, a trial, its outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass

from forkpoint.errors import InputError

LEAST_MEMORY = 64 << 20
"""Bytes of address space below which the interpreter itself does not run."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one box may use. The program has them for itself; so has the judge.

    Raises:
        InputError: Where a value is not finite, not positive or too small to run anything.
    """

    cpu_s: float = 5.0
    """Seconds of processor time, all threads together."""
    wall_s: float = 10.0
    """Seconds by the clock for the whole trial, from the moment its box stands."""
    memory_bytes: int = 512 << 20
    """Address space of a process; at least 64 MiB."""
    file_bytes: int = 1 << 20
    """Size of one file. With namespaces the folder as a whole holds 16 such files."""
    processes: int = 1
    """1: no child process. More: that many processes and threads in all."""
    output_bytes: int = 1 << 16
    """Bytes of standard output, and as many of standard error; one more ends the program."""

    def __post_init__(self) -> None:
        for name in ("cpu_s", "wall_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"Limits.{name} is {value}; give seconds above 0")
        for name, least in (("file_bytes", 0), ("processes", 1), ("output_bytes", 0), ("memory_bytes", LEAST_MEMORY)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"Limits.{name} is {value}; give at least {least}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One untrusted program and, where there is one, the trusted source that judges it."""

    program: str
    """Untrusted source of Python."""
    judge: str | None = None
    """Trusted source, run in another process. It sees `candidate` (calls `entry` in the program's process) and
    `remote(name)`, which gives such a proxy for any other function. It passes by running to its end after one call
    at least. None: the program alone is run, as a script."""
    entry: str | None = None
    """Function of the program the judge calls; `Class.method` makes an object of the class without arguments."""
    stdin: str = ""
    """What the program reads from standard input."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a trial.

    `reason`, `stdout` and `stderr` hold text the program wrote: show them through
    `forkpoint.analyze.text.visible`.
    """

    passed: bool
    """The judge called the program and ran to its end; without a judge, the program ended with exit code 0."""
    reason: str
    """A few plain words."""
    ran: bool = True
    """False where the sandbox failed, or the tests before they called the program: the answer is unjudged."""
    stdout: str = ""
    """What the program wrote to standard output, at most `Limits.output_bytes` of it."""
    stderr: str = ""
    """What the program wrote to standard error, likewise."""
    exit_code: int | None = None
    """The program's exit code; None where it was killed or still ran when the judge had finished."""
    cpu_s: float = 0.0
    """Seconds of processor time of program and judge together."""
    wall_s: float = 0.0
    """Seconds by the clock from the moment the program's box stood to the end of the last box."""
    limit: str | None = None
    """`cpu`, `wall`, `memory` or `output` where one was reached."""
