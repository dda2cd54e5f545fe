"""The process between the pool and the boxes: one trial after the other, under the clock.

Run by the pool in a fresh interpreter that has the standard library and this package, nothing else. Its zygote is
forked before the first trial arrives, so that no text of a trial is ever in the memory boxes are forked from.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
from typing import Any

from . import folder, kernel, wire, zygote
from .watch import KeeperError, Kept, Watch

START_S = 20.0
"""Seconds a zygote may take to set its layers up."""


def main() -> None:
    """Serve trials from standard input to standard output until it closes."""
    base, wanted = sys.argv[1], set(json.loads(sys.argv[2]))
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        kept, hello = _zygote(base, wanted, (requests, replies))
    except (KeeperError, OSError) as error:
        _reply(replies, {"failed": str(error)})
        return
    with contextlib.suppress(EOFError, BrokenPipeError, KeeperError):
        if sys.platform == "linux":
            kernel.hide_memory()
        _reply(replies, hello)
        while True:
            length = int.from_bytes(wire.read_exactly(requests, 4), "big")
            request = json.loads(wire.read_exactly(requests, length))
            _reply(replies, Watch(request, kept, requests).outcome())
    # The zygote ends when this closes, and all boxes with it.
    kept.socket.close()
    with contextlib.suppress(OSError):
        os.waitpid(kept.pid, 0)
    folder.remove(base)


def _reply(descriptor: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    wire.write_all(descriptor, struct.pack("!I", len(data)) + data)


def _zygote(base: str, wanted: set[str], inherited: tuple[int, ...]) -> tuple[Kept, dict[str, Any]]:
    """Start a zygote with the layers that can be had; return it and what it says of them.

    A set-up that fails halfway is thrown away with its process and tried again without namespaces.
    """
    missing = {name: "switched off" for name in zygote.LAYERS if name not in wanted}
    if sys.platform != "linux":
        missing |= dict.fromkeys(wanted, f"{sys.platform} has no such thing")
        wanted = set()
    for _ in range(2):
        mine, its = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            mine.close()
            for descriptor in inherited:
                os.close(descriptor)
            zygote.start(its, base, set(wanted), dict(missing))
        its.close()
        kept = Kept(pid=pid, socket=mine)
        hello = _hello(kept)
        if "ready" in hello:
            kept.layers = frozenset(hello["ready"])
            return kept, hello
        mine.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if "namespaces" not in wanted:
            break
        wanted, missing = wanted - {"namespaces"}, {**missing, "namespaces": hello["failed"]}
    raise KeeperError(hello["failed"])


def _hello(kept: Kept) -> dict[str, Any]:
    """Return what the zygote says once it stands, mapping its users for it where it asks."""
    kept.socket.settimeout(START_S)
    try:
        while True:
            for message in kept.messages():
                if "map" not in message:
                    kept.socket.settimeout(None)
                    return message
                kept.socket.sendall(b"1" if _map_users(message["map"]) else b"0")
    except (KeeperError, OSError) as error:
        return {"failed": str(error)}


def _map_users(pid: int) -> bool:
    """Let root and nobody exist in a new user namespace; return whether that is allowed."""
    try:
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write("0 0 1\n65534 65534 1\n")
    except OSError:
        return False
    return True
