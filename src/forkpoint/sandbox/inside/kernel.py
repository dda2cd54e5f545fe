"""Linux system calls the standard library of Python 3.11 lacks, as thin functions that raise."""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
_MNT_DETACH = 2
_AT_RECURSIVE, _AT_EMPTY_PATH = 0x8000, 0x1000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 1, 4, 24, 38, 36
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION = 0x20080522


class KernelError(Exception):
    """The kernel refused something; the text says what and why."""


def check(result: int, what: str) -> int:
    """Return `result`, or raise what errno says where it is negative."""
    if result < 0:
        raise KernelError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return int(result)


def syscall(what: str, number: int, *arguments: int | bytes | None) -> int:
    """Make a system call by its number."""
    words = [ctypes.c_long(word) if isinstance(word, int) else ctypes.c_char_p(word) for word in arguments]
    LIBC.syscall.restype = ctypes.c_long
    return check(LIBC.syscall(ctypes.c_long(number), *words), what)


def prctl(option: int, argument: int = 0) -> int:
    """Set or ask something of this process."""
    zero = ctypes.c_ulong(0)
    return check(LIBC.prctl(option, ctypes.c_ulong(argument), zero, zero, zero), f"prctl {option}")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; a change of user id undoes it."""
    prctl(_PR_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """Let no process of the same user read this one's memory."""
    prctl(_PR_SET_DUMPABLE, 0)


def no_new_privileges() -> None:
    """Let no file give this process rights it lacks."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones."""
    check(LIBC.unshare(flags), "unshare")


def rejoin(descriptor: int, kind: int) -> None:
    """Go (back) into the namespace that `descriptor` stands for."""
    check(LIBC.setns(descriptor, kind), "setns")


def name_host(name: bytes) -> None:
    """Give the host and its domain another name."""
    check(LIBC.sethostname(name, len(name)), "sethostname")
    check(LIBC.setdomainname(name, len(name)), "setdomainname")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount a file system."""
    text = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    check(LIBC.mount(text[0], text[1], text[2], ctypes.c_ulong(flags), text[3]), f"mount on {target}")


def make_read_only(target: str, *, devices: bool = False) -> None:
    """Make a mount and those under it read-only, without set-user-id files and, as a rule, without devices."""
    attributes = MS_RDONLY | MS_NOSUID | (0 if devices else MS_NODEV)
    words = attributes.to_bytes(8, "little") + bytes(24)
    try:
        # Directory -100 is the current one; the kernel's names for these attributes have the same values.
        syscall("mount_setattr", _MOUNT_SETATTR, -100, os.fsencode(target), _AT_RECURSIVE, words, len(words))
    except KernelError:
        # Older than 5.12. What the mount had already must be named again.
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount(None, target, None, MS_REMOUNT | MS_BIND | attributes | kept)


def change_root(target: str, machine: str) -> None:
    """Make `target` the root and take the old one away."""
    os.chdir(target)
    syscall("pivot_root", _PIVOT_ROOT[machine], b".", b".")
    check(LIBC.umount2(b".", _MNT_DETACH), "umount of the old root")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every right beyond those of an ordinary user, for good."""
    for capability in range(_LAST_CAPABILITY + 1):
        if LIBC.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # no such capability: the last one is done, or there is no right to drop any
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    check(LIBC.capset(header, (ctypes.c_uint32 * 6)()), "capset")
