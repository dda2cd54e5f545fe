"""The trusted side: run the judge's source, with the program's functions as proxies."""

from __future__ import annotations

import builtins
import contextlib
import json
import linecache
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from . import wire

_FILE = "<judge>"
# Raised inside an iteration these would end it early, and with it the checks that are left.
_QUIET = ("StopIteration", "StopAsyncIteration", "GeneratorExit")


_SHOWN = "_shown"
"""Attribute of the program's own exceptions: kind and text in one line."""


class _Unfit(BaseException):
    """The program is gone, or what it sent is no value; no `except Exception` of the judge takes it for an answer."""

    seen: str = ""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # A bare `except` must not make it right either.
        _Unfit.seen = _Unfit.seen or text


@dataclass(kw_only=True)
class _Talk:
    """The link to the program, and what has gone over it."""

    reader: int
    writer: int
    begun: int = 0
    """Calls that were sent: before the first, nothing in the judge can depend on the program."""
    ended: int = 0
    """Calls that were answered."""
    held: str = ""
    """Why a call was not sent."""


def run(source: str, entry: str | None, link: tuple[int, int], result: int) -> int:
    """Run the judge and write its verdict to `result`; the program has no way to that descriptor."""
    verdict = _verdict(source, entry, _Talk(reader=link[0], writer=link[1]))
    with contextlib.suppress(OSError):
        wire.write_all(result, json.dumps(verdict).encode())
    return 0


