"""A keeper process as the pool sees it: bytes in, bytes out, never longer than agreed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from forkpoint.sandbox.inside import folder

START_S = 60.0
"""Seconds a keeper may take to stand: a fraction of one here, more on a cold disk."""
GRACE_S = 30.0
"""Seconds past the wall limit after which the keeper counts as hung; it enforces that limit itself, from the moment
the program's box stands."""
_CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from inside import keeper; keeper.main()"
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    # The order of sets is the same in every run, and with it the verdict on a program that depends on it.
    "PYTHONHASHSEED": "0",
    # Threads' own heaps would use up the address space.
    "MALLOC_ARENA_MAX": "1",
    # The zygote's libraries must not start threads.
    "OMP_NUM_THREADS": "1",
}
_NEEDED = ("LD_LIBRARY_PATH",)
"""What an interpreter may not start without; boxes do not have it."""


class WorkerError(Exception):
    """The keeper died, hangs or cannot start."""


class Worker:
    """One keeper process, its zygote and their folder."""

    def __init__(self, layers: Sequence[str]) -> None:
        self.owner = os.getpid()
        self.base = tempfile.mkdtemp(prefix="forkpoint-sandbox-")
        # Boxes of another user pass through, and see nothing.
        os.chmod(self.base, 0o711)  # noqa: S103
        here = os.path.dirname(os.path.abspath(__file__))
        # -E is left out for the hash seed alone: the environment is ours.
        command = [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _CODE, here]
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own code, fixed arguments
                [*command, self.base, json.dumps(sorted(layers))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=_ENVIRONMENT | {name: os.environ[name] for name in _NEEDED if name in os.environ},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            folder.remove(self.base)
            raise WorkerError(f"a keeper cannot be started: {error.strerror or error}") from error
        assert self.process.stdin is not None  # noqa: S101 - for the types
        assert self.process.stdout is not None  # noqa: S101
        self.requests, self.replies = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.replies, False)
        try:
            self.hello = self._receive(time.monotonic() + START_S)
        except WorkerError:
            self.kill()
            raise
        if "failed" in self.hello:
            self.kill()
            raise WorkerError(self.hello["failed"])

    def exchange(self, request: dict[str, Any], wall_s: float) -> dict[str, Any]:
        """Run one trial.

        Raises:
            WorkerError: Where the keeper died or is late; it is of no use any more.
        """
        data = json.dumps(request).encode()
        due = time.monotonic() + wall_s + GRACE_S
        self._send(memoryview(struct.pack("!I", len(data)) + data), due)
        return self._receive(due)

    def _wait(self, descriptor: int, event: int, due: float) -> None:
        """Wait until the descriptor is ready."""
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, due - time.monotonic()) * 1000):
            raise WorkerError("the keeper hangs")

    def _send(self, data: memoryview, due: float) -> None:
        while data:
            self._wait(self.requests, select.POLLOUT, due)
            try:
                data = data[os.write(self.requests, data[: 1 << 16]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise WorkerError("the keeper died") from error

    def _receive(self, due: float) -> dict[str, Any]:
        (length,) = struct.unpack("!I", self._exactly(4, due))
        message: dict[str, Any] = json.loads(self._exactly(length, due))
        return message

    def _exactly(self, count: int, due: float) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            self._wait(self.replies, select.POLLIN, due)
            try:
                part = os.read(self.replies, count - len(parts))
            except BlockingIOError:
                continue
            if not part:
                raise WorkerError("the keeper died")
            parts += part
        return bytes(parts)

    def stop(self) -> None:
        """End an idle keeper and everything below it; when this returns, all of it is gone."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10.0)
        self.kill()

    def interrupt(self) -> None:
        """End a keeper by force while a thread may wait for it; the kernel ends its zygote and their boxes with it.

        The pipes stay open for that thread, which finds their other end closed: were they closed here, their numbers
        could be somebody else's before it looks again.
        """
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill(self) -> None:
        """End a keeper by force and let go of it."""
        self.interrupt()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        folder.remove(self.base)
