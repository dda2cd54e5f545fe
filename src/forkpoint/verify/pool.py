"""A few worker processes with a hard deadline per item.

Algebra on what a model wrote can run for ever, inside C code that no thread or signal handler interrupts. So
the work happens in processes of their own; one that is late is killed and replaced. Processes are plain
`python -m forkpoint.verify.worker` children that speak JSON lines, so a script needs no main guard and
nothing is pickled. POSIX only (written for Linux and macOS, run on Linux).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from forkpoint.errors import InputError, TrainingError

START_SECONDS = 120.0
"""How long a worker may take to import its libraries: seconds here, much longer on a cold network disk."""
ALARM_SLACK = 10.0
"""Seconds past the deadline after which the kernel ends a worker whose parent is gone."""
MEMORY_BYTES = 4 << 30
"""Address space of one worker: sympy needs well under one GiB, runaway integers any amount."""
START_ATTEMPTS = 3
"""Starts in a row that may fail: an out-of-memory killer can take a worker before its first item."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one item."""

    value: Any = None
    """What the function returned."""
    failure: str = ""
    """Empty, or `deadline`, `died`, or the exception the function raised."""


@dataclass(kw_only=True)
class _Worker:
    """One child process and what is under way in it."""

    process: subprocess.Popen[bytes]
    due: float
    ready: bool = False
    item: int | None = None
    outgoing: bytearray = field(default_factory=bytearray)
    incoming: bytearray = field(default_factory=bytearray)


class VerifierPool:
    """Map a function over items in worker processes, each item under a hard deadline.

    Processes start with the first `map` and live until `close`, the end of the `with` block, or the end of
    the program. A worker that dies has its item tried once more in a fresh one, so an outside kill costs
    nothing.

    Args:
        function: A module-level function of one JSON-able item that returns a JSON-able value, or its name as
            `module:function`. Its module should not import torch.
        workers: How many processes.
        deadline: Seconds for one item, from the moment it is handed over.
        prepare: A module-level function without arguments that every worker runs once before its first item,
            outside the deadline (imports, warm-up), or its name.
        memory: Bytes of address space per worker.

    Raises:
        InputError: Where a function cannot be imported by name, or a number is not positive.

    >>> with VerifierPool("math:sqrt", workers=1) as pool:
    ...     [outcome.value for outcome in pool.map([4, 9])]
    [2.0, 3.0]
    """

    def __init__(
        self,
        function: Callable[[Any], Any] | str,
        *,
        workers: int = 2,
        deadline: float = 5.0,
        prepare: Callable[[], Any] | str | None = None,
        memory: int = MEMORY_BYTES,
    ) -> None:
        if workers < 1 or deadline <= 0:
            raise InputError(f"a verifier pool needs workers >= 1 and deadline > 0, not {workers} and {deadline}")
        self._arguments = [
            _name(function),
            "" if prepare is None else _name(prepare),
            str(deadline + ALARM_SLACK),
            str(memory),
        ]
        self._size, self._deadline = workers, deadline
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._lock = threading.Lock()
        # Runs at the end of the program as well, and holds no reference to the pool itself.
        self._finalizer = weakref.finalize(self, _stop, self._workers)

    def map(self, items: Sequence[Any]) -> list[Outcome]:
        """Return the outcome of every item, in order.

        Args:
            items: JSON-able values.

        Returns:
            One `Outcome` an item. Never raises because of an item.

        Raises:
            TrainingError: Where workers cannot be started.
        """
        with self._lock:
            outcomes: list[Outcome | None] = [None] * len(items)
            waiting, tries = deque(range(len(items))), [0] * len(items)
            try:
                while waiting or any(worker.item is not None for worker in self._workers):
                    self._assign(items, waiting)
                    for worker in self._poll():
                        self._advance(worker, outcomes, waiting, tries)
            finally:
                # Only after an interruption: an answer still under way must not meet the next call.
                self._remove([worker for worker in self._workers if worker.item is not None])
            return [outcome or Outcome(failure="died") for outcome in outcomes]

    def close(self) -> None:
        """End all processes; a later `map` starts new ones."""
        with self._lock:
            _stop(self._workers)

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _assign(self, items: Sequence[Any], waiting: deque[int]) -> None:
        """Start the workers that are worth starting and hand an item to every free one."""
        self._remove([w for w in self._workers if w.item is None and w.process.poll() is not None and w.ready])
        free = sum(worker.item is None for worker in self._workers)
        for _ in range(min(self._size - len(self._workers), len(waiting) - free)):
            self._workers.append(_start(self._arguments))
        for worker in self._workers:
            if waiting and worker.ready and worker.item is None:
                worker.item = waiting.popleft()
                worker.outgoing += json.dumps(items[worker.item]).encode() + b"\n"
                worker.due = time.monotonic() + self._deadline

    def _poll(self) -> list[_Worker]:
        """Wait until a worker can be read or written, or is late; move the bytes; return busy workers."""
        active = [worker for worker in self._workers if worker.item is not None or not worker.ready]
        with selectors.PollSelector() as selector:
            for worker in active:
                selector.register(_fd(worker.process.stdout), selectors.EVENT_READ, worker)
                if worker.outgoing:
                    selector.register(_fd(worker.process.stdin), selectors.EVENT_WRITE, worker)
            first = min((worker.due for worker in active), default=0.0)
            for key, event in selector.select(max(0.0, first - time.monotonic())):
                worker = key.data
                if event & selectors.EVENT_WRITE:
                    # A broken pipe is a death, and the read end reports it as one.
                    with contextlib.suppress(BrokenPipeError):
                        del worker.outgoing[: os.write(key.fd, worker.outgoing[:65536])]
                else:
                    data = os.read(key.fd, 1 << 20)
                    worker.incoming += data
                    # An empty read is the end of the file; a line can no longer arrive.
                    worker.due = worker.due if data else -1.0
        return active

    def _advance(self, worker: _Worker, outcomes: list[Outcome | None], waiting: deque[int], tries: list[int]) -> None:
        """Take a finished line, a death or a missed deadline into account."""
        if worker.incoming.endswith(b"\n"):
            reply, worker.incoming = json.loads(worker.incoming), bytearray()
            if "failed" in reply:
                self._remove([worker])
                raise TrainingError(
                    f"a verifier worker cannot start: {reply['failed']}; `forkpoint env` lists what is installed"
                )
            if worker.item is not None:
                outcomes[worker.item] = Outcome(value=reply.get("value"), failure=reply.get("error", ""))
                worker.item = None
            worker.ready, self._failed_starts = True, 0
        elif worker.due < time.monotonic():
            item, worker.item = worker.item, None
            dead = worker.due < 0
            self._remove([worker])
            if item is None:
                self._failed_starts += 1
                if self._failed_starts >= START_ATTEMPTS:
                    raise TrainingError(
                        f"a verifier worker ended {START_ATTEMPTS} times before it was ready "
                        f"(exit status {worker.process.returncode}); is there enough free memory?"
                    )
            elif dead and not tries[item]:
                tries[item] = 1
                waiting.append(item)
            else:
                outcomes[item] = Outcome(failure="died" if dead else "deadline")
                # Its successor imports while the others work, so that no later item waits for it.
                self._workers.append(_start(self._arguments))

    def _remove(self, workers: list[_Worker]) -> None:
        """Kill workers and forget them."""
        for worker in workers:
            _kill(worker)
            self._workers.remove(worker)


