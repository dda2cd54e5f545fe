"""What a run ran on: versions, commit, cores, memory, devices. For bug reports and `recipe.json`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "forkpoint", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "scipy",
    "math-verify", "sympy", "pydantic", "peft", "trl", "vllm", "verl", "triton", "flash-attn",
)  # fmt: skip
"""Packages whose versions can change a result."""


def environment() -> dict[str, Any]:
    """Return a JSON-ready report of this process's surroundings; nothing in it identifies a person.

    >>> sorted(environment())
    ['commit', 'cores', 'devices', 'memory_bytes', 'platform', 'python', 'versions']
    """
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "devices": devices(),
        "commit": commit(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that can change a result, without importing them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the git commit of this source tree, with `+dirty` where it was edited; None outside one.

    An installed copy inside somebody else's repository does not count.
    """
    git = shutil.which("git")
    here = Path(__file__).resolve()
    if git is None or _git(git, here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    head = _git(git, here.parent, "rev-parse", "HEAD")
    changed = _git(git, here.parent, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{head}+dirty" if head and changed else head


def cores() -> int:
    """Return how many CPU cores this process may use: its affinity, cut to the quota of its control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = _first_line(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(words) == 2 and words[0].isdecimal():
        return max(1, min(allowed, -(-int(words[0]) // int(words[1]))))
    return allowed


def memory_bytes() -> int | None:
    """Return the memory this process may use in bytes, or None where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _first_line(Path("/sys/fs/cgroup/memory.max"))
    return min(total, int(limit)) if limit.isdecimal() else total


def devices() -> list[str]:
    """Return the devices that torch can use, the CPU last; why there are none where torch does not load."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [f"torch does not load: {error}"]
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} {properties.name}, {properties.total_memory / 1e9:.0f} GB")
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def describe(report: dict[str, Any]) -> str:
    """Return the report as aligned lines."""
    memory = report["memory_bytes"]
    rows = [
        ("python", report["python"]),
        ("platform", report["platform"]),
        ("cores", str(report["cores"])),
        ("memory", "unknown" if memory is None else f"{memory / 1e9:.1f} GB"),
        ("devices", "; ".join(report["devices"])),
        ("commit", report["commit"] or "none"),
        *report["versions"].items(),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _git(git: str, folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed program and arguments
            [git, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _first_line(path: Path) -> str:
    try:
        return path.read_text().split("\n")[0].strip()
    except OSError:
        return ""
