"""What the tests of the sandbox share: sets of layers, and a look at the processes of a pool."""

import os
from contextlib import suppress

import pytest

from forkpoint.sandbox import protections

ALL = ("namespaces", "landlock", "seccomp", "user")
NO_NAMESPACES = ("landlock", "seccomp", "user")


def need(*layers: str) -> tuple[str, ...]:
    """Return the layers, or skip the test where this machine lacks one that is not `user`."""
    found = protections(layers)
    for name in layers:
        if name != "user" and name not in found.layers:
            pytest.skip(f"this machine has no {name}: {found.missing.get(name)}")
    return layers


def processes(base: str) -> list[tuple[int, str]]:
    """Return id and state of the keeper, the zygote and the boxes that carry a worker's folder in their arguments."""
    if not os.path.isdir("/proc/self"):
        pytest.skip("processes cannot be listed without /proc")
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    if os.fsencode(base) not in file.read():
                        continue
                with open(f"/proc/{entry}/stat") as file:
                    found.append((int(entry), file.read().rpartition(")")[2].split()[0]))
    return found
