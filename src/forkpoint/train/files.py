"""Files that are either wholly there or not there at all, and disk errors told in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from forkpoint.errors import InputError, TrainingError

INTACT = "everything written before it is intact"
_DISK = re.compile(r"os error (28|122)\b|code: (28|122)\b|errno (28|122)\b|No space left|StorageFull", re.I)


def disk_is_full(error: BaseException) -> bool:
    """Return whether an exception means that no space is left.

    The Rust writers of safetensors and tokenizers raise their own exceptions, which carry the system's
    error number in the message alone.

    >>> disk_is_full(OSError(28, "No space left on device")), disk_is_full(OSError(13, "Permission denied"))
    (True, False)
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return isinstance(error, Exception) and bool(_DISK.search(str(error)))


@contextlib.contextmanager
def disk_errors(what: str, folder: Path, intact: str) -> Iterator[None]:
    """Turn a full disk, or any other error of the file system, into one `TrainingError`.

    Args:
        what: what was being written, for the message.
        folder: where it was being written.
        intact: what the user still has, for the message.

    Raises:
        TrainingError: for a full disk and for every `OSError`; anything else passes through.
    """
    try:
        yield
    except Exception as error:
        if disk_is_full(error):
            raise TrainingError(
                f"the disk is full: {what} could not be written to {folder}; {intact}; free some space and resume"
            ) from error
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise TrainingError(
                f"{what} could not be written to {folder} ({reason}); {intact}; make the folder writable and resume"
            ) from error
        raise


def fsync_path(path: Path) -> None:
    """Ask the system to put a file's bytes, or a folder's entries, on the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def output_path(path: Path, inputs: Iterable[str | Path] = ()) -> Path:
    """Return the file that an output replaces: where a symbolic link leads, else the path itself.

    Args:
        path: where something will be written.
        inputs: files that are read, and folders, whose files may not be replaced either, pages (.html) aside.

    Raises:
        InputError: one of the inputs would be replaced, or something that is no regular file.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        mode = target.stat().st_mode
    except OSError:
        return target  # Nothing is there to be lost; what else is wrong is told by whoever writes.
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or another special file"
        raise InputError(f"{path} is {kind}, which cannot be replaced: give the name of a file")
    page = target.suffix in (".html", ".htm")
    for source in map(Path, inputs):
        inside = source.is_dir() and target.resolve().is_relative_to(source.resolve()) and not page
        if inside or (source.exists() and source.samefile(target)):
            raise InputError(f"{path} would replace what is read from {source}: give another --out")
    return target


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Let no other process write to `path` meanwhile: the file `.NAME.lock` beside it is locked, and removed after.

    The kernel releases the lock of a process that dies. Without locks in system or file system there is none here.

    Raises:
        InputError: another process has the lock.
        TrainingError: the folder cannot be written to.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    file = path.with_name(f".{path.name}.lock")
    while True:
        with disk_errors(file.name, path.parent, INTACT):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another process is writing {path}: wait for it, or give another --out") from None
            except OSError:
                pass
            # Whoever had the lock may have removed the file between our opening and locking it.
            if _is(handle, file):
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
                return
        finally:
            os.close(handle)


def _is(handle: int, file: Path) -> bool:
    """Return whether an open file is the one that has a name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes the place of `path`.

    A symbolic link stays, and what it leads to is replaced. On failure the temporary file is removed and whatever was
    at `path` is untouched.

    Raises:
        InputError: `path` is something that is no regular file.
    """
    path = output_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        yield temporary
        fsync_path(temporary)
        os.replace(temporary, path)
        fsync_path(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
