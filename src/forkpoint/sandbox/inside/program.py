"""The untrusted side: run the program and, where a judge wants it, call its functions."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import linecache
import sys
import threading
import traceback
import types
import weakref
from collections.abc import Callable
from typing import Any

from . import wire
from .kernel import LIBC

_FILE = "<program>"
_TEXT = 1 << 16
"""Characters of an exception's text that arrive in the judge."""
_ARGUMENTS = 1 << 20
"""Bytes of an exception's arguments that do; longer ones stay behind."""


def run(source: str, link: tuple[int, int] | None, note: Callable[[str], None]) -> int:
    """Run the program as a script, or as a module that is then served to the judge.

    Args:
        source: The program.
        link: Descriptors to hear the judge's box by and to answer it; None: a script.
        note: Tells the keeper, once and before any line of the program runs, what became of compiling.

    Returns:
        The exit code.
    """
    code, failure = _compiled(source)
    note(failure or "ready")
    if code is None:
        print(failure, file=sys.stderr, flush=True)
        if link is not None:
            _send(link[1], {"failed": failure})
        return 1
    module = types.ModuleType("__main__" if link is None else "program")
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    # Tracebacks show the program's lines.
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    vars(module)["__builtins__"] = builtins
    status = _executed(code, vars(module))
    if link is None:
        gone = weakref.ref(module)
        del module
        return _ended(status, gone)
    _flush()
    if status is not None:
        _send(link[1], {"failed": status[1]})
        return status[0]
    _serve(*link, vars(module))
    return 0


def _compiled(source: str) -> tuple[types.CodeType | None, str]:
    """Return the code, or why there is none."""
    try:
        return compile(source, _FILE, "exec", dont_inherit=True), ""
    except SyntaxError as error:
        place = f" (line {error.lineno})" if error.lineno else ""
        return None, f"syntax error: {error.msg}{place}"
    except MemoryError:
        # Also what the parser says of an expression nested too deep for it.
        return None, "syntax error: too large or nested too deep to compile"
    except (ValueError, RecursionError, OverflowError) as error:
        # Null bytes and lone surrogates are values a compiler refuses.
        return None, f"syntax error: {type(error).__name__}: {str(error)[:200]}"


def _executed(code: types.CodeType, space: dict[str, Any]) -> tuple[int, str] | None:
    """Run the code; return exit code and reason where it did not run to its end."""
    # The program has the depth it would have at the top.
    sys.setrecursionlimit(sys.getrecursionlimit() + _depth())
    try:
        exec(code, space)  # noqa: S102 - what the box is for
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            status = int(stop.code or 0) & 0xFF
        else:
            print(stop.code, file=sys.stderr)
            status = 1
        return status, f"exited with code {status}"
    except BaseException as error:
        with contextlib.suppress(BaseException):
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            traceback.print_exception(error, file=sys.stderr)
        return 1, _described(error)
    return None


def _depth() -> int:
    """Return how many frames are below the caller's."""
    frame, count = sys._getframe(), 0
    while frame.f_back is not None:
        frame, count = frame.f_back, count + 1
    return count


def _described(error: BaseException) -> str:
    """Return one line about an exception, whatever its own methods do."""
    try:
        return f"{type(error).__name__}: {str(error)[:300]}"
    except BaseException:
        return "an exception that cannot be shown"


def _ended(status: tuple[int, str] | None, module: weakref.ref[types.ModuleType]) -> int:
    """End as an interpreter does: wait for threads, call what is registered, let go of all objects, flush."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    _flush()
    with contextlib.suppress(BaseException):
        _let_go(module)
    _flush()
    with contextlib.suppress(BaseException):
        LIBC.fflush(None)
    return 0 if status is None else status[0]


def _let_go(module: weakref.ref[types.ModuleType]) -> None:
    """Drop the program's module: files it forgot to close are written, `__del__` and `finally` run.

    os._exit would skip all that; the interpreter's own way out takes too long with what the zygote has loaded.
    """
    sys.modules.pop("__main__", None)
    gc.collect()
    left = module()
    if left is not None:
        # Something else holds the module; an interpreter empties it then.
        space = vars(left)
        for name in [name for name in space if name != "__builtins__"]:
            space[name] = None
        gc.collect()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(BaseException):
            stream.flush()  # type: ignore[union-attr]


def _send(writer: int, message: Any) -> None:
    with contextlib.suppress(OSError):  # the judge has ended
        wire.send(writer, message)


def _serve(reader: int, writer: int, space: dict[str, Any]) -> None:
    """Answer the judge's calls until it closes."""
    _send(writer, {"ready": True})
    while True:
        try:
            request = wire.receive(reader)
        except (EOFError, OSError, wire.WireError):
            return
        try:
            reply = _reply(request, space)
        except wire.WireError as error:
            reply = {"unfit": str(error)[:300]}
        except BaseException as error:
            reply = _raised(error)
        _flush()
        try:
            wire.send(writer, reply)
        except wire.WireError as error:
            _send(writer, {"unfit": str(error)[:300]})
        except OSError:
            return


def _raised(error: BaseException) -> dict[str, Any]:
    """Return what the judge needs to raise the like, whatever the exception's own methods do."""
    reply = {"raised": [kind.__name__ for kind in type(error).__mro__], "shown": _described(error), "text": ""}
    with contextlib.suppress(BaseException):
        reply["text"] = str.__str__(str(error))[:_TEXT]
    with contextlib.suppress(BaseException):
        arguments = wire.encode(BaseException.args.__get__(error))  # type: ignore[attr-defined]
        if len(wire.framed(arguments)) <= _ARGUMENTS:
            reply["args"] = arguments
    return reply


def _reply(request: Any, space: dict[str, Any]) -> Any:
    """Look a function up, or call it."""
    found = _resolved(request["name"], space)
    if "args" not in request:
        return {"value": callable(found)}
    if not callable(found):
        raise NameError(f"no function {request['name']!r}")
    arguments = [wire.decode(value) for value in request["args"]]
    keywords = {name: wire.decode(value) for name, value in request["kwargs"].items()}
    return {"value": wire.encode(found(*arguments, **keywords))}


def _resolved(name: str, space: dict[str, Any]) -> Any:
    """Return the function `name`; in `Class.method` the class is called for an object."""
    first, *rest = name.split(".")
    found = space.get(first)
    for part in rest:
        found = getattr(found() if isinstance(found, type) else found, part, None)
    return found
