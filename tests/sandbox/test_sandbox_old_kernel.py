"""Kernels whose Landlock has no rules about truncation (before 6.2), made up by a copy that says to be the second."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from sandbox_kit import NO_NAMESPACES, need

from forkpoint.sandbox import Pool, Trial, protections, worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A kernel with Landlock's second version and one more readable folder: return that folder and one outside."""
    base = tmp_path_factory.mktemp("old")
    for folder in (base, *base.parents[:2]):
        folder.chmod(0o777)
    readable, outside = base / "readable", base / "outside"
    for folder in (readable, outside):
        folder.mkdir()
        folder.chmod(0o777)
    inside = base / "inside"
    shutil.copytree(Path(worker.__file__).parent / "inside", inside, ignore=shutil.ignore_patterns("__pycache__"))
    for name, was, becomes in (
        ("landlock.py", 'syscall("landlock", _CREATE, None, 0, 1)', 'min(2, syscall("landlock", _CREATE, None, 0, 1))'),
        ("root.py", '_SYSTEM = ("/lib",', f'_SYSTEM = ({str(readable)!r}, "/lib",'),
    ):
        text = (inside / name).read_text()
        assert text.count(was) == 1
        (inside / name).write_text(text.replace(was, becomes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "__file__", str(base / "worker.py"))
        yield readable, outside


@pytest.mark.parametrize(
    "attack",
    [
        "os.truncate({outside!r}, 0)",
        "os.truncate({readable!r}, 0)",
        "os.open({readable!r}, os.O_TRUNC)",
        "os.open({readable!r}, os.O_TRUNC | os.O_CREAT)",
        "os.open({readable!r}, os.O_TRUNC | 3)",
        "os.open({outside!r}, os.O_TRUNC | 3)",
        "os.open({outside!r}, os.O_TRUNC | os.O_RDWR)",
        "os.close(os.open({readable!r}, os.O_WRONLY | os.O_TRUNC))",
        "ctypes.CDLL(None).creat({readable!r}.encode(), 0o600)",
        "ctypes.CDLL(None).syscall(437, -100, {readable!r}.encode(), struct.pack('3Q', 0x200, 0, 0), 24)",
    ],
)
def test_what_may_not_be_written_keeps_its_length(old, attack):
    places = dict(zip(("readable", "outside"), (str(folder / "file") for folder in old), strict=True))
    for path in places.values():
        Path(path).write_text("precious")
        os.chmod(path, 0o666)
    program = f"import ctypes, os, struct\nprint(open({places['readable']!r}).read())\n{attack.format(**places)}"
    with Pool(workers=1, layers=need(*NO_NAMESPACES)) as pool:
        outcome = pool.run(Trial(program=program))
    assert outcome.stdout == "precious\n", outcome
    assert [Path(path).read_text() for path in places.values()] == ["precious"] * 2


def test_files_of_ones_own_are_written_as_ever(old):
    program = """
import os
for mode in ("w", "a", "r+", "w+", "wb"):
    with open("mine", mode) as file:
        file.truncate(0)
os.close(os.open("mine", os.O_RDWR | os.O_TRUNC))
"""
    with Pool(workers=1, layers=need(*NO_NAMESPACES)) as pool:
        assert pool.run(Trial(program=program)).reason == "passed"


def test_writing_is_not_said_to_be_refused_where_files_can_be_emptied(old):
    need(*NO_NAMESPACES)
    assert "write" in protections.__wrapped__(NO_NAMESPACES).active
    alone = protections.__wrapped__(("landlock", "user"))
    assert ("write" in alone.active, "read" in alone.active) == (False, True)
