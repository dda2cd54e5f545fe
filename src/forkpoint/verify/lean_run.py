"""One run of a local `lean` under limits, and the messages it printed.

Lean runs code while it reads a file, so what a model wrote is first freed of the commands that would
(`forkpoint.verify.lean_source.refusal`), and Lean runs so that little is left to reach: a process group of its own that
is killed as a whole at the deadline, limits on address space, processor time, and the size of every file (what is
printed included), an empty folder as its place and home, no variable of this process's environment, nothing to read
from. These protections hold and no others: it is no sandbox against code written to break out. The network is not cut
off, files that this user may read can be read, and a process that starts a session of its own outlives the kill.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from forkpoint.errors import InputError

MAX_OUTPUT = 8 << 20
"""Bytes of any file that Lean writes, what it prints included."""
MAX_LINES = 20_000
"""Lines of what it prints that are read."""
START_SECONDS = 60.0
"""How long `lean --version` may take: a first start reads from a cold disk."""
_LIMITED = """
import os, resource, signal, sys
# Python ignores this signal, and what it starts would inherit that: Lean would go on after a failed write.
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
memory, seconds, size = map(int, sys.argv[1:4])
for what, most in (("AS", memory), ("CPU", seconds), ("FSIZE", size), ("CORE", 0)):
    try:
        resource.setrlimit(getattr(resource, "RLIMIT_" + what), (most, most))
    except (OSError, ValueError):
        pass  # macOS refuses some; the deadline holds there
os.execv(sys.argv[4], sys.argv[4:])
"""


@dataclass(frozen=True, kw_only=True)
class Lean:
    """A Lean that was found and started once."""

    binary: str
    """Its path."""
    version: str
    """What it says of itself."""
    libraries: str = ""
    """`LEAN_PATH`: folders of compiled libraries, such as Mathlib's."""
    memory: float = 32.0
    """GiB of address space; Mathlib's files are mapped into it."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message of Lean."""

    severity: str
    line: int
    """Line of the file it is about, from 1."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a run of Lean ended."""

    code: int | None
    """Exit code, the negative number of a signal, None at the deadline."""
    messages: tuple[Message, ...] = ()
    said: str = ""
    """What it printed that is no message: why it could not do its work."""


def find_lean(binary: str = "lean", *, libraries: str = "", memory: float = 32.0) -> Lean:
    """Return the Lean that a name or path stands for, started once.

    Args:
        binary: a name on PATH, or a path. Of a toolchain manager give the toolchain's own `lean`.
        libraries: `LEAN_PATH` for it.
        memory: GiB of address space, > 0.

    Raises:
        InputError: there is none, it does not start, or it is no Lean 4.
    """
    if memory <= 0:
        raise InputError(f"memory = {memory} leaves Lean no address space: give GiB above 0")
    path = shutil.which(os.path.expanduser(binary))
    if path is None:
        raise InputError(
            f"the verifier 'lean' needs Lean 4, and there is no executable {binary!r} on PATH: install Lean 4, or name "
            "the file with the setting binary = '/path/to/lean'"
        )
    found = Lean(binary=str(Path(path).absolute()), version="", libraries=libraries, memory=memory)
    ran, printed, _ = _run(found, ["--version"], "", START_SECONDS)
    if ran != 0 or "version 4." not in printed:
        how = f"it printed {printed.strip()[:100]!r}" if ran is not None else f"no answer in {START_SECONDS:g} s"
        raise InputError(
            f"{path} is no Lean 4 that starts here ({how}): name the `lean` of an installed toolchain with the setting "
            "binary"
        )
    return Lean(binary=found.binary, version=printed.strip(), libraries=libraries, memory=memory)


def run_lean(lean: Lean, text: str, deadline: float) -> Ran:
    """Return what Lean says of a file.

    Args:
        lean: which Lean.
        text: the file.
        deadline: seconds, > 0.
    """
    code, printed, complained = _run(lean, ["--json", "Answer.lean"], text, deadline)
    # Lean writes its messages to one stream; what evaluated terms print while it reads them comes on the other.
    found = [(line, _message(line)) for line in printed.split("\n", MAX_LINES)[:MAX_LINES]]
    other = [line.strip() for line, message in found if message is None and line.strip()]
    other += [line.strip() for line in complained.split("\n", MAX_LINES)[:MAX_LINES] if line.strip()]
    return Ran(code=code, messages=tuple(one for _, one in found if one is not None), said="; ".join(other)[:1000])


def _message(line: str) -> Message | None:
    """Return one line of `lean --json`, None where it is something else."""
    try:
        said = json.loads(line)
        return Message(severity=str(said["severity"]), line=int(said["pos"]["line"]), text=str(said["data"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _run(lean: Lean, arguments: Sequence[str], text: str, deadline: float) -> tuple[int | None, str, str]:
    """Return exit code and what was printed on either stream."""
    with (
        tempfile.TemporaryDirectory(prefix="forkpoint-lean-") as folder,
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as complained,
    ):
        Path(folder, "Answer.lean").write_text(text, encoding="utf-8", errors="replace")
        limits = [int(lean.memory * (1 << 30)), math.ceil(4 * deadline) + 10, MAX_OUTPUT]
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own binary
                [sys.executable, "-I", "-S", "-c", _LIMITED, *map(str, limits), lean.binary, *arguments],
                stdin=subprocess.DEVNULL, stdout=printed, stderr=complained, cwd=folder,
                env=_environment(lean, folder), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return 127, str(error.strerror or error), ""
        code: int | None = None
        try:
            code = process.wait(timeout=deadline)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return code, _read(printed), _read(complained)


def _environment(lean: Lean, folder: str) -> dict[str, str]:
    """Return all that Lean sees of an environment."""
    seen = {
        "PATH": os.pathsep.join([os.path.dirname(lean.binary), "/usr/bin", "/bin"]), "HOME": folder, "TMPDIR": folder,
        "LANG": "C.UTF-8", "LEAN_NUM_THREADS": "1",
    }  # fmt: skip
    return seen | ({"LEAN_PATH": lean.libraries} if lean.libraries else {})


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(MAX_OUTPUT).decode("utf-8", "replace")
