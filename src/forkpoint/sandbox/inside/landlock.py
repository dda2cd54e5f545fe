"""Landlock: which files a box may reach, without any right of its own and without namespaces."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterable

from .kernel import KernelError, syscall

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ON_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
COVERS_TRUNCATION = 3
"""Version from which on a file that may only be read cannot be shortened."""
_TCP = 3
_SCOPES = 3  # abstract unix sockets, signals


def version() -> int:
    """Return the version of Landlock this kernel has.

    Raises:
        KernelError: Where it has none.
    """
    return syscall("landlock", _CREATE, None, 0, 1)


def ruleset(readable: Iterable[str], writable: Iterable[str], hidden: frozenset[str]) -> int:
    """Return a descriptor of rules that allow these paths and nothing else, TCP and outside signals neither.

    Args:
        readable: Files and folders that may be read.
        writable: Folders in which everything is allowed but devices and execution, and files that may be written.
        hidden: Folders inside `readable` that may not be read. Their names and those in them can still be listed,
            for a right given to a folder holds for all that is in it.

    Raises:
        KernelError: Where the kernel has no Landlock.
    """
    abi = version()
    handled = _FILES.get(abi, (1 << 16) - 1)
    attributes = struct.pack("QQQ", handled, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    descriptor = syscall("landlock", _CREATE, attributes, 8 if abi < 4 else 16 if abi < 6 else 24, 0)
    for path in readable:
        _expose(descriptor, path, hidden)
    # Character, block devices, sockets are not made, and nothing is executed.
    made = handled & ~(_EXECUTE | _IOCTL_DEV | 1 << 6 | 1 << 9 | 1 << 11)
    for path in writable:
        _allow(descriptor, path, made)
    return descriptor


def restrict(descriptor: int) -> None:
    """Put this process and its children under the rules for good; needs no_new_privs."""
    syscall("landlock", _RESTRICT, descriptor, 0)


def _expose(descriptor: int, path: str, hidden: frozenset[str]) -> None:
    """Allow reading all of `path` but the hidden folders."""
    if path in hidden:
        return
    if not any(name.startswith(path + "/") for name in hidden):
        _allow(descriptor, path, _READ_FILE | _READ_DIR)
        return
    _allow(descriptor, path, _READ_DIR)
    for name in os.listdir(path):
        _expose(descriptor, os.path.join(path, name), hidden)


def _allow(descriptor: int, path: str, rights: int) -> None:
    """Add one rule; a path that is not there needs none."""
    with contextlib.suppress(OSError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                rights &= _ON_A_FILE
            if rights:
                with contextlib.suppress(KernelError):  # a dangling right costs the box a file, not its safety
                    syscall("landlock", _ADD, descriptor, 1, struct.pack("=Qi", rights, place), 0)
        finally:
            os.close(place)
