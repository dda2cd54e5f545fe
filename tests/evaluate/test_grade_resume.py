"""Grading that was stopped: what is written, where it goes on, what is refused."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from forkpoint.errors import InputError
from forkpoint.evaluate import grade, parts
from forkpoint.evaluate.grade import grade_file
from forkpoint.rollouts import Judgement, Verdict
from forkpoint.verify.verifiers import make_verifier

FIELDS = {"answer": "a", "completion": "c", "recorded": "ok", "id": "id"}


def lines(count=60):
    rows = (
        {"id": f"p{n % 20}", "a": str(n % 20), "c": [rf"so \boxed{{{n % 3 + 1}}}", "no box"], "ok": [n % 2 == 0, False]}
        for n in range(count)
    )
    return [json.dumps(row) + "\n" for row in rows]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(grade, "CHUNK", 5)
    monkeypatch.setattr(grade, "PART", 20)


def counting(seen, *, fail_after=None, error=KeyboardInterrupt):
    exact = make_verifier("exact")

    def judge(prompts, texts):
        if fail_after is not None and len(seen) >= fail_after:
            raise error
        seen.extend(texts)
        return exact(prompts, texts)

    return judge


def test_an_interrupted_grading_goes_on_and_finds_the_same(tmp_path, small):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(lines()))
    whole = grade_file(path, **FIELDS, out=tmp_path / "whole.parquet", judge=counting([]))
    assert whole == grade_file(path, **FIELDS, judge=counting([])), "what is written changes nothing"
    assert whole.continued == 0
    assert len(whole.disagreements) > 3
    out = tmp_path / "part.parquet"
    with pytest.raises(KeyboardInterrupt):
        grade_file(path, **FIELDS, out=out, judge=counting([], fail_after=50))
    assert not out.exists()
    assert sum(len(columns["line"]) for columns in parts.read_parts(out, 3)) == 50
    seen = []
    found = grade_file(path, **FIELDS, out=out, judge=counting(seen))
    assert (len(seen), found.continued) == (70, 50)
    assert found == whole
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "part.parquet", "whole.parquet"]


CHILD = """
import sys, time
from pathlib import Path
from forkpoint.evaluate import grade
from forkpoint.rollouts import Judgement, Verdict

grade.CHUNK, grade.PART = 5, 20

def slow(prompts, texts):
    with open(sys.argv[2], "a") as file:
        file.write(f"{len(texts)}\\n")
    time.sleep(0.05)
    right = [p.answer in t for p, t in zip(prompts, texts)]
    return [Judgement(verdict=Verdict.RIGHT if one else Verdict.WRONG, reward=0) for one in right]

