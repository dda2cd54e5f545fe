"""The untrusted side: run the program and, where a judge wants it, call its functions."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import linecache
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

from . import wire

_FILE = "<program>"


def run(source: str, link: int | None, note: Callable[[str], None]) -> int:
    """Run the program as a script, or as a module that is then served to the judge.

    Args:
        source: The program.
        link: Descriptor of the judge's box; None: a script.
        note: Tells the keeper, once and before any line of the program runs, what became of compiling.

    Returns:
        The exit code.
    """
    code, failure = _compiled(source)
    note(failure or "ready")
    if code is None:
        print(failure, file=sys.stderr, flush=True)
        if link is not None:
            _send(link, {"failed": failure})
        return 1
    module = types.ModuleType("__main__" if link is None else "program")
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    # Tracebacks show the program's lines.
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    vars(module)["__builtins__"] = builtins
    status = _executed(code, vars(module))
    if link is None:
        return _ended(status)
    _flush()
    if status is not None:
        _send(link, {"failed": status[1]})
        return status[0]
    _serve(link, vars(module))
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


def _ended(status: tuple[int, str] | None) -> int:
    """End as an interpreter does: wait for threads, call what is registered, flush."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    _flush()
    return 0 if status is None else status[0]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()


def _send(link: int, message: Any) -> None:
    with contextlib.suppress(OSError):  # the judge has ended
        wire.send(link, message)


def _serve(link: int, space: dict[str, Any]) -> None:
    """Answer the judge's calls until it closes."""
    _send(link, {"ready": True})
    while True:
        try:
            request = wire.receive(link)
        except (EOFError, OSError, wire.WireError):
            return
        try:
            reply = _reply(request, space)
        except wire.WireError as error:
            reply = {"unfit": str(error)[:300]}
        except BaseException as error:
            names = [kind.__name__ for kind in type(error).__mro__]
            reply = {"raised": names, "text": _described(error)}
        _flush()
        try:
            wire.send(link, reply)
        except wire.WireError as error:
            _send(link, {"unfit": str(error)[:300]})
        except OSError:
            return


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
