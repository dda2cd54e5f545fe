"""Readers: every format, every broken file, and the order of training problems."""

import gzip
import json
import math
import sys
import types
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forkpoint.errors import InputError
from forkpoint.rollouts import Prompt
from forkpoint.tasks.readers import data_task, read_prompts

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "Ünï \\frac{1}{2} {x}", "answer": "3"}]


def write(path, rows):
    if path.suffix == ".gz":
        plain = write(path.with_suffix(""), rows)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    elif path.suffix == ".jsonl":
        path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".csv":
        import csv

        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz"])
def test_every_format_reads_the_same(tmp_path, suffix):
    prompts = read_prompts(write(tmp_path / f"set{suffix}", ROWS))
    assert [(p.id, p.text, p.answer) for p in prompts] == [
        ("set/1", "1+1?", "2"), ("set/2", "Ünï \\frac{1}{2} {x}", "3"),
    ]  # fmt: skip


def test_packed_files(tmp_path):
    write(tmp_path / "train.jsonl.gz", ROWS)
    assert read_prompts(tmp_path)[0].id == "train/1"
    path = tmp_path / "train.jsonl.gz"
    whole = path.read_bytes()
    for data in (whole[:-9], whole[:-8] + bytes(8), b"no gzip"):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"train\.jsonl\.gz is no whole gzip file"):
            read_prompts(path)
    (tmp_path / "a.parquet.gz").write_bytes(whole)
    with pytest.raises(InputError, match="of no kind that can be read"):
        read_prompts(tmp_path / "a.parquet.gz")


def test_json_with_one_object_a_line_is_read_as_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert len(read_prompts(path)) == 2


def test_a_folder_is_read_by_split(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "test.csv", ROWS[:1])
    assert len(read_prompts(tmp_path)) == 2
    assert len(read_prompts(tmp_path, split="test")) == 1
    with pytest.raises(InputError, match="no split 'tets'; did you mean 'test'"):
        read_prompts(tmp_path, split="tets")


def test_verl_rows_need_no_field_names(tmp_path):
    row = {
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1?"}],
        "reward_model": {"ground_truth": "2", "style": "rule"},
        "data_source": "math_dapo",
        "extra_info": {"index": 7},
    }
    (prompt,) = read_prompts(write(tmp_path / "a.parquet", [row]), id="extra_info.index")
    assert (prompt.id, prompt.text, prompt.answer) == ("7", "Think.\n\n1+1?", "2")
    assert [m["role"] for m in prompt.messages] == ["system", "user"]
    assert prompt.meta == {"data_source": "math_dapo", "extra_info": {"index": 7}}