grade.grade_file(sys.argv[1], answer="a", completion="c", recorded="ok", id="id", out=sys.argv[3], judge=slow)
"""


def test_a_killed_process_loses_a_part_at_most(tmp_path, small):
    path, log, out = tmp_path / "a.jsonl", tmp_path / "log", tmp_path / "g.parquet"
    path.write_text("".join(lines(200)))
    child = subprocess.Popen([sys.executable, "-c", CHILD, path, log, out], env={**os.environ})
    state = tmp_path / "g.parts/state.json"
    deadline = time.monotonic() + 60
    while not (state.exists() and json.loads(state.read_text())["state"]["parts"] >= 3):
        assert time.monotonic() < deadline
        assert child.poll() is None, "it is to be killed half-way"
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = json.loads(state.read_text())["state"]
    assert 60 <= 2 * before["line"] < 400
    assert sum(map(int, log.read_text().split())) - 2 * before["line"] <= 20 + 10
    seen = []

    def judge(prompts, texts):
        seen.extend(texts)
        return [
            Judgement(verdict=Verdict.RIGHT if p.answer in t else Verdict.WRONG, reward=0)
            for p, t in zip(prompts, texts, strict=True)
        ]

    found = grade_file(path, **FIELDS, out=out, judge=judge)
    assert len(seen) == 400 - 2 * before["line"]
    assert found.continued == 2 * before["line"]
    whole = grade_file(path, **FIELDS, out=tmp_path / "whole.parquet", judge=judge)
    assert found == whole
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))


def stopped(tmp_path, *, packed=False):
    """Return a file, and the table of a grading of it that was stopped."""
    path, out = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl"), tmp_path / "g.parquet"
    data = "".join(lines()).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(KeyboardInterrupt):
        grade_file(path, **FIELDS, out=out, judge=counting([], fail_after=50))
    return path, out


def test_packed_files_go_on_too(tmp_path, small):
    path, out = stopped(tmp_path, packed=True)
    seen = []
    found = grade_file(path, **FIELDS, out=out, judge=counting(seen))
    assert (len(seen), found.continued, sum(found.counts.values())) == (70, 50, 120)


def test_a_file_may_grow_but_not_change(tmp_path, small):
    path, out = stopped(tmp_path)
    path.write_text("".join([*lines(), lines()[3]]))
    text = path.read_text()
    path.write_text(text.replace("so", "to", 1))
    with pytest.raises(InputError, match=r"a\.jsonl has changed in its first 25 lines since they were graded"):
        grade_file(path, **FIELDS, out=out, judge=counting([]))
    path.write_text("".join(lines()[:10]))
    with pytest.raises(InputError, match="has changed in its first 25 lines"):
        grade_file(path, **FIELDS, out=out, judge=counting([]))
    path.write_text(text)
    assert sum(grade_file(path, **FIELDS, out=out, judge=counting([])).counts.values()) == 122


def test_a_bad_line_is_named_and_what_came_before_is_kept(tmp_path, small):
    path, out = tmp_path / "a.jsonl", tmp_path / "g.parquet"
    good = lines()
    path.write_text("".join([*good[:41], "{oops\n", *good[42:]]))
    with pytest.raises(InputError, match="line 42: not valid JSON"):
        grade_file(path, **FIELDS, out=out, judge=counting([]))
    path.write_text("".join(good))
    assert grade_file(path, **FIELDS, out=out, judge=counting([])).continued == 80


def test_other_conditions_are_refused_and_fresh_moves_them_aside(tmp_path, small):
    path, out = stopped(tmp_path)
    with pytest.raises(InputError, match=r"other conditions \(recorded: ok against None; id: id against None\)"):
        grade_file(path, answer="a", completion="c", out=out, judge=counting([]))
    seen = []
    found = grade_file(path, **FIELDS, out=out, judge=counting(seen), fresh=True)
    assert (len(seen), found.continued) == (120, 0)
    assert (tmp_path / "g.parts.1/state.json").is_file()
    seen.clear()
    grade_file(path, **FIELDS, out=out, judge=counting(seen))
    assert len(seen) == 120, "a finished table is made anew"


@pytest.mark.parametrize("after", ["write_part", "write_state"])
def test_an_interrupt_between_writing_and_counting_repeats_nothing(tmp_path, small, monkeypatch, after):
    path, out = tmp_path / "a.jsonl", tmp_path / "g.parquet"
    path.write_text("".join(lines()))
    write, left = getattr(parts, after), [KeyboardInterrupt()]

    def interrupted(*arguments):
        write(*arguments)
        if (tmp_path / "g.parts/part-00001.parquet").exists() and left:
            raise left.pop()

    monkeypatch.setattr(parts, after, interrupted)
    with pytest.raises(KeyboardInterrupt):
        grade_file(path, **FIELDS, out=out, judge=counting([]))
    found = grade_file(path, **FIELDS, out=out, judge=counting([]))
    assert found.continued == 40
    assert found == grade_file(path, **FIELDS, judge=counting([]))
    assert pq.read_metadata(out).num_rows == 120


def test_an_interrupt_while_a_chunk_is_taken_in_repeats_nothing(tmp_path, small, monkeypatch):
    path, out = tmp_path / "a.jsonl", tmp_path / "g.parquet"
    path.write_text("".join(lines()))
    copy, calls = grade.Place.copy, []

    def interrupted(place):
        calls.append(place)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return copy(place)

    monkeypatch.setattr(grade.Place, "copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grade_file(path, **FIELDS, out=out, judge=counting([]))
    found = grade_file(path, **FIELDS, out=out, judge=counting([]))
    assert 0 < found.continued < 120
    assert found == grade_file(path, **FIELDS, judge=counting([]))
    assert pq.read_metadata(out).num_rows == 120


def test_one_process_at_a_time_grades_into_a_table(tmp_path, small):
    path, out = tmp_path / "a.jsonl", tmp_path / "g.parquet"
    path.write_text("".join(lines()))
    exact, tried = make_verifier("exact"), []

    def judge(prompts, texts):
        if not tried:
            with pytest.raises(InputError, match=r"another process is writing .*g\.parts: wait for it") as told:
                grade_file(path, **FIELDS, out=out, judge=counting([]))
            tried.append(told)
        return exact(prompts, texts)

    assert sum(grade_file(path, **FIELDS, out=out, judge=judge).counts.values()) == 120
    assert tried
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "g.parquet"]


def test_a_finished_table_of_other_completions_is_not_replaced(tmp_path, small):
    one, other, out = tmp_path / "one.jsonl", tmp_path / "other.jsonl", tmp_path / "g.parquet"
    one.write_text("".join(lines()))
    other.write_text("".join(lines()[5:]))
    grade_file(one, **FIELDS, out=out, judge=counting([]))
    first = out.read_bytes()
    seen = []
    with pytest.raises(InputError, match=r"g\.parquet exists and is not the table of these completions of .*other"):
        grade_file(other, **FIELDS, out=out, judge=counting(seen))
    assert (out.read_bytes(), seen) == (first, [])
    one.write_text("".join([*lines(), lines()[3]]))
    grade_file(one, **FIELDS, out=out, judge=counting([]))
    assert pq.read_metadata(out).num_rows == 122, "a file may grow"
    grade_file(other, **FIELDS, out=out, judge=counting([]), fresh=True)
    assert pq.read_metadata(out).num_rows == 110
    assert pq.read_metadata(tmp_path / "g.parquet.1").num_rows == 122
    with pytest.raises(InputError, match="absent cannot be read"):
        grade_file(tmp_path / "absent", **FIELDS, out=out, judge=counting([]))
    out.write_bytes(b"PAR1 of somebody")
    with pytest.raises(InputError, match="is not the table of these completions"):
        grade_file(one, **FIELDS, out=out, judge=counting([]))
    assert out.read_bytes() == b"PAR1 of somebody"


def test_damaged_and_foreign_files(tmp_path, small):
    path, out = stopped(tmp_path)
    (tmp_path / "g.parts/part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"part-00001\.parquet is damaged: give --fresh"):
        grade_file(path, **FIELDS, out=out, judge=counting([]))
    (tmp_path / "g.parts/state.json").write_text("{}")
    with pytest.raises(InputError, match=r"state\.json is damaged"):
        grade_file(path, **FIELDS, out=out, judge=counting([]))
    # Killed before the first state was written: a part and a temporary file, which do not count.
    (tmp_path / "g.parts/state.json").rename(tmp_path / "g.parts/.tmp-state.json")
    assert grade_file(path, **FIELDS, out=out, judge=counting([])).continued == 0
    (tmp_path / "g.parts").mkdir()
    (tmp_path / "g.parts/thesis.tex").touch()
    with pytest.raises(InputError, match="holds something that is no half of a grading"):
        grade_file(path, **FIELDS, out=out, judge=counting([]))
