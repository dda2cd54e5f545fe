"""Which protections hold on this machine: tried by a program that attacks them, not looked up."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from forkpoint.sandbox.inside.zygote import LAYERS
from forkpoint.sandbox.worker import Worker, WorkerError

PROTECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "network": "no connection, neither out nor to a service of this machine",
        "write": "no file outside an empty temporary folder can be written",
        "read": "no file but Python's standard library and the system's libraries can be read",
        "processes": "no child process",
        "signals": "no process but the program itself can be signalled",
        "cleanup": "whatever a program starts ends with it",
        "memory": "the address space is limited",
    }
)
"""What can be required of a pool, in words."""
_LAYERS = {
    "namespaces": "namespaces (users, files, processes, network, IPC)",
    "landlock": "Landlock (files, TCP, signals by kernel rules)",
    "seccomp": "seccomp (filter of system calls)",
    "user": "another user id (nobody)",
}
_PROBE = """
import json, os, socket, sys
def refused(attack):
    try:
        attack()
    except (OSError, MemoryError, ImportError):
        return True
    return False
def child():
    if os.fork() == 0:
        os._exit(0)
    os.wait()
def connect():
    # Refused by an empty port is a connection all the same: the packet went out.
    try:
        with socket.socket() as link:
            link.settimeout(1)
            link.connect(("127.0.0.1", 9))
    except ConnectionRefusedError:
        pass
def signal():
    victim = os.getppid()
    if victim:
        os.kill(victim, 0)
    else:
        raise OSError
def changed(path):
    # Old kernels' rules let files be emptied without being opened for writing.
    return any(not refused(attack) for attack in (
        lambda: open(path, "a").close(), lambda: os.truncate(path, 0), lambda: os.open(path, os.O_TRUNC),
        lambda: os.open(path, os.O_TRUNC | os.O_ACCMODE),
    ))
found = {
    "network": refused(connect),
    "write": not changed(OUTSIDE[0]) and refused(lambda: open(OUTSIDE[1], "a").close()),
    "read": all(refused(lambda: open(path, "rb").close()) for path in OUTSIDE),
    "processes": refused(child),
    "signals": refused(signal),
    "memory": refused(lambda: bytearray(1 << 40)),
}
print(json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class Protections:
    """What a program was and was not able to do in a box of this machine."""

    platform: str
    layers: tuple[str, ...]
    """Mechanisms in use: `namespaces`, `landlock`, `seccomp`, `user`."""
    missing: Mapping[str, str]
    """The others, with the reason."""
    active: tuple[str, ...]
    """Names of `PROTECTIONS` that held against an attempt."""

    def statement(self) -> str:
        """Return in plain English what is active and what is not."""
        lines = [
            f"Sandbox on {self.platform}: every program runs in a fresh process and session with a scrubbed "
            "environment and limits on processor time, wall time, file size and output."
        ]
        lines += [f"  active: {PROTECTIONS[name]}" for name in PROTECTIONS if name in self.active]
        lines += [f"  NOT ACTIVE: {PROTECTIONS[name]}" for name in PROTECTIONS if name not in self.active]
        lines += [f"  by {_LAYERS[name]}" for name in self.layers]
        lines += [f"  without {_LAYERS.get(name, name)}: {why}" for name, why in self.missing.items()]
        if not {"network", "write", "read"} <= set(self.active):
            lines.append("  Run programs of a model here only where the machine itself may be lost.")
        return "\n".join(lines)


@functools.lru_cache
def protections(layers: tuple[str, ...] | None = None) -> Protections:
    """Return what protects from a program on this machine, found by running one that tries.

    Args:
        layers: Mechanisms to use where the machine has them; None: all.

    Returns:
        The protections; where no box can be run at all, none is active and `missing` says why.
    """
    wanted = LAYERS if layers is None else layers
    try:
        worker = Worker(wanted)
    except WorkerError as error:
        return Protections(platform=sys.platform, layers=(), missing={"sandbox": str(error)}, active=())
    try:
        outside = [worker.base + "/probe", __file__]
        with open(outside[0], "w"):
            # What stands between a box and this file is not its mode.
            os.chmod(outside[0], 0o666)  # noqa: S103
        limits = {
            "cpu_s": 5.0,
            "wall_s": 10.0,
            "memory_bytes": 512 << 20,
            "file_bytes": 1 << 20,
            "processes": 1,
            "output_bytes": 1 << 16,
        }
        program = f"OUTSIDE = {outside!r}\n{_PROBE}"
        reply = worker.exchange(
            {"program": program, "judge": None, "entry": None, "stdin": "", "limits": limits}, limits["wall_s"]
        )
        found = json.loads(reply["stdout"]) if reply["passed"] else {}
        failed = {} if reply["passed"] else {"probe": reply["reason"]}
    except (WorkerError, OSError, ValueError) as error:
        found, failed = {}, {"probe": str(error)}
    finally:
        worker.stop()
    in_use = tuple(worker.hello["ready"])
    # The one that is not tried: a child that cannot be started needs no ending; on Linux a pid namespace, else the
    # zygote's adoption of orphans, sees to it.
    found["cleanup"] = bool(found) and (found["processes"] or sys.platform == "linux")
    return Protections(
        platform=sys.platform,
        layers=in_use,
        missing=MappingProxyType({**worker.hello["missing"], **failed}),
        active=tuple(name for name in PROTECTIONS if found.get(name)),
    )
