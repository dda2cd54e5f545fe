"""The sandboxes a verifier of programs owns: opened when first needed, closed with it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from forkpoint.sandbox import Limits, Pool, protections


class Sandboxed:
    """What has a pool of sandboxes once it needs one; `close` it or use it in a `with` block."""

    def __init__(self, *, workers: int, limits: Limits) -> None:
        self._workers, self._limits = workers, limits
        self._pool: Pool | None = None

    def opened(self) -> Pool:
        """Return the pool, a new one where there is none."""
        if self._pool is None:
            self._pool = Pool(self._workers, self._limits)
        return self._pool

    def protections(self) -> str:
        """Return what stands between a program and this machine, in plain sentences."""
        return protections().statement()

    def close(self) -> None:
        """End the processes; a later call starts others."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