def test_dotted_paths_lists_and_numbers(tmp_path):
    rows = [
        {"a": {"q": ["x", "one?"]}, "n": 27.0, "b.c": "dot"},
        {"a": {"q": ["x", "two?"]}, "n": 2.5, "b.c": "dot"},
        {"a": {"q": ["x", "three?"]}, "n": ["1", 2], "b.c": "dot"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    prompts = read_prompts(path, question="a.q.1", answer="n")
    assert [(p.text, p.answer) for p in prompts] == [("one?", "27"), ("two?", "2.5"), ("three?", "1, 2")]
    assert read_prompts(path, question="a.q.1", answer="b.c")[0].answer == "dot"


def test_the_limit_counts_different_problems(tmp_path):
    path = write(tmp_path / "a.jsonl", [ROWS[0], ROWS[0], ROWS[1], {"question": "never reached"}])
    assert len(read_prompts(path, limit=2)) == 2
    with pytest.raises(InputError, match="limit = 0"):
        read_prompts(path, limit=0)


def test_repeated_problems_are_left_out_and_counted(tmp_path, caplog):
    rows = [*ROWS, ROWS[0], {"question": "1+1?", "answer": "two"}]
    prompts = read_prompts(write(tmp_path / "a.jsonl", rows))
    assert [p.answer for p in prompts] == ["2", "3"]
    assert "left out 2 repeated problems (1 of them with another answer), 2 are different" in caplog.text


def test_problems_without_an_answer_are_left_out_and_counted(tmp_path, caplog):
    rows = [ROWS[0], {"question": "?", "answer": ""}, {"question": "??", "answer": None}]
    assert len(read_prompts(write(tmp_path / "a.jsonl", rows))) == 1
    assert "left out 2 problems whose field 'answer' is empty" in caplog.text
    with pytest.raises(InputError, match="field 'answer' is empty in all of its rows"):
        read_prompts(write(tmp_path / "b.jsonl", rows[1:]))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_answer_that_is_nan_is_missing_and_infinity_is_no_answer(tmp_path, suffix):
    rows = [{"question": name, "answer": value} for name, value in (("a", 2.0), ("b", math.nan), ("c", 3.5))]
    assert [prompt.answer for prompt in read_prompts(write(tmp_path / f"a{suffix}", rows))] == ["2", "3.5"]
    rows[1]["answer"] = math.inf
    with pytest.raises(InputError, match="field 'answer' holds inf, which is no number to read: give its value"):
        read_prompts(write(tmp_path / f"b{suffix}", rows))


def test_answers_are_extracted(tmp_path):
    rows = [{"question": "q", "answer": "48/2 = 24\n#### 1,072"}]
    assert read_prompts(write(tmp_path / "a.jsonl", rows), answer_extraction="gsm8k")[0].answer == "1072"
    rows = [{"question": "q", "answer": r"\boxed{1} so \boxed{\frac{1}{2}}."}]
    path = write(tmp_path / "b.jsonl", rows)
    assert read_prompts(path, answer_extraction="boxed")[0].answer == r"\frac{1}{2}"
    with pytest.raises(InputError, match=r"b.jsonl line 1, field 'answer' has no answer after `####`"):
        read_prompts(path, answer_extraction="gsm8k")
    with pytest.raises(InputError, match="no complete"):
        read_prompts(write(tmp_path / "c.jsonl", [{"question": "q", "answer": r"\boxed{1"}]), answer_extraction="boxed")
    with pytest.raises(InputError, match="did you mean 'boxed'"):
        read_prompts(path, answer_extraction="box")


BROKEN = {
    "empty": ("a.jsonl", b"", "holds no problem: it is empty"),
    "blank lines": ("a.jsonl", b"\n\n", "is empty"),
    "empty list": ("a.json", b"[]", "is empty"),
    "empty csv": ("a.csv", b"question,answer\n", "is empty"),
    "broken line": (
        "a.jsonl",
        b'{"question": "a", "answer": "1"}\n{"question": \n',
        "line 2 is not valid JSON",
    ),
    "latin-1": ("a.jsonl", b'{"question": "\xe9", "answer": "1"}', "line 1 is not UTF-8"),
    "deep": ("a.jsonl", b"[" * 200_000, "line 1"),
    "long number": (
        "a.jsonl",
        b'{"question": "q", "answer": ' + b"9" * 10_000 + b"}",
        "line 1 is JSON that cannot",
    ),
    "number row": ("a.json", b"[3]", "row 1 holds int 3, not an object"),
    "broken list": ("a.json", b'[{"a": 1},\n oops]', "is not valid JSON .* at line 2"),
    "missing": (
        "a.jsonl",
        b'{"qestion": "a", "answer": "1"}',
        "line 1 has no field 'question'; did you mean 'qestion'",
    ),
    "second row": (
        "a.jsonl",
        b'{"question": "a", "answer": "1"}\n{"question": "b"}',
        "line 2 has no field 'answer'",
    ),
    "empty problem": ("a.jsonl", b'{"question": " ", "answer": "1"}', "line 1, field 'question' is empty"),
    "object": ("a.jsonl", b'{"question": {"a": 1}, "answer": "1"}', "field 'question' holds an object"),
    "no messages": ("a.jsonl", b'{"question": ["a"], "answer": "1"}', "not one of messages"),
    "bool": ("a.jsonl", b'{"question": "a", "answer": true}', "field 'answer' holds true or false"),
    "nested list": ("a.jsonl", b'{"question": "a", "answer": [["1"]]}', "field 'answer' holds a list"),
    "short csv": ("a.csv", b"question,answer\nx\n", "line 2 has 1 fields, the header has 2"),
    "long csv": ("a.csv", b"question,answer\nx,1,2\n", "line 2 has 3 fields"),
    "quoted csv": ("a.csv", b'question,answer\n"x"y,1\n', "line 2 is not valid CSV"),
    "latin-1 csv": ("a.csv", b"question,answer\n\xe9,1\n", "not UTF-8"),
    "no parquet": ("a.parquet", b"PAR1 or not", "not a readable parquet"),
    "empty parquet": ("a.parquet", b"", "not a readable parquet"),
    "other kind": ("a.txt", b"x", "use one of .jsonl"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_in_one_sentence(tmp_path, name):
    file, content, expected = BROKEN[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=expected) as error:
        read_prompts(tmp_path / file)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_parquet_file_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="not a readable parquet"):
        read_prompts(path)


def test_an_id_used_twice_is_named(tmp_path):
    rows = [dict(row, key="k") for row in ROWS]
    with pytest.raises(InputError, match="line 3: the id 'k' is taken"):
        read_prompts(write(tmp_path / "a.jsonl", rows), id="key")


def test_a_missing_file_names_the_nearest(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(InputError, match=r"no data file .*tran.jsonl; did you mean 'train.jsonl'"):
        read_prompts(tmp_path / "tran.jsonl")
    with pytest.raises(InputError, match="there is no folder"):
        read_prompts(tmp_path / "no" / "a.jsonl")


# Hub


def test_a_hub_data_set_is_read_through_datasets(monkeypatch):
    asked = []

    def load_dataset(*arguments, **named):
        asked.append((arguments, named))
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    prompts = read_prompts("openai/gsm8k", split="test", config="main")
    assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]
    assert prompts[1].id == "openai/gsm8k/test/2"


def test_the_hub_without_its_package_or_network_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        read_prompts("openai/gsm8k")

    def load_dataset(*arguments, **named):
        raise ConnectionError("Couldn't reach the hub\nwith details")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputError, match=r"'openai/gsm8k' is no file here .*Couldn't reach the hub") as error:
        read_prompts("openai/gsm8k")
    assert "\n" not in str(error.value)


# Task


def prompts(*texts):
    return tuple(Prompt(id=text, text=text) for text in texts)


def test_every_epoch_is_a_new_order_of_all_problems():
    task = data_task("t", prompts(*map(str, range(50))), prompts("x"), judge=lambda p, t: [])
    drawn = [task.train_prompt(3, position).text for position in range(150)]
    epochs = [drawn[:50], drawn[50:100], drawn[100:]]
    assert all(Counter(epoch) == Counter(map(str, range(50))) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert drawn[:50] != [task.train_prompt(4, position).text for position in range(50)]


def test_a_position_alone_decides_the_problem():
    def task():
        return data_task("t", prompts(*map(str, range(20))), (), judge=lambda p, t: [])

    forward = [task().train_prompt(-1, position).id for position in range(60)]
    one = task()
    backward = [one.train_prompt(-1, position).id for position in reversed(range(60))]
    assert forward == backward[::-1]
    # The stream is part of the format: a run resumed elsewhere must see the same problems.
    assert [task().train_prompt(0, position).id for position in range(6)] == ORDER


ORDER = ["0", "2", "11", "17", "9", "1"]


def test_held_out_problems_are_never_trained_on(caplog):
    task = data_task("t", prompts("a", "b", "c"), prompts("b"), judge=lambda p, t: [])
    assert {task.train_prompt(0, position).text for position in range(20)} == {"a", "c"}
    assert "left out 1 training problems" in caplog.text
    with pytest.raises(InputError, match="no training problem that is not held out"):
        data_task("t", prompts("b"), prompts("b"), judge=lambda p, t: [])


# Real files


@needs_data
@pytest.mark.parametrize(
    ("file", "fields", "count", "answer"),
    [
        ("gsm8k/train.jsonl", {"answer_extraction": "gsm8k"}, 7473, "72"),
        ("gsm8k/test.jsonl", {"answer_extraction": "gsm8k"}, 1319, "18"),
        ("prompts/dsr_sub.parquet", {}, 1206, r"\frac{3}{7}"),
        ("bench_math/math500.jsonl", {"question": "problem", "id": "unique_id"}, 500, None),
        ("bench_math/aime24.jsonl", {"question": "problem"}, 30, "204"),
        ("bench_math/amc23.jsonl", {}, 40, "27"),
        ("bench_math/minerva_math.jsonl",
         {"question": "problem", "answer": "solution", "answer_extraction": "boxed"}, 272, "1.6"),
        ("bench_math/olympiadbench.jsonl", {"answer": "final_answer", "id": "id"}, 675, "2"),
    ],
)  # fmt: skip
def test_real_data_sets(file, fields, count, answer):
    found = read_prompts(DATA / file, **fields)
    assert len(found) == count
    assert answer is None or found[0].answer == answer
    assert all(p.answer for p in found)
