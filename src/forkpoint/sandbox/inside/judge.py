"""The trusted side: run the judge's source, with the program's functions as proxies."""

from __future__ import annotations

import builtins
import contextlib
import json
import linecache
import sys
import types
from collections.abc import Callable
from typing import Any

from . import wire

_FILE = "<judge>"
# Raised inside an iteration these would end it early, and with it the checks that are left.
_QUIET = ("StopIteration", "StopAsyncIteration", "GeneratorExit")


class _Unfit(BaseException):
    """The program is gone, or what it sent is no value; no `except Exception` of the judge takes it for an answer."""

    seen: str = ""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # A bare `except` must not make it right either.
        _Unfit.seen = _Unfit.seen or text


def run(source: str, entry: str | None, link: int, result: int) -> int:
    """Run the judge and write its verdict to `result`; the program has no way to that descriptor."""
    verdict = _verdict(source, entry, link)
    with contextlib.suppress(OSError):
        wire.write_all(result, json.dumps(verdict).encode())
    return 0


def _verdict(source: str, entry: str | None, link: int) -> dict[str, Any]:
    """Return `passed`, `reason` and, where the fault is the judge's own, `broken`."""
    try:
        code = compile(source, _FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return {"passed": False, "broken": True, "reason": str(error)}
    failure = _opening(link)
    if not failure and entry is not None and not _has(link, entry):
        failure = f"no function {entry!r}"
    if failure:
        return {"passed": False, "reason": failure}
    space: dict[str, Any] = {
        "__name__": "__main__",
        "__builtins__": builtins,
        "remote": lambda name: _proxy(link, name),
    }
    if entry is not None:
        space["candidate"] = _proxy(link, entry)
    module = types.ModuleType("__main__")
    vars(module).update(space)
    sys.modules["__main__"] = module
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    try:
        exec(code, vars(module))  # noqa: S102 - trusted source, and boxed all the same
    except BaseException as error:
        return {"passed": False, "reason": _Unfit.seen or _reason(error), "memory": isinstance(error, MemoryError)}
    return {"passed": not _Unfit.seen, "reason": _Unfit.seen or "passed"}


def _opening(link: int) -> str:
    """Wait until the program has run to its end; return why it has not."""
    try:
        message = wire.receive(link)
    except (EOFError, OSError):
        return "exited"
    except wire.WireError as error:
        return f"the program sent {error}"
    if isinstance(message, dict) and message.get("ready") is True:
        return ""
    return str(message.get("failed", "exited"))[:500] if isinstance(message, dict) else "exited"


def _has(link: int, name: str) -> bool:
    try:
        return _asked(link, {"name": name}) is True
    except (Exception, _Unfit):
        return False


def _proxy(link: int, name: str) -> Callable[..., Any]:
    """Return a function whose call happens in the program's process."""

    def candidate(*args: Any, **kwargs: Any) -> Any:
        request = {
            "name": name,
            "args": [wire.encode(value) for value in args],
            "kwargs": {key: wire.encode(value) for key, value in kwargs.items()},
        }
        return _asked(link, request)

    candidate.__name__ = candidate.__qualname__ = name
    return candidate


def _asked(link: int, request: dict[str, Any]) -> Any:
    """Send one call and return the plain value that comes back, or raise as the program did."""
    try:
        wire.send(link, request)
        reply = wire.receive(link)
    except (EOFError, OSError):
        raise _Unfit("exited") from None
    except wire.WireError as error:
        raise _Unfit(f"the program sent {error}") from None
    if not isinstance(reply, dict):
        raise _Unfit("the program sent no reply")
    if "value" in reply:
        try:
            return wire.decode(reply["value"])
        except wire.WireError as error:
            raise _Unfit(f"the program sent {error}") from None
    if "raised" in reply:
        raise _exception(reply["raised"], str(reply.get("text", ""))[:500])
    raise _Unfit(f"the program returned {str(reply.get('unfit', 'nothing'))[:300]}, which cannot be judged")


def _exception(names: Any, text: str) -> Exception:
    """Return an exception of the nearest built-in kind that is safe to raise here."""
    for name in names if isinstance(names, list) else ():
        kind = getattr(builtins, name, None) if isinstance(name, str) else None
        if isinstance(kind, type) and issubclass(kind, Exception) and name not in _QUIET:
            with contextlib.suppress(TypeError):  # some kinds cannot be made from a text
                return kind(text)
        elif name in _QUIET:
            break
    return RuntimeError(text)


def _reason(error: BaseException) -> str:
    """Return in one line why the judge did not run to its end."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, AssertionError):
        return f"assertion failed: {text}" if text else f"assertion failed: {_line(error)}"
    if isinstance(error, MemoryError):
        return "memory limit"
    return text if text.startswith(type(error).__name__) else f"{type(error).__name__}: {text}"


def _line(error: BaseException) -> str:
    """Return the judge's own line that raised."""
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILE:
            number = trace.tb_lineno
        trace = trace.tb_next
    return linecache.getline(_FILE, number).strip()[:300]
