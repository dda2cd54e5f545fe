"""The process at the other end of `VerifierPool`: one JSON line in, one JSON line out.

Run as `python -m forkpoint.verify.worker TARGET PREPARE ALARM MEMORY`, by the pool. It imports the standard
library and the target's module, never torch.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import IO, Any


def resolve(target: str) -> Callable[..., Any]:
    """Return the function named `module:function`."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def serve(function: Callable[[Any], Any], requests: IO[bytes], replies: IO[bytes], alarm: float) -> None:
    """Answer every request line until the other end closes.

    Args:
        function: Called with the decoded item.
        requests: JSON lines, each one item.
        replies: Gets `{"value": ...}` or `{"error": ...}` for each.
        alarm: Seconds after which the kernel ends this process, 0 for never. It holds where the parent is
            gone and no Python code runs any more, as in one huge multiplication.
    """
    for line in requests:
        signal.setitimer(signal.ITIMER_REAL, alarm)
        try:
            reply = json.dumps({"value": function(json.loads(line))})
        except Exception as error:
            # Whatever the function raised belongs to the item; the parent reports it there.
            reply = json.dumps({"error": f"{type(error).__name__}: {error}"[:300]})
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(replies, reply)


def main(arguments: list[str]) -> None:
    """Load the target, say that it is ready, serve."""
    target, preparation, alarm, memory = arguments
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    # A library that prints must not speak into the protocol.
    os.dup2(nowhere, 1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        function = resolve(target)
        if preparation:
            resolve(preparation)()
    except Exception as error:
        _send(replies, json.dumps({"failed": f"{type(error).__name__}: {error}"[:300]}))
        return
    _limit_memory(int(memory))
    _send(replies, json.dumps({"ready": True}))
    serve(function, requests, replies, float(alarm))


def _send(replies: IO[bytes], reply: str) -> None:
    replies.write(reply.encode() + b"\n")
    replies.flush()


def _limit_memory(limit: int) -> None:
    """Cap the address space, so that one item fails instead of the machine."""
    import resource

    # macOS refuses this limit; the deadline still holds there.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1:])
    # Nothing is left to flush, and taking sympy apart would only delay the parent.
    os._exit(0)
