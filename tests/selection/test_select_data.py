"""Selecting rows: the join, what is written, the manifest, and the entropy area against its definition."""

from __future__ import annotations

import dataclasses
import json
import math
import weakref

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import tiny
from forkpoint.analyze.traces.sources import open_traces
from forkpoint.errors import InputError
from forkpoint.selection.choose import Criteria
from forkpoint.selection.problems import Measured, area_of, measure_graded, measure_problems, open_answers
from forkpoint.selection.select import read_areas, select

ROWS = [{"uid": name, "question": f"q {name}", "answer": "1", "extra": [1, {"a": None}]} for name in "abcd"]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trace(path):
    """Answers to a, b and c; the one to x belongs to no problem of the data."""
    rows = []
    for name, verdicts, size in (("a", "rrww", 3), ("b", "wwww", 5), ("c", "rrru", 7), ("x", "r", 1)):
        for sample, letter in enumerate(verdicts):
            rows.append({
                "prompt_id": name, "sample": sample, "prompt": f"q {name}", "completion": "a : \\boxed{ 4 }",
                "ids": list(range(3, 3 + size + sample % 2)), "entropy": [0.5] * (size + sample % 2),
                "entropy_kind": "exact", "verdict": {"r": "right", "w": "wrong", "u": "unjudged"}[letter],
            })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def manifest(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_go_through_as_they_are_with_a_manifest(tmp_path):
    data, out = lines(tmp_path / "data.jsonl", ROWS), tmp_path / "kept.jsonl"
    summary = select(data, out, open_traces(trace(tmp_path / "t.parquet")), Criteria(mixed=True), id="uid")
    assert manifest(out) == [ROWS[0]]
    rows = manifest(tmp_path / "kept.manifest.jsonl")
    assert [(row["row"], row["id"], row["kept"], row["reason"]) for row in rows] == [
        (1, "a", True, "kept"),
        (2, "b", False, "all wrong"),
        (3, "c", False, "all right"),
        (4, "d", False, "not answered"),
    ]
    assert [(row["answers"], row["judged"], row["right"]) for row in rows] == [
        (4, 4, 2),
        (4, 4, 0),
        (4, 3, 3),
        (0, 0, 0),
    ]
    assert [row["pass_rate"] for row in rows] == [0.5, 0.0, 1.0, None]
    assert [row["length"] for row in rows] == [3.5, 5.5, 7.5, None]
    assert summary == json.loads((tmp_path / "kept.summary.json").read_text())
    assert (summary["rows"], summary["kept"], summary["answered_but_not_in_data"]) == (4, 1, 1)
    assert summary["dropped"] == {"all wrong": 1, "all right": 1, "not answered": 1}


def test_parquet_keeps_its_schema(tmp_path):
    schema = pa.schema([("uid", pa.string()), ("n", pa.int16())], metadata={"of": "somebody"})
    table = pa.table({"uid": list("abcd"), "n": [1, 2, 3, 4]}, schema=schema)
    pq.write_table(table, tmp_path / "data.parquet")
    traces = open_traces(trace(tmp_path / "t.parquet"))
    select(tmp_path / "data.parquet", tmp_path / "out.parquet", traces, Criteria(max_pass=0.5), id="uid")
    assert pq.read_table(tmp_path / "out.parquet").equals(table.slice(0, 2), check_metadata=True)
    with pytest.raises(InputError, match=r"cannot write .*kept\.parquet"):
        select(
            lines(tmp_path / "d.jsonl", ROWS), tmp_path / "kept.parquet", traces, Criteria(top=1, by="pass"), id="uid"
        )


def test_without_an_id_field_rows_are_named_as_readers_name_them(tmp_path):
    from forkpoint.tasks.readers import read_prompts

    data = lines(tmp_path / "data.jsonl", ROWS)
    names = [prompt.id for prompt in read_prompts(data)]
    rows = [{"prompt_id": names[2], "ids": [1], "entropy": [0.1], "reward": 1.0, "completion": "x"}]
    answers = open_traces(lines(tmp_path / "t.jsonl", rows))
    select(data, tmp_path / "out.jsonl", answers, Criteria(min_pass=1))
    assert manifest(tmp_path / "out.jsonl") == [ROWS[2]]


def test_the_entropy_area_is_that_of_the_definition(tmp_path):
    model, tokenizer = tiny.qwen3(), tiny.tokenizer()
    traces = open_traces(trace(tmp_path / "t.parquet"))
    found = measure_problems(traces, area=area_of(model, tokenizer, template="none", opener="="))
    batch = next(iter(traces))
    for response, name in ((0, "a"), (4, "b")):
        prompt = tokenizer(batch.prompt[response])["input_ids"]
        ids = batch.id_N[batch.span(response)].tolist()
        total = 0.0
        for t in range(1, len(ids)):
            read = [*prompt, *ids[:t], tokenizer("=")["input_ids"][0]]
            with torch.no_grad():
                p = torch.softmax(model(torch.tensor([read])).logits[0, -1].double(), -1)
            top = p.topk(20).values
            total -= float((top * top.log2()).sum())
        assert found[name].area == pytest.approx(total, rel=1e-5)
    assert found["b"].area != pytest.approx(found["a"].area, rel=1e-2)


def test_areas_of_an_earlier_manifest_are_not_computed_again(tmp_path):
    data, traces = lines(tmp_path / "data.jsonl", ROWS), open_traces(trace(tmp_path / "t.parquet"))
    areas, calls = {"a": 4.0, "b": 9.0, "c": 6.0, "x": 5.0}, []

    def area(batch, response):
        calls.append(batch.prompt_id[response])
        return areas[batch.prompt_id[response]]

    select(data, tmp_path / "one.jsonl", traces, Criteria(top=2), id="uid", area=area)
    assert calls == ["a", "b", "c", "x"]  # the first answer of each, once
    known = read_areas(tmp_path / "one.manifest.jsonl")
    assert known == {"a": 4.0, "b": 9.0, "c": 6.0}
    select(data, tmp_path / "two.jsonl", traces, Criteria(top=2), id="uid", areas=known)
    assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "one.jsonl").read_text()
    assert [row["uid"] for row in manifest(tmp_path / "two.jsonl")] == ["b", "c"]
    assert manifest(tmp_path / "two.manifest.jsonl") == manifest(tmp_path / "one.manifest.jsonl")
    with pytest.raises(InputError, match="line 1 has no `id` and `entropy_area`"):
        read_areas(data)


