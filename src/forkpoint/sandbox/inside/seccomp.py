"""Filter of system calls: what a box may ask of the kernel; everything else does not exist for it.

A list of what is allowed, not of what is forbidden, so that a call the kernel learns later is refused. Calls that
programs do try (sockets, processes) fail as "not permitted", others as "not implemented", on which the C library
falls back. Some are allowed for certain arguments only: signals to the program itself, threads but no processes,
socket pairs (an event loop needs one) but nothing that names an address.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
import struct
from collections.abc import Iterable, Iterator

from .kernel import LIBC, KernelError, check, prctl

# name, number on x86_64, number on aarch64
_ALLOWED = """
read 0 63, write 1 64, open 2 -, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, poll 7 -, lseek 8 62, mmap 9 222,
mprotect 10 226, munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, access 21 -, pipe 22 -, select 23 -,
sched_yield 24 124, mremap 25 216, msync 26 227, mincore 27 232, madvise 28 233, dup 32 23, dup2 33 -,
pause 34 -, nanosleep 35 101, getitimer 36 102, alarm 37 -, setitimer 38 103, getpid 39 172, sendfile 40 71,
recvfrom 45 207, shutdown 48 210, getsockname 51 204, getpeername 52 205,
exit 60 93, wait4 61 260, waitid 247 95, uname 63 160, flock 73 32, fsync 74 82, fdatasync 75 83,
truncate 76 45, ftruncate 77 46, getdents 78 -, getcwd 79 17, chdir 80 49, fchdir 81 50, rename 82 -,
mkdir 83 -, rmdir 84 -, creat 85 -, link 86 -, unlink 87 -, symlink 88 -, readlink 89 -, umask 95 166,
gettimeofday 96 169, getrlimit 97 163, getrusage 98 165, sysinfo 99 179, times 100 153, getuid 102 174,
getgid 104 176, geteuid 107 175, getegid 108 177, getppid 110 173, getpgrp 111 -, getpgid 121 155,
getsid 124 156, getgroups 115 158, getresuid 118 148, getresgid 120 150, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, statfs 137 43, fstatfs 138 44,
sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146 125,
sched_get_priority_min 147 126, getpriority 140 141, gettid 186 178, time 201 -, futex 202 98,
sched_getaffinity 204 123, getdents64 217 61, set_tid_address 218 96, restart_syscall 219 128,
fadvise64 221 223, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, exit_group 231 94,
epoll_create 213 -, epoll_create1 291 20, epoll_wait 232 -, epoll_ctl 233 21, epoll_pwait 281 22, eventfd 284 -,
eventfd2 290 19, timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87, openat 257 56,
openat2 437 437, mkdirat 258 34, newfstatat 262 79, unlinkat 263 35, renameat 264 38, linkat 265 37,
symlinkat 266 36, readlinkat 267 78, faccessat 269 48, faccessat2 439 439, pselect6 270 72, ppoll 271 73,
set_robust_list 273 99, get_robust_list 274 100, fallocate 285 47, dup3 292 24, pipe2 293 59, preadv 295 69,
pwritev 296 70, getcpu 309 168, renameat2 316 276, getrandom 318 278, copy_file_range 326 285, statx 332 291,
rseq 334 293, membarrier 324 283, close_range 436 436, splice 275 76, tee 276 77, getxattr 191 8,
lgetxattr 192 9, fgetxattr 193 10, listxattr 194 11, llistxattr 195 12, flistxattr 196 13
"""
_BY_ARGUMENT = """
clone 56 220, kill 62 129, tgkill 234 131, prlimit64 302 261, socketpair 53 199, sendto 44 206, fcntl 72 25,
ioctl 16 29, setsockopt 54 208, getsockopt 55 209
"""
_NOT_PERMITTED = """
socket 41 198, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242, sendmsg 46 211,
recvmsg 47 212, sendmmsg 307 269, recvmmsg 299 243, fork 57 -, vfork 58 -, execve 59 221, execveat 322 281,
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, mount 165 40, umount2 166 39,
pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268, bpf 321 280, keyctl 250 219, add_key 248 217,
request_key 249 218, userfaultfd 323 282, perf_event_open 298 241, io_uring_setup 425 425,
io_uring_enter 426 426, io_uring_register 427 427, memfd_create 319 279, memfd_secret 447 447, prctl 157 167,
personality 135 92, setuid 105 146, setgid 106 144, setreuid 113 145, setregid 114 143, setresuid 117 147,
setresgid 119 149, setgroups 116 159, capset 126 91, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54,
mknod 133 -, mknodat 259 33, setsid 112 157, setpgid 109 154, setrlimit 160 164, pidfd_open 434 434,
pidfd_getfd 438 438, pidfd_send_signal 424 424, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240,
shmget 29 194, shmat 30 196, shmctl 31 195, msgget 68 186, msgsnd 69 189, msgrcv 70 188, semget 64 190,
semop 65 193, mq_open 240 180, tkill 200 130
"""
# What a rule about opening files does not cover: in a root of one's own all files are read-only anyway.
_ATTRIBUTES = """
chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, utime 132 -, utimes 235 -, utimensat 280 88
"""
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x45, 0x06, 0x54
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD, _CLONE_NAMESPACES = 0x00010000, 0x7E020080
_AF_UNIX = 1
_TRUNCATES, _ACCESS = 0x200, 3  # O_TRUNC, O_ACCMODE
_TRUNCATING = ("truncate", "open", "openat", "openat2")
"""Calls that shorten a file which may only be read, where rules about files do not cover that."""
# Lists of what is allowed: others hand out signals, processes, terminals, network addresses or attributes of files.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)  # DUPFD, GETFD to SETFL, locks, DUPFD_CLOEXEC, GETPIPE_SZ
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2."""
_SET_OPTION = (2, 7, 8, 9, 20, 21)  # REUSEADDR, SNDBUF, RCVBUF, KEEPALIVE, RCVTIMEO, SNDTIMEO
_GET_OPTION = (2, 3, 4, 7, 8, 9, 20, 21, 30, 38, 39)  # these, and TYPE, ERROR, ACCEPTCONN, PROTOCOL, DOMAIN
_PR_GET_SECCOMP, _PR_SET_SECCOMP, _MODE_FILTER = 21, 22, 2

