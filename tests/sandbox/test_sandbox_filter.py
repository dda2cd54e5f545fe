"""The filter of system calls, run by a small interpreter of its language: so for a machine that is not this one too."""

import re
import struct
from pathlib import Path

import pytest

from forkpoint.sandbox.inside import seccomp
from forkpoint.sandbox.inside.kernel import KernelError

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
MACHINES = pytest.mark.parametrize("machine", ARCH)


def verdict(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """Return what the filter answers to one call."""
    words = [argument & (1 << 64) - 1 for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number, arch, 0, *words)
    codes = list(struct.iter_unpack("HBBI", program))
    at, accumulator = 0, 0
    while True:
        code, yes, no, value = codes[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x15:
            at += yes if accumulator == value else no
        elif code == 0x54:
            accumulator &= value
        elif code == 0x45:
            at += yes if accumulator & value else no
        else:
            assert code == 0x06
            return value


def asker(machine: str, *, pid: int = 1, children: bool = False, own_root: bool = False, keep_length: bool = False):
    program = seccomp.filter_of(machine, pid=pid, children=children, own_root=own_root, keep_length=keep_length)
    assert len(program) // 8 < 4096
    tables = (seccomp._ALLOWED, seccomp._BY_ARGUMENT, seccomp._NOT_PERMITTED, seccomp._ATTRIBUTES)
    numbers: dict[str, int] = {}
    for table in tables:
        for name, number in seccomp._numbers(table, machine).items():
            assert name not in numbers, f"{name} twice"
            numbers[name] = number
    assert len(set(numbers.values())) == len(numbers)
    return lambda name, *arguments: verdict(program, ARCH[machine], numbers[name], *arguments)


@MACHINES
def test_what_programs_need_is_allowed_and_the_rest_is_not(machine):
    ask = asker(machine)
    for name in ("read", "write", "openat", "mmap", "futex", "exit_group", "getrandom", "newfstatat", "close_range"):
        assert ask(name) == ALLOW
    for name in seccomp._numbers(seccomp._NOT_PERMITTED, machine):
        assert ask(name) == EPERM, name
    program = seccomp.filter_of(machine, pid=1, children=False, own_root=True)
    assert verdict(program, ARCH[machine], 9999) == ENOSYS
    assert verdict(program, ARCH[machine], 435) == ENOSYS  # clone3, whose arguments a filter cannot see
    assert verdict(program, 0x40000003, 1) == KILL  # 32-bit calls have other numbers
    assert verdict(program, ARCH[machine], 0x40000000 | 1) == ENOSYS


@MACHINES
def test_threads_are_no_processes(machine):
    thread, child, vfork = 0x3D0F00, 0x01200011, 0x4111
    one, several = asker(machine), asker(machine, children=True)
    assert [one("clone", flags) for flags in (thread, child, vfork)] == [ALLOW, EPERM, EPERM]
    assert [several("clone", flags) for flags in (thread, child, vfork)] == [ALLOW, ALLOW, ALLOW]
    for space in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        for ask in (one, several):
            assert ask("clone", thread | space) == EPERM
            assert ask("clone", child | space) == EPERM
    assert several("execve") == EPERM


@MACHINES
def test_signals_reach_the_program_alone_unless_it_sees_nothing_else(machine):
    ask = asker(machine, pid=77)
    assert [ask("kill", pid, 9) for pid in (77, 1, 0, -1, -77, 78)] == [ALLOW] + [EPERM] * 5
    assert [ask("tgkill", pid, 9) for pid in (77, 78)] == [ALLOW, EPERM]
    assert ask("tkill", 77, 9) == EPERM
    assert asker(machine, pid=1, own_root=True)("kill", -1, 9) == ALLOW


@MACHINES
def test_arguments_that_reach_out_are_refused(machine):
    ask = asker(machine)
    assert [ask("prlimit64", pid) for pid in (0, 1)] == [ALLOW, EPERM]
    assert [ask("socketpair", family, 1, 0) for family in (1, 2, 10, 16)] == [ALLOW] + [EPERM] * 3
    assert [ask("sendto", 3, 0, 0, 0, address) for address in (0, 1, 1 << 32)] == [ALLOW, EPERM, EPERM]
    asked = [ask("fcntl", 3, command) for command in (0, 1, 2, 4, 7, 38, 1030, 1032)]
    assert asked == [ALLOW] * 8
    # Owners, signals, leases, notices, sizes of pipes, seals, hints.
    asked = [ask("fcntl", 3, command) for command in (8, 10, 15, 1024, 1026, 1031, 1033, 1036, 1038, 99)]
    assert asked == [EPERM] * 10
    asked = [ask("ioctl", 1, request) for request in (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)]
    assert asked == [ALLOW] * 7
    # Terminals, owners, network interfaces, attributes of files.
    others = (0x5412, 0x541C, 0x8901, 0x8902, 0x8910, 0x8912, 0x8927, 0x40086602, 0x401C5820, 0x40806685, 0)
    assert [ask("ioctl", 1, request) for request in others] == [EPERM] * 11
    assert [ask("getsockopt", 3, 1, option) for option in (3, 4, 7, 8)] == [ALLOW] * 4
    assert [ask("getsockopt", 3, 1, option) for option in (17, 26, 31, 59, 76, 77)] == [EPERM] * 6
    assert [ask("setsockopt", 3, 1, option) for option in (7, 8, 20, 21)] == [ALLOW] * 4
    assert [ask("setsockopt", 3, 1, option) for option in (1, 16, 25, 26, 32, 33, 36, 50, 51, 52)] == [EPERM] * 10


@MACHINES
def test_what_is_not_opened_for_writing_keeps_its_length_where_no_other_rule_sees_to_it(machine):
    usual, keeping = asker(machine), asker(machine, keep_length=True)
    calls = [("openat", -100, 0), ("open", 0)] if machine == "x86_64" else [("openat", -100, 0)]
    for name, *before in calls:
        for flags in (0, 1, 2, 3, 0x80000, 0x200 | 1, 0x200 | 2, 0x80241, 0x200 | 1 | 1 << 32):
            assert keeping(name, *before, flags) == usual(name, *before, flags) == ALLOW
        for flags in (0x200, 0x200 | 3, 0x80200, 0x200 | 1 << 32):
            assert (keeping(name, *before, flags), usual(name, *before, flags)) == (EPERM, ALLOW)
    assert (keeping("truncate"), usual("truncate")) == (EPERM, ALLOW)
    assert (keeping("openat2"), usual("openat2")) == (ENOSYS, ALLOW)
    assert [keeping(name) for name in ("ftruncate", "read", "execve")] == [ALLOW, ALLOW, EPERM]


@MACHINES
def test_modes_and_times_change_in_a_root_of_ones_own_only(machine):
    for name in seccomp._numbers(seccomp._ATTRIBUTES, machine):
        assert asker(machine)(name) == EPERM
        assert asker(machine, own_root=True)(name) == ALLOW


def test_another_machine_is_refused():
    with pytest.raises(KernelError, match="no table of system calls for riscv64"):
        seccomp.filter_of("riscv64", pid=1, children=False, own_root=False)


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("x86_64", "/usr/include/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_numbers_are_the_headers(machine, header):
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    official = {name: int(number) for name, number in pairs}
    official.setdefault("newfstatat", official.get("fstatat", -1))
    checked = 0
    for table in (seccomp._ALLOWED, seccomp._BY_ARGUMENT, seccomp._NOT_PERMITTED, seccomp._ATTRIBUTES):
        for name, number in seccomp._numbers(table, machine).items():
            if name in official:  # an old header lacks the newest
                assert official[name] == number, name
                checked += 1
    assert checked > 150
