"""A pool of keepers that runs trials and never raises or hangs because of one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from forkpoint.errors import InputError
from forkpoint.sandbox.inside.watch import BROKEN
from forkpoint.sandbox.inside.zygote import LAYERS
from forkpoint.sandbox.protections import PROTECTIONS, protections
from forkpoint.sandbox.trial import Limits, Outcome, Trial
from forkpoint.sandbox.worker import Worker, WorkerError

LONGEST_PROGRAM = 1 << 20
"""Characters of a program; no answer of a model is longer, and compiling one takes minutes."""
LONGEST_TRUSTED = 64 << 20
"""Characters of a judge or a standard input."""
TRIES = 2
"""Runs of a trial whose keeper died: an outside kill costs nothing, a trial that kills keepers costs two."""
AHEAD = 16
"""Trials `map` takes from its iterable ahead of the one it yields next, per worker."""


class Pool:
    """Run trials in sandboxed processes, `workers` at a time.

    Keepers start with the first trial and live until `close`, the end of the `with` block, or the end of the
    program. One that dies is replaced. All methods may be called from several threads.

    Args:
        workers: How many trials run at the same time.
        limits: What each box may use.
        require: Protections without which nothing is run, of `network`, `write`, `read`, `files` (both),
            `processes`, `signals`, `cleanup`, `memory`.
        layers: Mechanisms to use where the machine has them, of `namespaces`, `landlock`, `seccomp`, `user`;
            None: all.

    Raises:
        InputError: Where an argument is wrong or a required protection is missing on this machine.

    >>> with Pool(workers=1) as pool:
    ...     pool.run(Trial(program="def f(x): return x + 1", judge="assert candidate(1) == 2", entry="f")).reason
    'passed'
    """

    def __init__(
        self,
        workers: int = 2,
        limits: Limits | None = None,
        require: Sequence[str] = (),
        layers: Sequence[str] | None = None,
    ) -> None:
        if workers < 1:
            raise InputError(f"a sandbox pool needs workers >= 1, not {workers}")
        self.limits = limits or Limits()
        self._layers = tuple(LAYERS if layers is None else layers)
        for name in self._layers:
            if name not in LAYERS:
                raise InputError(f"no sandbox layer {name!r}; there are {', '.join(LAYERS)}")
        _check_required(require, self._layers)
        self._size = workers
        self._free = threading.Semaphore(workers)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._all: list[Worker] = []
        self._generation = 0
        # Runs at the end of the program as well, and holds no reference to the pool itself.
        self._finalizer = weakref.finalize(self, _stop, self._all)

    def run(self, trial: Trial) -> Outcome:
        """Return what became of one trial. Never raises because of it."""
        refusal = _refusal(trial)
        if refusal is not None:
            return refusal
        request = {**dataclasses.asdict(trial), "limits": dataclasses.asdict(self.limits)}
        with self._free:
            why = ""
            generation = self._generation
            for _ in range(TRIES):
                if self._generation != generation:
                    return Outcome(passed=False, ran=False, reason="sandbox failed: the pool was closed")
                worker = None
                try:
                    worker = self._take()
                    reply = worker.exchange(request, self.limits.wall_s)
                    if reply["ran"] or reply["reason"].startswith(BROKEN):
                        self._give(worker, generation)
                        return Outcome(**reply)
                    # Whatever is wrong with this keeper, a fresh one may not have it.
                    self._drop(worker)
                    why = reply["reason"]
                except WorkerError as error:
                    why = f"sandbox failed: {error}"
                    if worker is not None:
                        self._drop(worker)
                except BaseException:
                    # An interruption: what the keeper answers later must not meet the next trial.
                    if worker is not None:
                        self._drop(worker)
                    raise
            return Outcome(passed=False, ran=False, reason=why)

    def map(self, trials: Iterable[Trial]) -> Iterator[Outcome]:
        """Yield the outcome of every trial, in order, as soon as it and all before it are known.

        At most `AHEAD` trials per worker are taken ahead of what has been yielded.
        """
        source, window = iter(trials), deque[Future[Outcome]]()
        threads = ThreadPoolExecutor(max_workers=self._size, thread_name_prefix="sandbox")
        try:
            for trial in source:
                window.append(threads.submit(self.run, trial))
                if len(window) >= AHEAD * self._size:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End all processes; a trial under way comes back as not run, a later one starts new processes."""
        with self._lock:
            self._generation += 1
            workers, idle = list(self._all), list(self._idle)
            self._all.clear()
            self._idle.clear()
        for worker in workers:
            # Whoever waits for a busy one lets go of it.
            (worker.stop if worker in idle else worker.interrupt)()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> Worker:
        """Return an idle keeper that lives, or a new one."""
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                worker = Worker(self._layers)
                with self._lock:
                    self._all.append(worker)
                return worker
            if worker.process.poll() is None:
                return worker
            self._drop(worker)

    def _give(self, worker: Worker, generation: int) -> None:
        """Put a keeper back, unless the pool was closed meanwhile."""
        with self._lock:
            if self._generation == generation:
                self._idle.append(worker)
                return
        self._drop(worker)

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            if worker in self._all:
                self._all.remove(worker)
        worker.kill()


def _check_required(require: Sequence[str], layers: tuple[str, ...]) -> None:
    """Refuse where the machine lacks what is asked for."""
    names = [part for name in require for part in (("write", "read") if name == "files" else (name,))]
    for name in names:
        if name not in PROTECTIONS:
            raise InputError(f"no sandbox protection {name!r}; there are files, {', '.join(PROTECTIONS)}")
    if not names:
        return
    found = protections(layers)
    for name in names:
        if name not in found.active:
            why = "; ".join(f"{layer}: {reason}" for layer, reason in found.missing.items())
            raise InputError(f"the sandbox cannot protect {name!r} on this machine ({why}); allow it or leave it out")


def _refusal(trial: Trial) -> Outcome | None:
    """Return the outcome of a trial that is not worth a process."""
    if len(trial.program) > LONGEST_PROGRAM:
        return Outcome(
            passed=False, reason=f"the program has {len(trial.program)} characters, more than {LONGEST_PROGRAM}"
        )
    if len(trial.judge or "") > LONGEST_TRUSTED or len(trial.stdin) > LONGEST_TRUSTED:
        return Outcome(
            passed=False,
            ran=False,
            reason=f"sandbox failed: a judge or a standard input of more than {LONGEST_TRUSTED} characters",
        )
    return None


def _stop(workers: list[Worker]) -> None:
    for worker in list(workers):
        # A forked copy of this process has no say over its parent's keepers.
        if worker.owner == os.getpid():
            with contextlib.suppress(Exception):
                worker.kill()
    workers.clear()