Code = tuple[int, int, int, int]


@functools.cache
def _numbers(table: str, machine: str) -> dict[str, int]:
    """Return name -> number on this machine of the calls that exist there."""
    column = 1 if machine == "x86_64" else 2
    rows = [entry.split() for entry in table.replace("\n", " ").split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def _refuse(number: int = errno.EPERM) -> Code:
    return (_RETURN, 0, 0, _ERROR | number)


def _argument(index: int, high: bool = False) -> Code:
    """Load 32 bits of an argument; both machines are little-endian."""
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * high)


def _only(index: int, *values: int) -> list[Code]:
    """Allow where the low half of an argument is one of `values`; the kernel reads it as an int."""
    tests = [code for value in values for code in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]
    return [_argument(index), *tests, _refuse()]


def _opening(index: int) -> list[Code]:
    """Allow to open, and to empty what is opened for writing; `index` is that of the flags."""
    allow: Code = (_RETURN, 0, 0, _ALLOW)
    emptied = [(_AND, 0, 0, _ACCESS), (_EQUAL, 0, 1, 1), allow, (_EQUAL, 0, 1, 2), allow, _refuse()]
    return [_argument(index), (_ANY_BIT, 1, 0, _TRUNCATES), allow, *emptied]


def _clone(children: bool) -> list[Code]:
    """Allow threads, and children where there may be some, in no new namespace."""
    anywhere = [_argument(0), (_ANY_BIT, 0, 1, _CLONE_NAMESPACES), _refuse()]
    if children:
        return [*anywhere, (_RETURN, 0, 0, _ALLOW)]
    return [*anywhere, (_ANY_BIT, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW), _refuse()]


