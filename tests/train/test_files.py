"""Files: what an output may replace, and one writer at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from forkpoint.errors import InputError
from forkpoint.train.files import atomic_file, only_writer, output_path


def write(path, text="new"):
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def test_a_symbolic_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    real, link, dangling = tmp_path / "far/real", tmp_path / "link", tmp_path / "dangling"
    real.write_text("old")
    link.symlink_to(real)
    dangling.symlink_to("far/made")
    write(link)
    write(dangling)
    assert (real.read_text(), (tmp_path / "far/made").read_text()) == ("new", "new")
    assert (link.is_symlink(), dangling.is_symlink()) == (True, True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["dangling", "far", "link", "made", "real"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    pipe, folder, link = tmp_path / "pipe", tmp_path / "folder", tmp_path / "link"
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to(pipe)
    for path, said in ((pipe, "a device or another special file"), (folder, "a folder"), (link, "a device")):
        with pytest.raises(InputError, match=f"{path.name} is {said}.*, which cannot be replaced: give the name of a"):
            write(path)
    assert (pipe.is_fifo(), folder.is_dir(), link.is_symlink()) == (True, True, True)


def test_an_input_is_no_output(tmp_path):
    data, link, run = tmp_path / "data", tmp_path / "link", tmp_path / "run"
    data.write_text("x")
    link.symlink_to(data)
    run.mkdir()
    for name in ("rows.jsonl", "report.html"):
        (run / name).write_text("x")
    for path, source in ((data, data), (data, link), (link, data), (run / "rows.jsonl", run)):
        with pytest.raises(InputError, match=f"{path.name} would replace what is read from .*: give another --out"):
            output_path(path, [source])
    assert output_path(run / "report.html", [run]) == run / "report.html", "a page is written anew"
    assert output_path(run / "kept.jsonl", [run, tmp_path / "absent", "owner/name"]) == run / "kept.jsonl"


CHILD = """
import sys, time
from pathlib import Path
from forkpoint.train.files import only_writer

with only_writer(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_dead_process_holds_no_lock(tmp_path):
    out = tmp_path / "some/out"
    child = subprocess.Popen([sys.executable, "-c", CHILD, out], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match=r"another process is writing .*out: wait for it"), only_writer(out):
        pass
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert (tmp_path / "some/.out.lock").exists()
    with only_writer(out), only_writer(tmp_path / "some/other"):
        pass
    assert list((tmp_path / "some").iterdir()) == []


def test_a_lock_on_a_file_that_was_removed_is_none(tmp_path, monkeypatch):
    import fcntl

    lock, flock = tmp_path / ".out.lock", fcntl.flock

    def late(handle, how):
        flock(handle, how)
        if not seen:
            lock.unlink()
        seen.append(os.fstat(handle).st_ino)

    seen = []
    monkeypatch.setattr(fcntl, "flock", late)
    with only_writer(tmp_path / "out"):
        assert len(seen) == 2
        assert lock.stat().st_ino == seen[-1]