def test_an_answer_without_a_box_has_no_area(tmp_path):
    path = trace(tmp_path / "t.parquet")
    table = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([row | {"completion": "no answer"} for row in table]), path)
    found = measure_problems(open_traces(path), area=area_of(tiny.qwen3(), tiny.tokenizer(), template="none"))
    assert all(math.isnan(one.area) for one in found.values())


def test_verdicts_come_from_rewards_where_none_is_recorded(tmp_path):
    rows = [{"prompt_id": "a", "ids": [1], "entropy": [0.1], "reward": r, "completion": "x"} for r in (1.0, 0.0, 0.3)]
    found = measure_problems(open_traces(lines(tmp_path / "t.jsonl", rows)))["a"]
    assert (found.answers, found.judged, found.right) == (3, 2, 1)


def test_graded_answers_say_what_a_trace_of_them_says(tmp_path):
    names, verdicts, sizes = "aabbbc", ("right", "wrong", "unjudged", "right", None, "wrong"), (3, 4, 5, 6, None, 8)
    rows = [
        {"id": name, "verdict": verdict, "length": size}
        for name, verdict, size in zip(names, verdicts, sizes, strict=True)
    ]
    found = measure_graded(open_answers(lines(tmp_path / "g.jsonl", rows)), known={"b": 2.5})
    assert found["b"] == Measured(answers=3, judged=1, right=1, lengths=2, tokens=11, area=2.5)
    assert (found["a"].pass_rate, found["a"].length, found["c"].right) == (0.5, 3.5, 0)
    assert math.isnan(found["a"].area)
    data = lines(tmp_path / "data.jsonl", ROWS)
    with pytest.raises(InputError, match=r"areas are computed of texts, and .*g\.jsonl holds none: give a trace"):
        select(data, tmp_path / "o.jsonl", open_answers(tmp_path / "g.jsonl"), Criteria(top=1), id="uid", area=print)
    assert open_answers(trace(tmp_path / "t.parquet")).about.kind == "plain"


def test_one_batch_of_answers_is_held_at_a_time(tmp_path):
    rows = [{"prompt_id": str(i % 50), "ids": [1] * 30, "entropy": [0.1] * 30, "completion": "x"} for i in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=100)
    source, alive, most = open_traces(tmp_path / "t.parquet", batch_tokens=3000), [], []

    def watched():
        for batch in source.batches():
            alive.append(weakref.ref(batch))
            most.append(sum(one() is not None for one in alive))
            yield batch

    found = measure_problems(dataclasses.replace(source, batches=watched))
    assert len(most) == 20
    assert max(most) <= 2
    assert np.sum([one.answers for one in found.values()]) == 2000


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (ROWS, {"id": "udi"}, r"line 1 has no id in field 'udi'; did you mean 'uid'\?"),
        ([*ROWS, ROWS[1]], {"id": "uid"}, "line 5: the id 'b' is taken by an earlier row"),
        (ROWS, {"id": "extra"}, "it must be text"),
        (ROWS, {"id": "question"}, "no problem of .* occurs in .*: the first is 'q a' here, there it is 'a'"),
        ([], {}, "is empty"),
    ],
)
def test_data_that_cannot_be_joined(tmp_path, rows, options, said):
    traces = open_traces(trace(tmp_path / "t.parquet"))
    with pytest.raises(InputError, match=said):
        select(lines(tmp_path / "data.jsonl", rows), tmp_path / "out.jsonl", traces, Criteria(mixed=True), **options)
    assert not (tmp_path / "out.jsonl").exists()
