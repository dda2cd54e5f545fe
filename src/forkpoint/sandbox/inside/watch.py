"""One trial as the keeper sees it: two boxes, their pipes, a clock, and what it all amounts to."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

START_S = 10.0
"""Seconds a box may take to stand, on a machine with other work; its wall limit counts from then on."""
END_S = 5.0
"""Seconds killed boxes may take to end before the keeper gives up on its zygote."""
BROKEN = "the tests "
"""How the reason of a trial begins that no other try could save."""
_VERDICT_BYTES = 1 << 16


class KeeperError(Exception):
    """The sandbox itself does not work; the keeper ends, and the pool starts another."""


@dataclass(kw_only=True)
class Kept:
    """The zygote as the keeper sees it."""

    pid: int
    socket: socket.socket
    layers: frozenset[str] = frozenset()
    incoming: bytearray = field(default_factory=bytearray)

    def messages(self) -> list[dict[str, Any]]:
        """Return what the zygote has said, waiting for something if need be."""
        data = self.socket.recv(65536)
        if not data:
            raise KeeperError("the zygote ended")
        self.incoming += data
        *lines, rest = bytes(self.incoming).split(b"\n")
        self.incoming = bytearray(rest)
        return [json.loads(line) for line in lines]


class _Box:
    """What the keeper knows of one box."""

    def __init__(self, number: int, feed: socket.socket, request: dict[str, Any]) -> None:
        self.number, self.feed = number, feed
        data = json.dumps(request).encode()
        self.outgoing = memoryview(struct.pack("!I", len(data)) + data)
        self.notes = bytearray()
        self.ended: dict[str, Any] | None = None


class Watch:
    """One trial from request to outcome."""

    def __init__(self, request: dict[str, Any], kept: Kept, requests: int) -> None:
        self.request, self.kept, self.requests = request, kept, requests
        self.limits = request["limits"]
        self.boxes: dict[str, _Box] = {}
        self.texts: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray(), "verdict": bytearray()}
        self.pipes: dict[int, str] = {}
        self.limit: str | None = None
        self.began = self.due = time.monotonic()
        self.stands = False

    def outcome(self) -> dict[str, Any]:
        """Run the trial and return the fields of its outcome.

        Raises:
            KeeperError: Where the zygote is gone or boxes do not end.
            EOFError: Where the pool is gone.
        """
        try:
            try:
                self._start()
            except _RefusedError as error:
                self._end()
                return self._result(passed=False, ran=False, reason=f"sandbox failed: {error}")
            self.due = time.monotonic() + START_S
            self._watch()
            self._end()
            self._drain()
            return self._judged()
        finally:
            for descriptor in self.pipes:
                os.close(descriptor)
            for box in self.boxes.values():
                box.feed.close()

    def _start(self) -> None:
        """Fork the boxes and give each the descriptors it needs."""
        judge = self.request["judge"]
        out, err = self._pipe("stdout"), self._pipe("stderr")
        if judge is None:
            self._fork("program", (out, err), {"serve": False}, "111000")
            return
        verdict = self._pipe("verdict")
        (program_hears, judge_tells), (judge_hears, program_tells) = os.pipe(), os.pipe()
        try:
            self._fork("program", (out, err, program_hears, program_tells), {"serve": True}, "111110")
        except BaseException:
            for descriptor in (judge_hears, judge_tells, verdict):
                os.close(descriptor)
            raise
        self._fork("judge", (judge_hears, judge_tells, verdict), {"entry": self.request["entry"]}, "100111")

    def _pipe(self, name: str) -> int:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self.pipes[reader] = name
        return writer

    def _fork(self, kind: str, descriptors: tuple[int, ...], request: dict[str, Any], wanted: str) -> None:
        """Have the zygote fork one box; the descriptors, which are its alone, are closed here."""
        feed, its = socket.socketpair()
        order = {"box": kind, "limits": self.limits, "descriptors": [letter == "1" for letter in wanted]}
        try:
            socket.send_fds(self.kept.socket, [json.dumps(order).encode() + b"\n"], [its.fileno(), *descriptors])
        finally:
            its.close()
            for descriptor in descriptors:
                os.close(descriptor)
        while True:
            for message in self.kept.messages():
                if "forked" in message or "refused" in message:
                    break
                self._ended(message)
            else:
                continue
            break
        if "refused" in message:
            feed.close()
            raise _RefusedError(message["refused"])
        feed.setblocking(False)
        source = self.request["program" if kind == "program" else "judge"]
        stdin = self.request["stdin"] if kind == "program" else ""
        self.boxes[kind] = _Box(message["forked"], feed, {"source": source, "stdin": stdin, **request})

    def _ended(self, message: dict[str, Any]) -> None:
        """Note that a box has ended; one that was no part of this trial is nobody's."""
        for box in self.boxes.values():
            if box.number == message.get("ended"):
                box.ended = message

    def _watch(self) -> None:
        """Move bytes until the deciding box has ended or a limit is reached."""
        deciding = self.boxes.get("judge", self.boxes["program"])
        while deciding.ended is None and self.limit is None:
            left = self.due - time.monotonic()
            if left <= 0:
                self.limit = "wall"
                return
            self._step(left)

    def _step(self, patience: float) -> None:
        """Wait for something to happen and take it into account."""
        poll = select.poll()
        poll.register(self.requests, 0)  # only its end, which poll reports unasked
        poll.register(self.kept.socket, select.POLLIN)
        for descriptor in self.pipes:
            poll.register(descriptor, select.POLLIN)
        feeds = {box.feed.fileno(): box for box in self.boxes.values() if box.feed.fileno() >= 0}
        for descriptor, box in feeds.items():
            poll.register(descriptor, select.POLLIN | (select.POLLOUT if box.outgoing else 0))
        for descriptor, event in poll.poll(max(1, int(patience * 1000))):
            if descriptor == self.requests:
                raise EOFError
            if descriptor in feeds:
                self._feed(feeds[descriptor], event)
            elif descriptor in self.pipes:
                self._read(descriptor)
            else:
                for message in self.kept.messages():
                    self._ended(message)

    def _feed(self, box: _Box, event: int) -> None:
        """Send a box its request, take its notes."""
        try:
            if event & select.POLLOUT:
                box.outgoing = box.outgoing[box.feed.send(box.outgoing[: 1 << 18]) :]
            if event & ~select.POLLOUT:
                data = box.feed.recv(4096)
                box.notes += data
                self._clock(box)
                if not data or len(box.notes) > 4096:
                    box.feed.close()
        except BlockingIOError:
            pass
        except OSError:
            box.feed.close()

    def _clock(self, box: _Box) -> None:
        """Start the clock when the program's box says that it stands."""
        if box is self.boxes["program"] and not self.stands and b"\n" in box.notes:
            self.stands, self.began = True, time.monotonic()
            self.due = self.began + self.limits["wall_s"]

    def _read(self, descriptor: int) -> None:
        """Take output; the byte beyond the limit ends the trial."""
        name = self.pipes[descriptor]
        most = _VERDICT_BYTES if name == "verdict" else self.limits["output_bytes"]
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            del self.pipes[descriptor]
            os.close(descriptor)
            return
        text = self.texts[name]
        text += data
        if len(text) > most:
            del text[most:]
            self.limit = self.limit or "output"

    def _end(self) -> None:
        """Kill what still runs and wait until it is gone."""
        for box in self.boxes.values():
            if box.ended is None:
                self.kept.socket.sendall(json.dumps({"kill": box.number}).encode() + b"\n")
        give_up = time.monotonic() + END_S
        while any(box.ended is None for box in self.boxes.values()):
            if time.monotonic() > give_up:
                raise KeeperError("killed boxes do not end")
            self._step(0.5)

    def _drain(self) -> None:
        """Read what the boxes had written before they ended."""
        for descriptor in list(self.pipes):
            while descriptor in self.pipes and self.limit != "output":
                before = len(self.texts[self.pipes[descriptor]])
                self._read(descriptor)
                if descriptor in self.pipes and len(self.texts[self.pipes[descriptor]]) == before:
                    break
        for box in self.boxes.values():
            if box.feed.fileno() >= 0:
                with contextlib.suppress(OSError):
                    box.notes += box.feed.recv(4096)

    def _judged(self) -> dict[str, Any]:
        """Weigh limits, ends, notes and the verdict."""
        verdict = self._said()
        if verdict is not None and verdict.get("broken"):
            # Before anything else: this judge may have ended before the program's box stood.
            return self._result(passed=False, ran=False, reason=verdict["reason"])
        for kind, box in self.boxes.items():
            notes = box.notes.decode("utf-8", "replace").splitlines()
            # A flood of output ends the trial before the judge stands: that is the program's doing.
            if notes[:1] != ["up"] and not (kind == "judge" and self.limit is not None):
                why = notes[0].removeprefix("failed ") if notes else "a box did not start"
                return self._result(passed=False, ran=False, reason=f"sandbox failed: {why}")
            if kind == "program":
                compiled = notes[1] if len(notes) > 1 else ""
        over = [kind for kind, box in self.boxes.items() if box.ended and box.ended["over"]]
        if over and self.limit is None:
            self.limit = "cpu"
        if self.limit is not None:
            return self._result(passed=False, reason=f"{self.limit} limit")
        if compiled not in ("ready", ""):
            return self._result(passed=False, reason=compiled)
        return self._verdict(verdict) if "judge" in self.boxes else self._exit()

    def _exit(self) -> dict[str, Any]:
        """Judge a script by how it ended."""
        ended = self.boxes["program"].ended
        code = ended["code"] if ended else -1
        if code == 0:
            return self._result(passed=True, reason="passed")
        last = self.texts["stderr"].decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
        if code > 0 and last.startswith("MemoryError"):
            self.limit = "memory"
            return self._result(passed=False, reason="memory limit")
        how = f"exited with code {code}" if code >= 0 else f"exited by {_signal(-code)}"
        return self._result(passed=False, reason=f"{how}: {last}" if last and code >= 0 else how)

    def _said(self) -> dict[str, Any] | None:
        """Return what the judge wrote, where it came to that; only its own end can have written it."""
        try:
            verdict: dict[str, Any] = json.loads(bytes(self.texts["verdict"]))
        except ValueError:
            return None
        return verdict

    def _verdict(self, verdict: dict[str, Any] | None) -> dict[str, Any]:
        """Judge by what the judge wrote."""
        if verdict is None:
            ended = self.boxes["judge"].ended
            code = ended["code"] if ended else -1
            if code == -signal.SIGKILL and self.kept.layers & {"namespaces", "seccomp"}:
                # By nobody in here: the program can signal itself alone. A machine without memory does so.
                return self._result(passed=False, ran=False, reason="sandbox failed: the judge was killed from outside")
            how = f"code {code}" if code >= 0 else _signal(-code)
            return self._result(passed=False, reason=f"the judge exited ({how})")
        if verdict.get("memory"):
            self.limit = "memory"
        reason, code = verdict["reason"], (self.boxes["program"].ended or {}).get("code")
        if reason == "exited" and code is not None and code != -signal.SIGKILL:
            reason = f"exited with code {code}" if code >= 0 else f"exited by {_signal(-code)}"
        return self._result(passed=verdict["passed"], reason=reason)

    def _result(self, *, passed: bool, reason: str, ran: bool = True) -> dict[str, Any]:
        """Return the fields of an outcome."""
        ends = {kind: box.ended for kind, box in self.boxes.items() if box.ended is not None}
        # A program that serves ends when the judge does, sooner or later: its code means something in "exited" only.
        means = "program" in ends and ("judge" not in ends or reason.startswith("exited"))
        code = ends["program"]["code"] if means else None
        return {
            "passed": passed,
            "reason": reason,
            "ran": ran,
            "stdout": self.texts["stdout"].decode("utf-8", "replace"),
            "stderr": self.texts["stderr"].decode("utf-8", "replace"),
            "exit_code": code if code is not None and code >= 0 else None,
            "cpu_s": sum(end["cpu"] for end in ends.values()),
            "wall_s": time.monotonic() - self.began,
            "limit": self.limit,
        }


class _RefusedError(Exception):
    """The zygote could not fork."""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
