"""Removing what a hostile program left: any depth, any mode, no link followed."""

from __future__ import annotations

import contextlib
import os
import stat


def remove(path: str) -> None:
    """Remove a folder and all that is in it; what cannot be removed stays.

    Folders in folders are first moved up one by one, so neither depth nor length of a path matters.
    """
    with contextlib.suppress(OSError):
        if not os.path.islink(path):
            os.chmod(path, 0o700)
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)


def _empty(top: int) -> None:
    waiting = list(os.listdir(top))
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(OSError):
            if not _is_folder(name, top):
                os.unlink(name, dir_fd=top)
                continue
            os.chmod(name, 0o700, dir_fd=top)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                waiting += _moved_up(inner, top)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _moved_up(inner: int, top: int) -> list[str]:
    """Move all that is in the folder `inner` to the folder `top`; return the new names."""
    names = []
    for child in os.listdir(inner):
        # Nothing the program could have put in the way.
        new = os.urandom(12).hex()
        with contextlib.suppress(OSError):
            if _is_folder(child, inner):
                # A folder without the right to write cannot be moved: its link to its parent would change.
                os.chmod(child, 0o700, dir_fd=inner)
            os.rename(child, new, src_dir_fd=inner, dst_dir_fd=top)
            names.append(new)
    return names


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
