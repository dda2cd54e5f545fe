"""Grading recorded completions: known numbers on real files, and bad files by line."""

from __future__ import annotations

import json
import math
import weakref
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from forkpoint.errors import InputError
from forkpoint.evaluate import grade, grade_report
from forkpoint.evaluate import recorded as reading
from forkpoint.evaluate.grade import grade_file
from forkpoint.evaluate.passk import mean_pass_at_k
from forkpoint.evaluate.recorded import read_recorded
from forkpoint.rollouts import Judgement, Verdict
from forkpoint.verify.verifiers import make_verifier

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not beside the repository")


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@needs_data
def test_qwen_math():
    report = grade_file(DATA / "recorded/qwen25math_math100x8.jsonl", answer="gt", completion="code", recorded="score")
    assert (report.agreed, report.compared, report.agreement) == (799, 800, 799 / 800)
    (odd,) = report.disagreements
    assert (odd.line, odd.sample, odd.gold) == (73, 7, "10{,}000")
    assert (odd.verdict, odd.recorded, odd.detail) == (Verdict.RIGHT, False, "10000")
    assert report.counts == {Verdict.RIGHT: 729, Verdict.WRONG: 71, Verdict.UNJUDGED: 0}
    # One more right answer than the recorded 728 of 800, in a problem that had none.
    assert report.accuracy.value == pytest.approx(729 / 800)
    assert (report.accuracy.problems, report.accuracy.samples) == (100, 800)
    recorded = [(len(row), sum(row)) for row in report.recorded]
    passes = [round(mean_pass_at_k(recorded, k), 4) for k in (1, 2, 4, 8)]
    assert passes == [0.91, 0.9329, 0.951, 0.96]
    assert list(report.pass_at_k) == [1, 2, 4, 8]
    assert report.pass_at_k[8] == pytest.approx(0.97)
    assert report.pass_at_k[1] == pytest.approx(report.accuracy.value)


@needs_data
@pytest.mark.parametrize(
    ("system", "percent"),
    [
        ("6b_finetuning", 21.68),
        ("6b_verification", 39.04),
        ("175b_finetuning", 34.72),
        ("175b_verification", 56.25),
    ],
)
def test_gsm8k_of_openai(system, percent):
    report = grade_file(
        DATA / "recorded/gsm8k_openai_6b_175b.jsonl",
        answer="ground_truth",
        completion=f"{system}.solution",
        recorded=f"{system}.is_correct",
        extraction="a-line",
    )
    assert (report.agreed, report.compared, report.disagreements) == (1319, 1319, ())
    assert round(100 * report.accuracy.value, 2) == percent
    assert list(report.pass_at_k) == [1]


def test_small_file_by_hand(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        {"q": "1+1", "a": 2, "c": [r"\boxed{2}", r"\boxed{3}"], "ok": [True, True]},
        "",
        {"q": "2+2", "a": "#### 4", "c": [r"\boxed{4}", r"\boxed{4.0}"], "ok": [1, 0]},
        {"q": "?", "a": r"\boxed{}", "c": [r"\boxed{4}", "x"], "ok": [True, False]},
    )
    report = grade_file(path, answer="a", completion="c", question="q", recorded="ok")
    right, wrong, unjudged = Verdict.RIGHT, Verdict.WRONG, Verdict.UNJUDGED
    assert report.verdicts == ((right, wrong), (right, right), (unjudged, unjudged))
    assert report.lines == (1, 3, 4)
    assert report.counts == {right: 3, wrong: 1, unjudged: 2}
    assert (report.accuracy.value, report.accuracy.problems, report.accuracy.samples) == (0.75, 2, 4)
    assert report.pass_at_k == {1: 0.75, 2: 1.0}
    assert (report.agreed, report.compared) == (2, 4)
    assert [(d.line, d.sample, d.recorded) for d in report.disagreements] == [(1, 1, True), (3, 1, False)]


def test_any_judge_and_nested_lists(tmp_path):
    path = write(tmp_path / "a.jsonl", {"a": "yes", "out": {"choices": [{"text": "yes"}, {"text": "no"}]}})

    def same(prompts, texts):
        return [
            Judgement(verdict=Verdict.RIGHT if p.answer == t else Verdict.WRONG, reward=0.0)
            for p, t in zip(prompts, texts, strict=True)
        ]

    report = grade_file(path, answer="a", completion="out.choices.text", judge=same)
    assert report.verdicts == ((Verdict.RIGHT, Verdict.WRONG),)
    assert math.isnan(report.agreement)
    assert math.isnan(report.accuracy.error)


