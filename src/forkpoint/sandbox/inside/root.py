"""The few files a box can see: Python's standard library, the C library, a folder of its own."""

from __future__ import annotations

import os
import stat
import sys

from . import kernel

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
"""Devices every program may count on."""
FOLDERS = "/box"
"""Where the folders of the boxes are in a root of their own."""
_SYSTEM = ("/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_INSTALLED = ("site-packages", "dist-packages")


def visible() -> tuple[str, ...]:
    """Return the paths a box may read, links before what they lead to."""
    library = os.path.dirname(os.path.abspath(os.__file__))
    shared = os.path.join(sys.base_prefix, "lib")
    dynamic = [path for path in sys.path if path.endswith("lib-dynload")]
    store = ["/nix/store"] if sys.base_prefix.startswith("/nix/store") else []
    wanted = [*_SYSTEM, shared, library, *dynamic, *store]
    # What lies inside another one comes with it.
    kept: list[str] = []
    for path in sorted(set(wanted), key=len):
        if os.path.exists(path) and not any(path.startswith(parent + "/") for parent in kept):
            kept.append(path)
    return tuple(kept)


def hidden() -> frozenset[str]:
    """Return the folders of installed packages, forkpoint's own perhaps, that lie inside visible ones."""
    libraries = {os.path.dirname(os.path.abspath(os.__file__)), os.path.join(sys.base_prefix, "lib")}
    libraries |= {f"{root}/python{version}" for root in ("/usr/lib", "/usr/lib64") for version in _versions(root)}
    return frozenset(
        os.path.realpath(os.path.join(library, name))
        for library in libraries
        for name in _INSTALLED
        if os.path.isdir(os.path.join(library, name))
    )


def _versions(root: str) -> list[str]:
    names = os.listdir(root) if os.path.isdir(root) else []
    return [name.removeprefix("python") for name in names if name.startswith("python")]


def build(names: tuple[str, ...]) -> None:
    """Give this process, in a mount namespace where it may mount, a root that holds the visible paths only.

    Args:
        names: Folders to make under `FOLDERS`, each of which a box may mount something on.

    Raises:
        KernelError, OSError: Where the kernel refuses a step.
    """
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    paths = visible() + tuple(path for path in DEVICES if os.path.exists(path))
    # Looked at and opened first: the new root hides what lies below its mount point.
    links = {path: os.readlink(path) for path in paths if os.path.islink(path)}
    places = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths if path not in links}
    covered = hidden()
    top = next(path for path in ("/tmp", "/mnt", "/srv", "/var") if os.path.isdir(path))  # noqa: S108
    kernel.mount("forkpoint", top, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path in paths:
        os.makedirs(os.path.dirname(top + path), exist_ok=True)
        if path in links:
            os.symlink(links[path], top + path)
        else:
            _show(places[path], path, top, covered)
    for name in names:
        os.makedirs(f"{top}{FOLDERS}/{name}/home")
    for place in places.values():
        os.close(place)
    kernel.change_root(top, os.uname().machine)
    kernel.mount(None, "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID)


def _show(place: int, path: str, top: str, covered: frozenset[str]) -> None:
    """Bind one path into the new root, read-only, with the hidden folders in it covered."""
    target = top + path
    if stat.S_ISDIR(os.fstat(place).st_mode):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(f"/proc/self/fd/{place}", target, None, kernel.MS_BIND | kernel.MS_REC)
    for inside in covered:
        if inside.startswith(path + "/"):
            kernel.mount("none", top + inside, "tmpfs", kernel.MS_RDONLY, "size=4k,mode=755")
    kernel.make_read_only(target, devices=path in DEVICES)