def _name(function: Callable[..., Any] | str) -> str:
    """Return `module:function`, which a fresh process can import."""
    if isinstance(function, str):
        return function
    module, name = getattr(function, "__module__", "__main__"), getattr(function, "__qualname__", "<lambda>")
    if module == "__main__" or not name.isidentifier():
        raise InputError(
            f"a verifier pool cannot use {module}.{name}: its processes import the function by name, "
            "so it must stand at the top level of an importable module"
        )
    return f"{module}:{name}"


def _fd(stream: Any) -> int:
    return int(stream.fileno())


def _start(arguments: list[str]) -> _Worker:
    """Start one worker process."""
    # The child sees the modules the parent sees, however those came into the path.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(  # noqa: S603 - our own module, fixed arguments
            [sys.executable, "-P", "-m", "forkpoint.verify.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            # Ctrl-C in the terminal is for the parent, which then closes the pool.
            start_new_session=True,
        )
    except OSError as error:
        raise TrainingError(f"a verifier worker cannot be started: {error.strerror or error}") from error
    os.set_blocking(_fd(process.stdin), False)
    return _Worker(process=process, due=time.monotonic() + START_SECONDS)


def _kill(worker: _Worker) -> None:
    """End a worker now, with everything it may have started, and collect it."""
    if worker.process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    for stream in (worker.process.stdin, worker.process.stdout):
        if stream is not None:
            stream.close()


def _stop(workers: list[_Worker]) -> None:
    """End all workers: idle ones by closing their input, the others by force."""
    for worker in workers:
        if worker.process.stdin is not None:
            worker.process.stdin.close()
    for worker in workers:
        if worker.ready and worker.item is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=1.0)
        _kill(worker)
    workers.clear()
