"""Benchmark files: what ships, how problems are read and put, and files that say something wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from forkpoint.errors import InputError
from forkpoint.evaluate.benchmark import Drawing, custom_benchmark, described, load_benchmark, load_problems, shipped
from forkpoint.evaluate.judges import close, make_judge, unreadable

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not beside the repository")
ROWS = {
    "aime24": 30, "aime25": 30, "amc23": 40, "math500": 500, "minerva_math": 272, "olympiadbench": 675,
    "gsm8k": 1319, "humaneval": 164, "mbpp_plus": 378, "cruxeval": 800, "countdown": 256,
}  # fmt: skip
WHERE = {"gsm8k": "", "mbpp_plus": "code/MbppPlus.jsonl", "cruxeval": "code", "humaneval": "code/HumanEval.jsonl.gz"}


def local(name, tmp_path):
    path = DATA / WHERE.get(name, "bench_math")
    if path.suffix != ".gz":
        return path
    (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return tmp_path / path.stem


def test_what_ships():
    assert set(shipped()) == set(ROWS)
    rows = described()
    assert {row["name"]: row["rows"] for row in rows} == ROWS
    assert all(row["title"] and row["licence"] and row["source"] and row["samples"] >= 1 for row in rows)


@needs_data
@pytest.mark.parametrize("name", [name for name in ROWS if name != "countdown"])
def test_local_files_have_the_stated_rows(name, tmp_path):
    problems = load_problems(load_benchmark(name), local(name, tmp_path))
    assert (len(problems.prompts), problems.notes) == (ROWS[name], ())
    assert len({prompt.id for prompt in problems.prompts}) == ROWS[name]
    assert all(prompt.text.strip() for prompt in problems.prompts)
    if load_benchmark(name).layout[0].answer:
        assert all(prompt.answer for prompt in problems.prompts)


@needs_data
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("aime24", set()),
        ("aime25", set()),
        ("amc23", set()),
        ("gsm8k", set()),
        pytest.param("math500", {"test/algebra/2257.json"}, marks=pytest.mark.slow),
        pytest.param("minerva_math", {"5", "27", "38", "49", "261", "268", "269"}, marks=pytest.mark.slow),
        pytest.param("olympiadbench", {"1782", "1965", "2045"}, marks=pytest.mark.slow),
    ],
)
def test_references_that_cannot_be_judged_are_named(name, most):
    benchmark = load_benchmark(name)
    judge = make_judge(benchmark)
    found = unreadable(load_problems(benchmark, DATA / WHERE.get(name, "bench_math")).prompts, judge)
    close(judge)
    assert {problem for problem, _ in found} <= most
    assert all(why for _, why in found)


@needs_data
def test_references_are_taken_out_of_solutions():
    first = load_problems(load_benchmark("gsm8k"), DATA, limit=1).prompts[0]
    assert first.answer == "18"
    assert load_problems(load_benchmark("minerva_math"), DATA / "bench_math", limit=1).prompts[0].answer == "1.6"
    olympiad = load_problems(load_benchmark("olympiadbench"), DATA / "bench_math", limit=1).prompts[0]
    assert olympiad.meta["answer_type"] == "Numerical"
    assert olympiad.meta["is_multiple_answer"] is False


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PROBLEM = {"problem": "What is {answer} and {1+1}?", "answer": 2, "id": 7}


@pytest.mark.parametrize(
    ("place", "contents"),
    [
        ("after", [("user", "{P}\n\n{I}")]),
        ("before", [("user", "{I}\n\n{P}")]),
        ("system", [("system", "{I}"), ("user", "{P}")]),
        ("none", [("user", "{P}")]),
    ],
)
def test_places_of_the_instruction(tmp_path, place, contents):
    aime = load_benchmark("aime24")
    (prompt,) = load_problems(aime, write(tmp_path / "a.jsonl", PROBLEM), place=place).prompts
    words = {"{P}": PROBLEM["problem"], "{I}": aime.prompt.instruction}
    expected = []
    for role, content in contents:
        for short, long in words.items():
            content = content.replace(short, long)
        expected.append({"role": role, "content": content})
    assert list(prompt.messages) == expected
    assert prompt.text == "\n\n".join(message["content"] for message in expected)
    assert (prompt.id, prompt.answer) == ("7", "2")


def test_fields_are_filled_in_once(tmp_path):
    row = {"code": "def f(x): return '{input}'", "input": "'{question}'", "output": "1", "id": "s"}
    (prompt,) = load_problems(load_benchmark("cruxeval"), write(tmp_path / "a.jsonl", row)).prompts
    assert "return '{input}'" in prompt.text
    assert "f('{question}')" in prompt.text


def test_the_second_layout_is_found(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question": "q", "answer": "1", "id": 0})
    assert load_problems(load_benchmark("amc23"), path).prompts[0].id == "0"


def test_folders_and_splits(tmp_path):
    write(tmp_path / "aime24.jsonl", PROBLEM)
    (tmp_path / "aime25").mkdir()
    write(tmp_path / "aime25/test.jsonl", PROBLEM, PROBLEM | {"problem": "other", "id": 8})
    assert len(load_problems(load_benchmark("aime24"), tmp_path).prompts) == 1
    two = load_problems(load_benchmark("aime25"), tmp_path)
    assert len(two.prompts) == 2
    assert two.notes == ("2 problems were asked; AIME 2025 has 30.",)
    with pytest.raises(InputError, match=r"has no amc23\.jsonl or \.parquet; did you mean"):
        load_problems(load_benchmark("amc23"), tmp_path)


def test_the_hash_is_of_what_was_read(tmp_path):
    aime = load_benchmark("aime24")
    one = load_problems(aime, write(tmp_path / "a.jsonl", PROBLEM))
    assert one.hash == load_problems(aime, write(tmp_path / "b.jsonl", PROBLEM | {"url": "x"}), place="before").hash
    for changed in ({"problem": "another"}, {"answer": 3}, {"id": 8}):
        assert load_problems(aime, write(tmp_path / "b.jsonl", PROBLEM | changed)).hash != one.hash


def test_embedded_problems():
    problems = load_problems(load_benchmark("countdown"), limit=3)
    assert [prompt.text.split()[0] for prompt in problems.prompts] == ["countdown"] * 3
    assert problems.dataset == "forkpoint countdown"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_asks_nothing_is_refused(tmp_path, limit):
    with pytest.raises(InputError, match=f"--limit {limit} asks no problem: give 1 or more"):
        load_problems(load_benchmark("countdown"), limit=limit)


def test_any_questions_and_answers(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"q": ["1+1", "2+2"], "a": ["2", "4"]}), tmp_path / "mine.parquet")
    benchmark = custom_benchmark(tmp_path / "mine.parquet", question="q", answer="a", id=None)
    prompts = load_problems(benchmark, tmp_path / "mine.parquet").prompts
    assert [(prompt.id, prompt.answer) for prompt in prompts] == [("mine/1", "2"), ("mine/2", "4")]
    assert "\\boxed{}" in prompts[0].text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"problme": "x", "answer": 1, "id": 1}], r"has no field 'problem', .* did you mean 'problme'\?"),
        ([], "it is empty"),
        ([PROBLEM, PROBLEM | {"problem": "other"}], "the id '7' is taken by an earlier, different problem"),
        ([PROBLEM | {"problem": " "}], "line 1, field 'problem' is empty"),
        ([PROBLEM, {"problem": "x", "answer": 1}], "line 2 has no field 'id'"),
        ([PROBLEM | {"answer": ""}], "holds no problem: field 'answer' is empty in all of its rows"),
    ],
)
def test_data_that_do_not_fit(tmp_path, rows, said):
    with pytest.raises(InputError, match=said):
        load_problems(load_benchmark("aime24"), write(tmp_path / "a.jsonl", *rows))


GOOD = 'title = "T"\nlicence = "L"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "row = 3", r"row is not a setting; did you mean 'rows'\?"),
        (GOOD + "[prompt]\ntemplat = 'x'", r"prompt\.templat is not a setting; did you mean 'template'\?"),
        (GOOD + "[[layout]]\nfield = 'x'", r"layout\.0\.field is not a setting"),
        (GOOD + "[sampling]\nsamples = 0", r"sampling\.samples = 0"),
        (GOOD + "[prompt]\nplace = 'under'", r"prompt\.place = 'under'"),
        ("licence = 'x'", "title is missing"),
        ("title = ", "is not valid TOML"),
    ],
)
def test_files_that_say_something_wrong(tmp_path, text, said):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        load_benchmark(tmp_path / "mine.toml")


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD + "rows = 1\n[verifier]\nname = 'exact'\nextraction = 'gsm8k'\n")
    mine = load_benchmark(tmp_path / "mine.toml")
    assert (mine.name, mine.verifier.name, mine.verifier.settings) == ("mine", "exact", {"extraction": "gsm8k"})
    with pytest.raises(InputError, match="names no source: give its file with --data"):
        load_problems(mine)
    with pytest.raises(InputError, match=r"no benchmark 'aime23': did you mean 'aime24|25'"):
        load_benchmark("aime23")


def test_settings_that_a_command_changes():
    base = Drawing(samples=4)
    assert Drawing.checked(base, {"temperature": 1}).samples == 4
    with pytest.raises(InputError, match="top_p = 2"):
        Drawing.checked(base, {"top_p": 2})
