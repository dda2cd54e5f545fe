"""One box: from a fork of the zygote to a process that can do nothing but compute."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass
from typing import Any

from . import judge, kernel, landlock, program, root, seccomp, wire

STDOUT, STDERR, HEAR, TELL, RESULT, FEED = 1, 2, 3, 4, 5, 6
"""Descriptors of a box: pipes from and to the other box, verdict (the judge's alone), request and notes.

A pipe belongs to no network; a pair of sockets made outside would let a box ask about the network of its maker.
"""
_RULES = 7
_FIRST_FREE = 8
THREADS = 64
"""Threads a program may have; with namespaces counted by the kernel, else bounded by their stacks in memory."""
OPEN_FILES = 64
FILES_IN_FOLDER = 16
"""How many files of the largest size the folder holds."""
NOBODY = 65534
_STDERR = ("stderr", 2, "backslashreplace")
MACHINE = os.uname().machine


@dataclass(frozen=True, kw_only=True)
class Protection:
    """What the zygote has set up for its boxes."""

    layers: frozenset[str]
    """Of `namespaces`, `landlock`, `seccomp`, `user`."""
    rules: dict[str, int]
    """Landlock rules by kind of box."""
    folders: dict[str, str]
    """The folder by kind of box."""
    keep_length: bool
    """Whether the filter has to refuse what shortens files, for Landlock does not."""


def run(kind: str, limits: dict[str, Any], descriptors: list[int], protection: Protection) -> None:
    """Become the box `kind`; never returns.

    Nothing of the program or the judge has been in this process or in any it was forked from. What goes wrong
    before the first note (`up`) is the sandbox's failure, what comes after it the program's.
    """
    code = 70
    try:
        _place(descriptors, protection.rules.get(kind))
        request = _request()
        folder = protection.folders[kind]
        _enter(kind, limits, protection, folder, request.get("stdin", ""))
        _tidy(folder)
        _note("up")
        if kind == "judge":
            code = judge.run(request["source"], request["entry"], (HEAR, TELL), RESULT)
        else:
            code = program.run(request["source"], (HEAR, TELL) if request["serve"] else None, _note_and_close)
    except BaseException as error:  # whatever it is, this process must not go on as a zygote
        with contextlib.suppress(BaseException):
            _note(f"failed {type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _place(descriptors: list[int], rules: int | None) -> None:
    """Put the descriptors where a box expects them and close all others, the zygote's too."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    # In order: feed, stdout, stderr, hear, tell, result; -1 for none.
    wanted = dict(zip((FEED, STDOUT, STDERR, HEAR, TELL, RESULT), descriptors, strict=True))
    wanted[_RULES] = -1 if rules is None else rules
    high = {place: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 32) for place, fd in wanted.items() if fd >= 0}
    os.closerange(STDOUT, 32)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for place in (STDOUT, STDERR):
        os.dup2(nowhere, place)
    for place, fd in high.items():
        os.dup2(fd, place)
    for place in range(HEAR, _FIRST_FREE):
        if place not in high:
            with contextlib.suppress(OSError):
                os.close(place)
    os.closerange(_FIRST_FREE, max(1024, *(fd + 1 for fd in high.values())))


def _request() -> dict[str, Any]:
    """Read what the keeper sends this box."""
    length = int.from_bytes(wire.read_exactly(FEED, 4), "big")
    request: dict[str, Any] = json.loads(wire.read_exactly(FEED, length))
    return request


def _note(text: str) -> None:
    """Tell the keeper how far this box has come."""
    os.write(FEED, text.encode("utf-8", "replace")[:500] + b"\n")


def _note_and_close(text: str) -> None:
    """Send the last note; whoever runs after this has no way to send one."""
    _note(text)
    os.close(FEED)


def _enter(kind: str, limits: dict[str, Any], protection: Protection, folder: str, stdin: str) -> None:
    """Give up everything that is not needed, the filter of system calls last."""
    linux, layers = sys.platform == "linux", protection.layers
    if "namespaces" in layers:
        _own_folder(limits, folder)
    os.chdir(folder)
    _stdin(stdin)
    if "user" in layers:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if linux:
        # A change of user id would have undone these.
        kernel.die_with_parent()
        kernel.drop_capabilities()
        kernel.hide_memory()
        kernel.no_new_privileges()
    _limit(kind, limits, layers)
    if "landlock" in layers:
        landlock.restrict(_RULES)
        os.close(_RULES)
    if "seccomp" in layers:
        children = kind == "program" and limits["processes"] > 1
        own_root, keep = "namespaces" in layers, protection.keep_length
        wanted = seccomp.filter_of(MACHINE, pid=os.getpid(), children=children, own_root=own_root, keep_length=keep)
        seccomp.install(wanted)


def _own_folder(limits: dict[str, Any], folder: str) -> None:
    """Mount an empty folder in memory that vanishes with this process."""
    kernel.unshare(kernel.NEWNS | kernel.NEWIPC)
    size = max(FILES_IN_FOLDER * limits["file_bytes"], 4096)
    options = f"size={size},nr_inodes=1024,mode=777"
    kernel.mount("none", folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, options)


def _stdin(text: str) -> None:
    """Make descriptor 0 a file in memory that holds `text`."""
    data = text.encode("utf-8", "surrogatepass")
    if not data:
        source = os.open(os.devnull, os.O_RDONLY)
    elif hasattr(os, "memfd_create"):
        source = os.memfd_create("stdin")
    else:
        name = os.urandom(12).hex()
        source = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(name)
    if data:
        wire.write_all(source, data)
        os.lseek(source, 0, os.SEEK_SET)
    os.dup2(source, 0)
    os.close(source)


def _limit(kind: str, limits: dict[str, Any], layers: frozenset[str]) -> None:
    """Set what the kernel counts."""
    seconds = int(limits["cpu_s"]) + 2  # the zygote measures more finely; this holds if it should not
    wanted = {
        "RLIMIT_CPU": seconds,
        "RLIMIT_AS": limits["memory_bytes"],
        "RLIMIT_FSIZE": limits["file_bytes"],
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_NPROC": _processes(kind, limits["processes"], layers),
    }
    for name, value in wanted.items():
        if value is not None and hasattr(resource, name):
            # macOS knows some of these and refuses them.
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (value, value))


def _processes(kind: str, processes: int, layers: frozenset[str]) -> int | None:
    """Return the limit on processes and threads of this user, or None where it would count somebody else's."""
    most = THREADS if processes == 1 or kind == "judge" else processes
    if "namespaces" in layers:
        # The other box and, where all have one user id, the two processes of the zygote count as well.
        return most + 3
    if "user" in layers:
        return most + 4 * THREADS
    if "seccomp" in layers or processes > 1:
        return None
    # The user has processes already, so with this none can be started, nor a thread on Linux.
    return 1


def _tidy(folder: str) -> None:
    """Leave nothing of the sandbox's own modules, paths and environment for the program to trip over."""
    os.environ.clear()
    os.environ.update({"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "TZ": "UTC"})
    os.umask(0o022)
    own = os.path.dirname(os.path.dirname(os.path.abspath(root.__file__)))
    sys.path[:] = [path for path in sys.path if path != own]
    package = __name__.rpartition(".")[0]
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        del sys.modules[name]
    sys.path_importer_cache.pop(own, None)
    sys.argv[:] = ["program.py"]
    sys.executable = ""
    for name, descriptor, errors in (("stdin", 0, "surrogateescape"), ("stdout", 1, "surrogateescape"), _STDERR):
        stream = os.fdopen(descriptor, "w" if descriptor else "r", encoding="utf-8", errors=errors, closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