def _verdict(source: str, entry: str | None, talk: _Talk) -> dict[str, Any]:
    """Return `passed`, `reason` and, where the tests are at fault whatever the program is, `broken`."""
    try:
        code = compile(source, _FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return {"passed": False, "broken": True, "reason": f"the tests cannot be compiled: {error}"}
    failure = _opening(talk)
    if not failure and entry is not None and not _has(talk, entry):
        failure = f"no function {entry!r}"
    if failure:
        return {"passed": False, "reason": failure}
    space: dict[str, Any] = {
        "__name__": "__main__",
        "__builtins__": builtins,
        "remote": lambda name: _proxy(talk, name),
    }
    if entry is not None:
        space["candidate"] = _proxy(talk, entry)
    module = types.ModuleType("__main__")
    vars(module).update(space)
    sys.modules["__main__"] = module
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    raised: BaseException | None = None
    try:
        exec(code, vars(module))  # noqa: S102 - trusted source, and boxed all the same
    except BaseException as error:
        raised = error
    return _weighed(talk, raised)


def _weighed(talk: _Talk, raised: BaseException | None) -> dict[str, Any]:
    """Return the verdict on a judge that has ended.

    Only what happens before the first call is unjudged: an error after it may be the answer's doing, as that of
    `sum(candidate(x))` is where the program returns None.
    """
    memory = isinstance(raised, MemoryError)
    if not talk.begun:
        if talk.held:
            return {"passed": False, "broken": True, "reason": f"the tests pass {talk.held}, which cannot travel"}
        if raised is None:
            return {"passed": False, "broken": True, "reason": "the tests never called the program"}
        reason = f"the tests fail before they call the program: {_reason(raised)}"
        return {"passed": False, "broken": True, "reason": reason}
    if _Unfit.seen:
        return {"passed": False, "reason": _Unfit.seen, "memory": memory}
    if talk.held:
        return {"passed": False, "reason": f"an argument is {talk.held}, which cannot travel"}
    if raised is not None:
        return {"passed": False, "reason": _reason(raised), "memory": memory}
    if not talk.ended:
        return {"passed": False, "reason": "no call of the program came to its end"}
    return {"passed": True, "reason": "passed"}


def _opening(talk: _Talk) -> str:
    """Wait until the program has run to its end; return why it has not."""
    try:
        message = wire.receive(talk.reader)
    except (EOFError, OSError):
        return "exited"
    except wire.WireError as error:
        return f"the program sent {error}"
    if isinstance(message, dict) and message.get("ready") is True:
        return ""
    return str(message.get("failed", "exited"))[:500] if isinstance(message, dict) else "exited"


def _has(talk: _Talk, name: str) -> bool:
    try:
        return bool(_asked(talk, wire.framed({"name": name})).get("value") is True)
    except (Exception, _Unfit):
        return False


def _proxy(talk: _Talk, name: str) -> Callable[..., Any]:
    """Return a function whose call happens in the program's process."""

    def candidate(*args: Any, **kwargs: Any) -> Any:
        try:
            given = [wire.encode(value) for value in args]
            named = {key: wire.encode(value) for key, value in kwargs.items()}
            frame = wire.framed({"name": name, "args": given, "kwargs": named})
        except wire.WireError as error:
            talk.held = talk.held or str(error)
            raise
        talk.begun += 1
        reply = _asked(talk, frame)
        talk.ended += 1
        return _meaning(reply)

    candidate.__name__ = candidate.__qualname__ = name
    return candidate


def _asked(talk: _Talk, frame: bytes) -> dict[str, Any]:
    """Send one question and return what comes back."""
    try:
        wire.write_all(talk.writer, frame)
        reply = wire.receive(talk.reader)
    except (EOFError, OSError):
        raise _Unfit("exited") from None
    except wire.WireError as error:
        raise _Unfit(f"the program sent {error}") from None
    if not isinstance(reply, dict):
        raise _Unfit("the program sent no reply")
    return reply


def _meaning(reply: dict[str, Any]) -> Any:
    """Return the plain value that came back, or raise as the program did."""
    if "value" in reply:
        try:
            return wire.decode(reply["value"])
        except wire.WireError as error:
            raise _Unfit(f"the program sent {error}") from None
    if "raised" in reply:
        raise _exception(reply)
    raise _Unfit(f"the program returned {str(reply.get('unfit', 'nothing'))[:300]}, which cannot be judged")


def _exception(reply: dict[str, Any]) -> Exception:
    """Return an exception of the nearest built-in kind that is safe to raise here, with the same text."""
    names, text = reply["raised"], str(reply.get("text", ""))
    shown = str(reply.get("shown", ""))
    try:
        given = wire.decode(reply.get("args"))
    except wire.WireError:
        given = None
    arguments = ((*given,), (text,)) if isinstance(given, tuple) else ((text,),)
    for name in names if isinstance(names, list) else ():
        kind = getattr(builtins, name, None) if isinstance(name, str) else None
        if name in _QUIET:
            break
        if isinstance(kind, type) and issubclass(kind, Exception):
            error = _speaking(kind, arguments, text)
            if error is not None:
                vars(error)[_SHOWN] = shown
                return error
    error = RuntimeError(text)
    vars(error)[_SHOWN] = shown
    return error


def _speaking(kind: type[Exception], arguments: Iterable[tuple[Any, ...]], text: str) -> Exception | None:
    """Return an exception whose text is `text`, or None where the kind cannot be made from any of these arguments."""
    # Some kinds quote what they are given, and a class of the program may put together its own text.
    plain = type(kind.__name__, (kind,), {"__str__": lambda _: text})
    for each in (kind, plain):
        for given in arguments:
            with contextlib.suppress(Exception):
                error = each(*given)
                if str(error) == text:
                    return error
    return None


def _reason(error: BaseException) -> str:
    """Return in one line why the judge did not run to its end."""
    shown = vars(error).get(_SHOWN)
    text = " ".join(str(error if shown is None else shown).split())[:300]
    if isinstance(error, AssertionError):
        return f"assertion failed: {text}" if text else f"assertion failed: {_line(error)}"
    if isinstance(error, MemoryError):
        return "memory limit"
    return text if shown is not None else f"{type(error).__name__}: {text}"


def _line(error: BaseException) -> str:
    """Return the judge's own line that raised."""
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILE:
            number = trace.tb_lineno
        trace = trace.tb_next
    return linecache.getline(_FILE, number).strip()[:300]
