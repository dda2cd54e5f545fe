"""What hostile programs have in common: how one is written down, the test that none of them solves, and canaries."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ENTRY = "solve"
JUDGE = "assert candidate(3) == 9\nassert candidate(12) == 144\n"
"""The test: squares. No hostile program squares."""
HONEST = "def solve(n):\n    return n * n\n"
SECRET = "canary-5f3a91c7-secret"
"""Stands in a file, in the environment and in the memory of the process that owns the pool."""


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A program that tries something."""

    name: str
    attack: str
    """What it tries, in a few words."""
    source: str
    relies_on: str
    """What stops it: a protection, or several of which each is enough, joined by `or`."""


def programs() -> list[Hostile]:
    """Return the suite: the texts beside this file, and what cannot be written in one."""
    found = []
    for file in sorted(Path(__file__).parent.glob("hostile_*.txt")):
        for part in file.read_text(encoding="utf-8").split("=== ")[1:]:
            head, _, source = part.partition("\n")
            name, attack, relies_on = head.split(" | ")
            found.append(Hostile(name=name, attack=attack, source=source, relies_on=relies_on))
    for name, attack, source in _UNWRITTEN:
        found.append(Hostile(name=name, attack=attack, source=source, relies_on="two processes"))
    return found


_UNWRITTEN = (
    ("empty", "is empty", ""),
    ("null_bytes", "holds null characters", "def solve(n):\n    return 9\0\n"),
    ("half_characters", "holds half a character", "x = '\ud800'\ndef solve(n):\n    return x\n"),
    ("ten_megabytes", "is 10 MB of text", f"x = '{'a' * 10**7}'\ndef solve(n):\n    return x\n"),
    ("deep_source", "nests brackets until the compiler gives up", f"x = {'(' * 10**5}{')' * 10**5}\n"),
    ("long_source", "chains signs until the compiler overflows its stack", f"x = {'-' * 10**5}1\n"),
)
REACHED = "reached"
"""What programs print that got hold of something without a canary."""


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """What an escape would disturb."""

    folder: Path
    process: subprocess.Popen[bytes]
    tcp: socket.socket
    udp: socket.socket
    unix: socket.socket
    abstract: socket.socket
    signals: list[int]
    before: dict[str, tuple[int, int, bytes]]

    def filled(self, source: str) -> str:
        """Return a program with the canaries' addresses in it."""
        places = {
            "@FOLDER@": str(self.folder), "@PID@": str(self.process.pid), "@OWNER@": str(os.getpid()),
            "@TCP@": str(self.tcp.getsockname()[1]), "@UDP@": str(self.udp.getsockname()[1]),
            "@UNIX@": str(self.unix.getsockname()), "@ABSTRACT@": self.abstract.getsockname()[1:].decode(),
        }  # fmt: skip
        for place, value in places.items():
            source = source.replace(place, value)
        return source

    def harmed(self) -> list[str]:
        """Return what an escape has done, in words; nothing where none happened."""
        found = []
        if self.process.poll() is not None:
            found.append("the canary process is dead")
        for name in ("tcp", "udp", "unix", "abstract"):
            if _reached(getattr(self, name)):
                found.append(f"the {name} socket was reached")
        now = contents(self.folder)
        found += [f"{name} was changed" for name in sorted(now.keys() | self.before.keys())
                  if now.get(name) != self.before.get(name)]  # fmt: skip
        if Path("/dev/shm/forkpoint-canary").exists():
            found.append("shared memory was left")
        found += [f"the owner got signal {number}" for number in self.signals]
        return found


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return name -> mode, time of change and bytes of everything in a folder."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b""
        )
        for path in sorted(folder.rglob("*"))
    }  # fmt: skip


@contextlib.contextmanager
def canaries(folder: Path) -> Iterator[Canaries]:
    """Put up canaries under a folder; afterwards the folder, the sockets and the process are gone."""
    (folder / "secret.txt").write_text(SECRET)
    (folder / "keep.txt").write_text("unchanged")
    (folder / "keep.txt").chmod(0o666)
    folder.chmod(0o777)
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    udp.bind(("127.0.0.1", 0))
    unix.bind(str(folder / "s"))
    abstract.bind(f"\0forkpoint-canary-{os.getpid()}")
    for listening in (tcp, unix, abstract):
        listening.listen()
    for each in (tcp, udp, unix, abstract):
        each.setblocking(False)
    signals: list[int] = []
    watched = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
    old = {number: signal.signal(number, lambda number, _: signals.append(number)) for number in watched}
    os.environ["FORKPOINT_CANARY"] = SECRET
    # What it is started with is what others can read of its environment.
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    try:
        yield Canaries(
            folder=folder, process=process, tcp=tcp, udp=udp, unix=unix, abstract=abstract, signals=signals,
            before=contents(folder),
        )  # fmt: skip
    finally:
        del os.environ["FORKPOINT_CANARY"]
        for number, handler in old.items():
            signal.signal(number, handler)
        process.kill()
        process.wait()
        for each in (tcp, udp, unix, abstract):
            each.close()


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it, so that what outlives a pool shows in `children`."""
    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def children() -> set[int]:
    """Return the living children of this process, dead ones collected where they are orphans of others."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.add(int(stat.parent.name))
    return found


def left_behind(before: set[int], *, patience: float = 3.0) -> set[int]:
    """Return children that were not there before and do not end."""
    end = time.monotonic() + patience
    while (extra := children() - before) and time.monotonic() < end:
        time.sleep(0.02)
    return extra


def reach(canaries: Canaries) -> None:
    """Do what a program with a network would."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(canaries.unix.getsockname())


def _reached(listening: socket.socket) -> bool:
    try:
        if listening.type == socket.SOCK_DGRAM:
            listening.recv(1)
        else:
            listening.accept()[0].close()
    except BlockingIOError:
        return False
    return True