def test_a_verifier_by_name_reads_the_row(tmp_path):
    row = {"answer_type": "Numerical", "error": "0.1", "a": "2", "out": {"text": [r"\boxed{2.05}", r"\boxed{2.3}"]}}
    path = write(tmp_path / "a.jsonl", row)
    report = grade_file(path, answer="a", completion="out.text", verifier="olympiad")
    assert [verdict.value for verdict in report.verdicts[0]] == ["right", "wrong"]
    (read,) = read_recorded(path, answer="a", completion="out.text")
    assert "out" not in read.meta, "completions are held once"
    # One that has no extraction is given none.
    assert sum(grade_file(path, answer="a", completion="out.text", verifier="countdown").counts.values()) == 2
    with pytest.raises(InputError, match="unknown verifier 'chioce': did you mean 'choice'"):
        grade_file(path, answer="a", completion="out.text", verifier="chioce")


def test_chunks_and_the_bounded_list_change_nothing(tmp_path, monkeypatch):
    path = write(
        tmp_path / "a.jsonl",
        *({"a": "1", "c": [rf"\boxed{{{n}}}"] * 2, "ok": [True, False]} for n in range(7)),
    )
    whole = grade_file(path, answer="a", completion="c", recorded="ok")
    monkeypatch.setattr(grade, "CHUNK", 2)
    monkeypatch.setattr(grade_report, "LISTED", 3)
    chunked = grade_file(path, answer="a", completion="c", recorded="ok")
    assert (chunked.verdicts, chunked.agreed, chunked.compared) == (whole.verdicts, 7, 14)
    assert len(whole.disagreements) == 7
    assert chunked.disagreements == whole.disagreements[:3]


def test_lines_are_read_one_at_a_time(tmp_path):
    path = write(tmp_path / "a.jsonl", {"a": "1", "c": "x"}, "not json")
    rows = read_recorded(path, answer="a", completion="c")
    assert next(rows).completions == ("x",)
    with pytest.raises(InputError, match="line 2"):
        next(rows)


GOOD = {"answer": "1", "completion": "x", "deep": {"solution": "y"}, "ok": True}


@pytest.mark.parametrize(
    ("line", "fields", "message"),
    [
        ("{oops", {}, "line 2: not valid JSON"),
        ("[1]", {}, "line 2: a JSON list"),
        ("[" * 100_000, {}, "line 2: JSON nested too deeply"),
        (GOOD, {"answer": "anwser"}, "line 1: no field 'anwser'; did you mean 'answer'"),
        (GOOD, {"completion": "deep.solutoin"}, "line 1: no field 'solutoin'; did you mean 'solution'"),
        (GOOD, {"completion": "answer.text"}, "line 1: no field 'text' inside a str"),
        ({**GOOD, "completion": None}, {}, "line 2: field 'completion' is a NoneType, but text"),
        ({**GOOD, "answer": math.nan}, {}, "line 2: field 'answer' is nan, which is how a missing number is written"),
        ({**GOOD, "answer": [1, math.inf]}, {}, "line 2: field 'answer' is inf"),
        ({**GOOD, "completion": []}, {}, "line 2: field 'completion' is an empty list"),
        ({**GOOD, "answer": True}, {}, "line 2: field 'answer' is a bool"),
        ({**GOOD, "ok": "yes"}, {}, "line 2: field 'ok' holds 'yes'"),
        ({**GOOD, "ok": [True, False]}, {}, "line 2: field 'ok' has 2 verdicts for 1 completions"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, fields, message):
    path = write(tmp_path / "a.jsonl", GOOD, line)
    names = {"answer": "answer", "completion": "completion", "recorded": "ok", **fields}
    with pytest.raises(InputError) as error:
        list(read_recorded(path, **names))
    assert message in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(InputError, match="line 1: not UTF-8"):
        grade_file(path, answer="a", completion="a")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="no line to grade"):
        grade_file(path, answer="a", completion="c")


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            grade_file(path, answer="a", completion="c")


def test_completions_are_not_held(tmp_path, monkeypatch):
    """100,000 completions take as long as they take; what is held at a time does not depend on how many there are."""
    path = write(tmp_path / "a.jsonl", *({"a": "1", "c": [rf"\boxed{{{n % 2}}}"] * 5} for n in range(1000)))
    monkeypatch.setattr(grade, "CHUNK", 10)
    alive, most, plain = [], [], reading.Recorded

    def watched(**fields):
        row = plain(**fields)
        alive.append(weakref.ref(row))
        most.append(sum(one() is not None for one in alive[-60:]))
        return row

    monkeypatch.setattr(reading, "Recorded", watched)
    report = grade_file(path, answer="a", completion="c", judge=make_verifier("exact"))
    assert report.counts == {Verdict.RIGHT: 2500, Verdict.WRONG: 2500, Verdict.UNJUDGED: 0}
    assert len(most) == 1000
    assert max(most) <= 21  # a chunk, the one before it, and the row just read


def test_what_completions_are_worth_can_be_kept_and_compared(tmp_path):
    from forkpoint.analyze.results import read_result

    rows = ({"id": name, "a": "1", "c": [r"\boxed{1}", "none", r"\boxed{2}"]} for name in "xy")
    path = write(tmp_path / "a.jsonl", *rows)
    grade_file(path, answer="a", completion="c", id="id", out=tmp_path / "graded.parquet")
    found = read_result(tmp_path / "graded.parquet")
    assert found.problems == ("x", "y")
    assert found.value_N.tolist() == [1.0, 0.0, 0.0] * 2
    assert found.format_N.tolist() == [1.0, 0.0, 1.0] * 2
    grade_file(path, answer="a", completion="c", out=tmp_path / "lines.parquet")
    assert read_result(tmp_path / "lines.parquet").problems == ("1", "2")
    with pytest.raises(InputError, match="give a name that ends so"):
        grade_file(path, answer="a", completion="c", out=tmp_path / "graded.jsonl")
    with pytest.raises(InputError, match="line 1: no field 'idd'"):
        grade_file(path, answer="a", completion="c", id="idd", out=tmp_path / "other.parquet")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "graded.parquet", "lines.parquet"]


