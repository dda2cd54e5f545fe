"""What a run ran on: the commit is the source's own."""

import subprocess

from forkpoint import environment


def git(folder, *arguments):
    named = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_source_and_not_of_a_repository_around_it(tmp_path, monkeypatch):
    source = tmp_path / "environment.py"
    source.write_text("1")
    monkeypatch.setattr(environment, "__file__", str(source))
    assert environment.commit() is None
    git(tmp_path, "init", "-q")
    (tmp_path / "other").write_text("1")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-qm", "other")
    assert environment.commit() is None
    git(tmp_path, "add", "environment.py")
    git(tmp_path, "commit", "-qm", "source")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert environment.commit() == head
    source.write_text("2")
    assert environment.commit() == f"{head}+dirty"
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    assert environment.commit() is None
