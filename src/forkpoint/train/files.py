"""Files that are either wholly there or not there at all, and disk errors told in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from forkpoint.errors import TrainingError

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


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes the place of `path`.

    On failure the temporary file is removed and whatever was at `path` is untouched.
    """
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
