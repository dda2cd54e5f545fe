"""`forkpoint eval`, `select` and `merge` on the command line."""

from __future__ import annotations

import json
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
        (["eval", "m", "--data", "mine.jsonl", "--model", "x"], "--model names a model of a server"),
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
