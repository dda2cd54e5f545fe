"""`forkpoint eval`, `select` and `merge` on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny
from forkpoint.cli import app
from openai_double import chat, serving

PROBLEMS = [{"id": name, "question": f"what is {i}", "answer": i} for i, name in enumerate("abc")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


OPTIONS = ("--data", "mine.jsonl", "--id", "id", "--samples", 2)


def test_a_server_on_ones_own_problems(folder):
    def behave(path, body, number):
        return chat(rf"\boxed{{{min(int(body['messages'][-1]['content'].split()[2]), 1)}}}")

    with serving(behave) as double:
        done = run("eval", double.url, *OPTIONS)
        assert done.exit_code == 0, done.output
        again = run("eval", double.url, *OPTIONS, "--json")
    assert "mine.jsonl  3 problems, 6 answers of little" in done.stdout
    assert "avg@2            66.67 %" in done.stdout
    assert "written to evals/little/mine.parquet" in done.stdout
    (found,) = json.loads(again.stdout)
    assert (found["answers"], found["unjudged"]) == (6, 0)
    assert found["metrics"]["pass@2"]["value"] == pytest.approx(2 / 3)


def test_a_server_that_stops_answering_ends_in_a_sentence(folder, monkeypatch):
    monkeypatch.setattr("forkpoint.evaluate.endpoint.LONGEST_WAIT", 0.001)
    with serving(lambda path, body, number: chat(r"\boxed{1}") if number < 2 else None) as double:
        done = run("eval", double.url, *OPTIONS, "--concurrency", 1)
    assert done.exit_code == 3
    assert "2 of 6 answers to mine are written: give the same command again to go on" in done.stderr
    with serving(lambda *_: chat(r"\boxed{1}")) as double:
        assert run("eval", double.url, *OPTIONS, "--concurrency", 1).exit_code == 0
        assert len(double.asked) == 4


def test_a_model_folder_and_selection_from_its_answers(folder):
    tiny.save(folder / "little")
    drawn = ("--max-tokens", 4, "--temperature", 1, "--template", "none", "--place", "none")
    done = run("eval", "little", *OPTIONS, *drawn, "--limit", 2)
    assert done.exit_code == 0, done.output
    assert "note: " not in done.stdout
    kept = run("select", "mine.jsonl", "--answers", "evals/little/mine/answers", "--id", "id", "--out", "kept.jsonl",
               "--max-pass", 0.5, "--top", 1, "--by", "length")  # fmt: skip
    assert kept.exit_code == 0, kept.output
    assert "kept 1 of 3 rows: kept.jsonl" in kept.stdout
    assert "1 dropped: not answered" in kept.stdout
    assert len((folder / "kept.jsonl").read_text().splitlines()) == 1
    area = run("select", "mine.jsonl", "--answers", "evals/little/mine/answers", "--id", "id", "--out", "kept.jsonl",
               "--area-model", "little", "--top", 1, "--template", "none", "--json")  # fmt: skip
    assert json.loads(area.stdout)["dropped"] == {"entropy area not known": 2, "not answered": 1}


def write(name, *rows):
    Path(name).write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


RECORDED = ("eval", "--completions", "r.jsonl", "--answer", "a", "--completion", "c")


def test_recorded_completions_in_words(folder):
    rows = [{"i": 1, "a": "1", "c": [r"\boxed{1}"] * 3}, {"i": "\x1b[31m2", "a": r"\frac{1}{", "c": [r"\boxed{2}", ""]}]
    write("r.jsonl", *rows)
    done = run(*RECORDED, "--id", "i")
    assert done.exit_code == 0, done.output
    assert "completions  5 (3 right, 0 wrong, 2 unjudged)" in done.stdout
    assert "accuracy     100.00 %\n" in done.stdout, "one problem has no interval"
    assert "[31m2 (line 2): " in done.stdout
    assert "note: Problems have from 2 to 3 completions" in done.stdout
    assert "\x1b" not in done.stdout
    write("r.jsonl", {"a": "", "c": r"\boxed{1}"})
    assert "accuracy     not known: nothing was judged" in run(*RECORDED).stdout
    assert json.loads(run(*RECORDED, "--json").stdout)["accuracy"] is None
    write("r.jsonl", {"a": "B", "c": r"\boxed{(B)}"})
    assert "1 right" in run(*RECORDED, "--verifier", "choice", "--out", "g.parquet").stdout


def test_an_interrupted_grading_is_continued(folder, monkeypatch):
    from forkpoint.evaluate import grade

    monkeypatch.setattr(grade, "CHUNK", 1)
    monkeypatch.setattr(grade, "PART", 2)
    write("r.jsonl", *({"a": "1", "c": r"\boxed{1}"} for _ in range(5)), "{oops")
    out = ("--out", "g.parquet")
    assert "line 6: not valid JSON" in run(*RECORDED, *out).stderr
    write("r.jsonl", *({"a": "1", "c": r"\boxed{1}"} for _ in range(5)), {"a": "1", "c": "2"})
    assert "other conditions (id: None against a)" in run(*RECORDED, *out, "--id", "a").stderr
    done = run(*RECORDED, *out)
    assert "5 completions were graded by an earlier call" in done.stdout
    assert "(5 right, 1 wrong, 0 unjudged)" in done.stdout
    assert "earlier call" not in run(*RECORDED, *out, "--fresh").stdout


GRADED = [{"id": name, "sample": 0, "verdict": verdict} for name, verdict in (("a", "right"), ("b", "wrong"))]
TRACE = [{"prompt_id": row["id"], "ids": [1], "entropy": [0.1], "verdict": row["verdict"]} for row in GRADED]


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["compare", "one.jsonl", "two.jsonl"], "two.jsonl"),
        (["compare", "x=one.jsonl:verdict", "two.jsonl"], "link.jsonl"),
        (["compare", "one.jsonl", "evals"], "evals/mine.jsonl"),
        (["compare", "one.jsonl", "two.jsonl"], "pipe"),
        (["select", "mine.jsonl", "--answers", "t.jsonl", "--id", "id", "--mixed"], "mine.jsonl"),
        (["select", "mine.jsonl", "--answers", "t.jsonl", "--id", "id", "--mixed"], "t.jsonl"),
        (["select", "mine.jsonl", "--answers", "t.jsonl", "--id", "id", "--mixed", "--areas", "k.manifest.jsonl"],
         "k.jsonl"),
        ([*RECORDED], "pipe.parquet"),
        (["analyze", "t.jsonl"], "t.jsonl"),
        (["analyze", "t.jsonl", "--save", "t.jsonl"], "page.html"),
        (["report", "evals"], "evals/mine.jsonl"),
    ],
)  # fmt: skip
def test_what_is_read_is_not_replaced(folder, arguments, out):
    for name in ("one.jsonl", "two.jsonl"):
        write(name, *GRADED)
    write("t.jsonl", *TRACE)
    write("r.jsonl", {"a": "1", "c": "1"})
    write("k.manifest.jsonl", {"id": "a", "entropy_area": 1.0})
    (folder / "evals").mkdir()
    write("evals/mine.jsonl", *GRADED)
    (folder / "link.jsonl").symlink_to("one.jsonl")
    for pipe in ("pipe", "pipe.parquet"):
        os.mkfifo(pipe)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = run(*arguments, "--out", out)
    assert done.exit_code == 2, done.output
    assert "would replace what is read from" in done.stderr or "which cannot be replaced" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert all((folder / pipe).is_fifo() for pipe in ("pipe", "pipe.parquet"))


def test_a_page_is_written_through_a_link(folder):
    for name in ("one.jsonl", "two.jsonl"):
        write(name, *GRADED)
    (folder / "far").mkdir()
    (folder / "page.html").symlink_to("far/page.html")
    for _ in range(2):
        assert run("compare", "one.jsonl", "two.jsonl", "--out", "page.html").exit_code == 0
    assert (folder / "page.html").is_symlink()
    assert (folder / "far/page.html").read_text().startswith("<!doctype html>")


def test_selection_by_graded_answers_without_tokens(folder):
    write("r.jsonl", *({"i": row["id"], "a": row["answer"], "c": [r"\boxed{0}", r"\boxed{1}"]} for row in PROBLEMS))
    assert run(*RECORDED, "--id", "i", "--out", "g.parquet").exit_code == 0
    write("g.jsonl", {"id": "a", "verdict": ["right", "wrong"], "length": [3, 5]}, {"id": "b", "verdict": "right"})
    for answers, kept, reasons in (
        ("g.parquet", ["a", "b"], {"all wrong": 1}), ("g.jsonl", ["a"], {"all right": 1, "not answered": 1}),
    ):  # fmt: skip
        done = run("select", "mine.jsonl", "--answers", answers, "--id", "id", "--out", "k.jsonl", "--mixed", "--json")
        assert done.exit_code == 0, done.output
        assert [json.loads(line)["id"] for line in (folder / "k.jsonl").read_text().splitlines()] == kept
        assert (json.loads(done.stdout)["dropped"], json.loads(done.stdout)["answers"]) == (reasons, answers)
    first = json.loads((folder / "k.manifest.jsonl").read_text().splitlines()[0])
    assert (first["answers"], first["judged"], first["right"], first["length"]) == (2, 2, 1, 4)


def test_merging(folder):
    for seed, name in enumerate(("one", "two")):
        tiny.save(folder / name, seed=seed)
    done = run("merge", "one", "two", "--base", "two", "--out", "both")
    assert done.exit_code == 0, done.output
    shares = [float(line.split(" %")[0]) for line in done.stdout.splitlines() if " % of the weights from " in line]
    assert sum(shares) == pytest.approx(100, abs=0.02)
    assert 0 < shares[0] < 50
    assert (folder / "both/model.safetensors").is_file()
    again = run("merge", "one", "--base", "two", "--out", "both")
    assert (again.exit_code, again.stdout) == (2, "")
    assert "already exists" in again.stderr
    assert set(json.loads(run("merge", "one", "--base", "two", "--out", "c", "--json").stdout)) >= {"tensors", "seed"}


def test_the_list_of_benchmarks():
    assert "olympiadbench" in run("eval", "--list").stdout
    assert {row["name"] for row in json.loads(run("eval", "--list", "--json").stdout)} >= {"aime24", "cruxeval"}


SELECT = ("select", "mine.jsonl", "--answers", "mine.jsonl", "--out", "o.jsonl")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eval", "little"], "little is no recipe: say on what to measure it, with --data or --benchmark (aime24"),
        (["eval", "http://localhost:1/v1"], "is no recipe"),
        (["eval", "m", "--benchmark", "aime42"], "there is no benchmark 'aime42': did you mean"),
        (["eval", "m", "--benchmark", "aime24", "--question", "q"], "a benchmark names its own fields"),
        (
            ["eval", "m", "--benchmark", "aime24", "--benchmark", "gsm8k", "--data", "mine.jsonl"],
            "mine.jsonl is one file",
        ),
        (["eval", "m", "--benchmark", "aime24", "--data", "mine.jsonl"], "has no field 'problem'"),
        (["eval", "m", "--data", "mine.jsonl", "--place", "under"], "--place 'under' is none of after"),
        (["eval", "m", "--data", "mine.jsonl", "--top-p", "2"], "top_p = 2"),
        (["eval", "m", "x=1", "--data", "mine.jsonl"], "'x=1' changes a recipe"),
        (["eval", "m", "--data", "mine.jsonl", "--model", "x"], "--model is for a server, and m is none"),
        (["eval", "m", "--data", "mine.jsonl", "--api", "foo"], "--api is for a server, and m is none: leave it out"),
        (["eval", "m", "--data", "mine.jsonl", "--concurrency", "0"], "--concurrency is for a server"),
        (["eval", "m", "--data", "mine.jsonl", "--top-logprobs", "3"], "--top-logprobs is for a server"),
        (["eval", "http://localhost:1/v1", "--data", "mine.jsonl", "--slots", "2"], "--slots is for a model"),
        ([*RECORDED, "--dtype", "float32"], "--dtype changes nothing about recorded completions"),
        (["eval", "m", "--benchmark", "countdown", "--limit", "0"], "--limit 0 asks no problem: give 1 or more"),
        (["eval", "http://localhost:1/v1", "--data", "mine.jsonl", "--api", "x", "--model", "m"], "--api 'x' is none"),
        (["eval", "http://localhost:1/v1", "--data", "mine.jsonl"], "cannot be reached"),
        (["eval", "http://localhost:1/v1", "--data", "mine.jsonl", "--engine", "vllm"], "is a server: leave it out"),
        (["eval", "m", "--data", "mine.jsonl", "--engine", "sglang"], "--engine 'sglang' is none of embedded, vllm"),
        (["eval", "r.toml", "--engine", "vllm"], "give decode.engine=vllm in place of --engine"),
        (["eval", "m", "--data", "mine.jsonl", "--slots", "0"], "--slots 0 decodes nothing"),
        (["eval", "m", "--data", "mine.jsonl", "--dtype", "int4"], "--dtype 'int4' is none of auto"),
        (["eval", "m", "--data", "mine.jsonl", "--verifier", "lean"], "no executable 'lean' on PATH"),
        ([*RECORDED, "--verifier", "lean"], "no executable 'lean' on PATH"),
        ([*RECORDED, "--verifier", "mth"], "unknown verifier 'mth': did you mean 'math'"),
        ([*RECORDED, "--samples", "2"], "--samples changes nothing about recorded completions"),
        ([*RECORDED, "--data", "mine.jsonl"], "--data changes nothing about recorded completions"),
        (["eval", "m", "--data", "mine.jsonl", "--completion", "c"], "--completion names a field of a file given"),
        (
            ["eval", "m", "--benchmark", "bad.toml", "--data", "mine.jsonl"],
            "deadline = 'soon' of verifier 'math' is of",
        ),
        (["eval", "m", "--data", "noid.jsonl", "--id", "id"], "noid.jsonl line 2, field 'id' is empty"),
        (["select", "mine.jsonl", "--answers", "mine.jsonl", "--out", "o.jsonl", "--top", "1"], "takes areas"),
        (["select", "mine.jsonl", "--answers", "none", "--out", "o.jsonl", "--mixed"], "there is no none"),
        ([*SELECT, "--areas", "s/nope", "--top", "1"], "there is no manifest s/nope: give the .manifest.jsonl"),
        ([*SELECT, "--mixed", "--split", "test"], "--split names a split of a folder or hub data set, and"),
        ([*SELECT, "--mixed", "--config", "main"], "--config is of a hub data set, and mine.jsonl lies here"),
        ([*SELECT, "--mixed", "--part", "foo"], "--part 'foo' is neither rollouts nor evals"),
        ([*SELECT, "--mixed", "--part", "evals"], "--part names a part of a run, and mine.jsonl is none"),
        ([*SELECT, "--min-pass", "nan"], "--min-pass nan bounds nothing: give a number"),
        ([*SELECT, "--mixed"], "mine.jsonl, row 1 has no verdict"),
        (["merge", "one", "--base", "two", "--out", "three"], "there is no checkpoint folder one"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, said, monkeypatch):
    write("noid.jsonl", PROBLEMS[0], {**PROBLEMS[1], "id": ""})
    Path("bad.toml").write_text(
        'title = "x"\nlicence = "y"\n[[layout]]\nanswer = "answer"\n[verifier]\nname = "math"\ndeadline = "soon"\n'
    )
    monkeypatch.setattr("shutil.which", lambda name: None)
    done = run(*arguments)
    assert done.exit_code in (2, 3)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