def test_lines_with_the_same_id_are_one_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "CHUNK", 2)
    rows = [("x", "1", r"\boxed{1}"), ("y", "2", "no"), ("x", "1", "none"), ("y", "2", r"\boxed{2}"), ("x", "1", "")]
    rows = [{"id": name, "a": gold, "c": text, "ok": False} for name, gold, text in rows]
    out = tmp_path / "g.parquet"
    report = grade_file(write(tmp_path / "a.jsonl", *rows), answer="a", completion="c", id="id", recorded="ok", out=out)
    assert [[v.value for v in row] for row in report.verdicts] == [["right", "wrong", "wrong"], ["wrong", "right"]]
    assert report.lines == (1, 2)
    assert report.accuracy.value == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert [(one.line, one.sample) for one in report.disagreements] == [(1, 0), (4, 1)]
    assert report.recorded == ((False,) * 3, (False,) * 2)
    table = pq.read_table(out).to_pydict()
    assert list(zip(table["problem_id"], table["sample"], strict=True)) == [
        ("x", 0), ("y", 0), ("x", 1), ("y", 1), ("x", 2),
    ]  # fmt: skip
    assert report.notes == ("Problems have from 2 to 3 completions; they weigh the same, and pass@k ends at k = 2.",)
    path = write(tmp_path / "b.jsonl", *rows, {**rows[0], "a": "3"})
    said = "line 6: the id 'x' is that of line 1, which has another reference"
    with pytest.raises(InputError, match=said):
        grade_file(path, answer="a", completion="c", id="id")
    with pytest.raises(InputError, match="line 2: field 'id' is empty"):
        grade_file(write(tmp_path / "c.jsonl", rows[0], {**rows[0], "id": " "}), answer="a", completion="c", id="id")


def test_problems_that_cannot_be_judged_are_named(tmp_path):
    rows = [{"a": gold, "c": [r"\boxed{1}", ""]} for gold in ("1", "", r"\boxed{}", r"1 + \frac{")]
    report = grade_file(write(tmp_path / "a.jsonl", *rows), answer="a", completion="c")
    assert report.counts == {Verdict.RIGHT: 1, Verdict.WRONG: 1, Verdict.UNJUDGED: 6}
    assert [(line, name) for line, name, _ in report.unjudged] == [(2, "2"), (3, "3"), (4, "4")]
    assert {why for _, _, why in report.unjudged[:2]} == {"no reference answer"}
    assert report.accuracy.problems == 1
    # With no answer at all there is nothing to compare, and a reference that could be read makes it wrong.
    rows = [{"a": gold, "c": text} for gold in ("x+1", r"1 + \frac{") for text in ("", r"\boxed{}")]
    report = grade_file(write(tmp_path / "b.jsonl", *rows), answer="a", completion="c")
    assert [row[0].value for row in report.verdicts] == ["wrong", "wrong", "unjudged", "unjudged"]
    assert [name for _, name, _ in report.unjudged] == ["3", "4"]
    # The reference word for word is right, read or not.
    same = {"a": r"1, \ldots, 9", "c": [r"\boxed{1, \ldots, 9}", r"\boxed{1}"]}
    report = grade_file(write(tmp_path / "c.jsonl", same), answer="a", completion="c")
    assert [verdict.value for verdict in report.verdicts[0]] == ["right", "unjudged"]