def _conditions(pid: int, children: bool, own_root: bool, keep_length: bool) -> dict[str, list[Code]]:
    """Return what calls are tested for: those of `_BY_ARGUMENT` and, with `keep_length`, those that open."""
    allow: list[Code] = [(_RETURN, 0, 0, _ALLOW)]
    to_itself = allow if own_root else _only(0, pid)
    opening = {"open": _opening(1), "openat": _opening(2), "truncate": [_refuse()]} if keep_length else {}
    return {
        **opening,
        "clone": _clone(children),
        "kill": to_itself,
        "tgkill": to_itself,
        "prlimit64": _only(0, 0),
        "socketpair": _only(0, _AF_UNIX),
        # An address would reach a socket of somebody else.
        "sendto": [_argument(4), (_EQUAL, 0, 3, 0), _argument(4, high=True), (_EQUAL, 0, 1, 0), *allow, _refuse()],
        "fcntl": _only(1, *_FCNTL),
        "ioctl": _only(1, *_IOCTL),
        "setsockopt": _only(2, *_SET_OPTION),
        "getsockopt": _only(2, *_GET_OPTION),
    }


@functools.cache
def _first(machine: str, keep_length: bool) -> bytes:
    """Return the part that is the same for all boxes; made before the first, so that no box spends time on it."""
    codes: list[Code] = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for name, number in _numbers(_ALLOWED, machine).items():
        if keep_length and name in _TRUNCATING:
            continue
        codes += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    return _packed(codes)


def _packed(codes: Iterable[Code]) -> bytes:
    return b"".join(struct.pack("HBBI", *code) for code in codes)


def _second(machine: str, pid: int, children: bool, own_root: bool, keep_length: bool) -> Iterator[Code]:
    """Yield the part that depends on the box: what is tested by argument, and what is refused."""
    numbers = _numbers(_ALLOWED, machine) | _numbers(_BY_ARGUMENT, machine)
    for name, codes in _conditions(pid, children, own_root, keep_length).items():
        if name in numbers:
            yield from [(_EQUAL, 0, len(codes), numbers[name]), *codes]
    refused = dict(_numbers(_NOT_PERMITTED, machine))
    if own_root:
        for number in _numbers(_ATTRIBUTES, machine).values():
            yield from [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    else:
        refused |= _numbers(_ATTRIBUTES, machine)
    for name in ("fork", "vfork") if children else ():
        if name in refused:
            yield from [(_EQUAL, 0, 1, refused.pop(name)), (_RETURN, 0, 0, _ALLOW)]
    for number in refused.values():
        yield from [(_EQUAL, 0, 1, number), _refuse()]
    yield _refuse(errno.ENOSYS)


def filter_of(machine: str, *, pid: int, children: bool, own_root: bool, keep_length: bool = False) -> bytes:
    """Return the filter as the kernel takes it.

    Args:
        machine: `x86_64` or `aarch64`.
        pid: Process id of the box as it sees itself: the only receiver of its signals.
        children: Whether it may start processes.
        own_root: Whether it has namespaces of its own: it may signal whatever it sees, and change modes and times.
        keep_length: Whether to refuse what shortens a file that is not opened for writing. Landlock has rules about
            that since its third version only.

    Raises:
        KernelError: On another machine.
    """
    if machine not in _AUDIT:
        raise KernelError(f"no table of system calls for {machine}")
    return _first(machine, keep_length) + _packed(_second(machine, pid, children, own_root, keep_length))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(program: bytes) -> None:
    """Put this process, its threads and its children under the filter for good; needs no_new_privs."""
    argument = _Program(len(program) // 8, program)
    check(
        LIBC.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(argument), ctypes.c_ulong(0), 0),
        "seccomp",
    )


def available(keep_length: bool) -> str:
    """Return an empty text where filters can be used, else why not."""
    try:
        filter_of(platform.machine(), pid=1, children=False, own_root=True, keep_length=keep_length)
        prctl(_PR_GET_SECCOMP)
    except KernelError as error:
        return str(error)
    return ""
