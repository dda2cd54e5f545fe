"""The process boxes are forked from. It has never held a program, a judge or a verdict, and never will.

It gets orders to fork and the descriptors of the new box; the box reads its own request. It counts the boxes'
processor time, kills on order and reports ends. When its socket closes it ends, and all boxes with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import site
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from . import box, folder, kernel, landlock, root, seccomp

LAYERS = ("namespaces", "landlock", "seccomp", "user")
KINDS = ("program", "judge")
_PRELOADED = (
    "bisect collections collections.abc copy dataclasses datetime decimal enum fractions functools heapq io itertools "
    "json math operator random re statistics string struct textwrap threading time traceback typing unittest"
)
"""What programs import most: imported once here, not in every box."""


@dataclass(kw_only=True)
class _Child:
    """A box that runs."""

    number: int
    cpu_s: float
    home: str | None
    over: bool = False


def start(command: socket.socket, base: str, layers: set[str], missing: dict[str, str]) -> None:
    """Set the layers up, say which stand, and serve. Never returns.

    Args:
        command: Socket of the keeper.
        base: Folder for the boxes where they have no file system of their own.
        layers: What to set up.
        missing: Why the others are not.
    """
    try:
        for name in _PRELOADED.split():
            __import__(name)
        # `exit`, `quit` and the like, which an interpreter without installed packages leaves out.
        for put in (site.setquit, site.setcopyright, site.sethelper):
            put()
        here = -1
        if "namespaces" in layers:
            here = _enter_namespaces(command)
        protection = _protection(base, layers, missing)
        gc.collect()
        gc.freeze()
        _tell(command, {"ready": sorted(protection.layers), "missing": missing})
        _Zygote(command, protection, here).serve()
    except (kernel.KernelError, OSError) as error:
        with contextlib.suppress(OSError):
            _tell(command, {"failed": str(error)})
    finally:
        os._exit(0)


def _enter_namespaces(command: socket.socket) -> int:
    """Go into new namespaces and a root of one's own; return a descriptor of the pid namespace.

    The caller goes on as the first process of the pid namespace: its end is the end of everything in there.
    """
    flags = kernel.NEWNS | kernel.NEWPID | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS
    uid, gid = os.getuid(), os.getgid()
    try:
        kernel.unshare(flags | kernel.NEWUSER)
    except kernel.KernelError:
        if uid != 0:
            raise
        kernel.unshare(flags)
    else:
        # Two users only a process outside may map, and only where it has the right.
        if uid == 0:
            _tell(command, {"map": os.getpid()})
        if uid != 0 or command.recv(1) != b"1":
            for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
    first = os.fork()
    if first:
        command.close()
        kernel.die_with_parent()
        os.waitpid(first, 0)
        os._exit(0)
    kernel.die_with_parent()
    kernel.name_host(b"sandbox")
    here = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    root.build(KINDS)
    return here


def _protection(base: str, layers: set[str], missing: dict[str, str]) -> box.Protection:
    """Prepare the other layers; what cannot be had goes from `layers` to `missing`."""
    own_root = "namespaces" in layers
    parents = {kind: f"{root.FOLDERS if own_root else base}/{kind}" for kind in KINDS}
    for parent in parents.values() if not own_root else ():
        os.mkdir(parent, 0o711)
    if "user" in layers and (why := _no_user()):
        layers.discard("user")
        missing["user"] = why
    rules: dict[str, int] = {}
    keep_length = False
    if "landlock" in layers:
        try:
            keep_length = not own_root and landlock.version() < landlock.COVERS_TRUNCATION
            for kind, parent in parents.items():
                # On the parent, so that the rules hold for what is mounted or made inside for each trial.
                rules[kind] = landlock.ruleset(
                    (*root.visible(), *root.DEVICES), (parent, *root.DEVICES[:2]), root.hidden()
                )
        except kernel.KernelError as error:
            layers.discard("landlock")
            missing["landlock"] = str(error)
    if "seccomp" in layers and (why := seccomp.available(keep_length)):
        layers.discard("seccomp")
        missing["seccomp"] = why
    folders = {kind: f"{parent}/home" for kind, parent in parents.items()}
    return box.Protection(layers=frozenset(layers), rules=rules, folders=folders, keep_length=keep_length)


def _no_user() -> str:
    """Return an empty text where boxes can run as nobody, else why not."""
    if os.getuid() != 0:
        return "boxes keep your user id, without any capability: only root can give them another"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(box.NOBODY, box.NOBODY, box.NOBODY)
            os.setresuid(box.NOBODY, box.NOBODY, box.NOBODY)
            with open(os.__file__, "rb") as file:
                file.read(1)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return "" if status == 0 else "the standard library cannot be read as another user, or no other user is mapped"


class _Zygote:
    """The loop that forks, counts, kills and reports."""

    def __init__(self, command: socket.socket, protection: box.Protection, here: int) -> None:
        self.command, self.protection, self.here = command, protection, here
        self.children: dict[int, _Child] = {}
        self.serial = 0
        self.isolated = "namespaces" in protection.layers
        if sys.platform == "linux":
            kernel.hide_memory()
            kernel.adopt_orphans()

    def serve(self) -> None:
        """Obey until the keeper closes."""
        wake, signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        poll = select.poll()
        poll.register(self.command, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._patience())}
            if wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
            if self.command.fileno() in ready and not self._obey():
                break
            self._count()
            self._reap()
        for pid in self.children:
            self._kill(pid)
        while self.children:
            time.sleep(0.001)
            self._reap(quiet=True)

    def _patience(self) -> int | None:
        """Return milliseconds until a box could have used up its processor time on two cores."""
        if not self.children:
            return None
        left = min(child.cpu_s - _used(pid) for pid, child in self.children.items())
        return int(min(max(left / 2, 0.01), 0.5) * 1000)

    def _obey(self) -> bool:
        """Carry out one order; return False at the end of them."""
        data, descriptors, _, _ = socket.recv_fds(self.command, 65536, 8)
        for line in data.splitlines():
            order = json.loads(line)
            if "kill" in order:
                for pid, child in self.children.items():
                    if child.number == order["kill"]:
                        self._kill(pid)
            else:
                try:
                    self._fork(order, list(descriptors))
                except (kernel.KernelError, OSError) as error:
                    _tell(self.command, {"refused": str(error)})
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
        return bool(data)

    def _fork(self, order: dict[str, Any], descriptors: list[int]) -> None:
        """Fork one box and say its number."""
        kind, limits = order["box"], order["limits"]
        arrived = iter(descriptors)
        placed = [next(arrived) if wanted else -1 for wanted in order["descriptors"]]
        home = None if self.isolated else self.protection.folders[kind]
        if home is not None:
            folder.remove(home)
            os.mkdir(home, 0o700)
            if "user" in self.protection.layers:
                os.chown(home, box.NOBODY, box.NOBODY)
        if self.isolated:
            kernel.unshare(kernel.NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                box.run(kind, limits, placed, self.protection)
        finally:
            if self.isolated:
                kernel.rejoin(self.here, kernel.NEWPID)
        self.serial += 1
        self.children[pid] = _Child(number=self.serial, cpu_s=limits["cpu_s"], home=home)
        _tell(self.command, {"forked": self.serial})

    def _count(self) -> None:
        """Kill the boxes that have used up their processor time."""
        for pid, child in self.children.items():
            if not child.over and _used(pid) >= child.cpu_s:
                child.over = True
                self._kill(pid)

    def _kill(self, pid: int) -> None:
        """End a box; not yet reaped, so its id is its own."""
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        if not self.isolated:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)

    def _reap(self, quiet: bool = False) -> None:
        """Collect what has ended, end what it left behind, and report."""
        for pid in list(self.children):
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if not done:
                continue
            child = self.children.pop(pid)
            if not self.isolated:
                self._sweep(pid)
            code = os.waitstatus_to_exitcode(status)
            used = usage.ru_utime + usage.ru_stime
            if not quiet:
                over = child.over or used >= child.cpu_s
                with contextlib.suppress(OSError):
                    _tell(self.command, {"ended": child.number, "code": code, "cpu": used, "over": over})
            # After the report: nobody waits for it but the next box.
            if child.home is not None:
                folder.remove(child.home)

    def _sweep(self, pid: int) -> None:
        """Kill what a box has started and left, in whatever session, until nothing is left."""
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        for _ in range(10_000):
            strays = [stray for stray in _descendants() if stray not in self.children]
            if not strays:
                return
            for stray in strays:
                with contextlib.suppress(OSError):
                    os.kill(stray, signal.SIGKILL)
            for stray in strays:
                with contextlib.suppress(OSError):
                    os.waitpid(stray, os.WNOHANG)


def _descendants() -> list[int]:
    """Return the children of this process, adopted ones among them, where the system lists them."""
    try:
        with open("/proc/thread-self/children") as file:
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return []


def _used(pid: int) -> float:
    """Return seconds of processor time of a process, all threads together, where the system tells."""
    if sys.platform != "linux":
        return 0.0
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _tell(command: socket.socket, message: dict[str, Any]) -> None:
    command.sendall(json.dumps(message).encode() + b"\n")
