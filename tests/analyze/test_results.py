"""Reading graded answers, well-formed and not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import write_synthetic_run

from forkpoint.analyze.result_rows import Fields
from forkpoint.analyze.results import read_result
from forkpoint.analyze.run_spec import run_spec
from forkpoint.analyze.rundata import read_run
from forkpoint.analyze.systems import parse_source, read_systems
from forkpoint.errors import InputError
from forkpoint.evaluate.metrics import summarise
from forkpoint.evaluate.spec import EvalSpec, canonical


def lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_one_answer_a_line(tmp_path):
    rows = [
        {"problem_id": "a", "sample": 0, "verdict": "right", "length": 10, "finish": "stop", "extracted": "1/2"},
        {"problem_id": "a", "sample": 1, "verdict": "wrong", "length": 20, "finish": "length", "extracted": None},
        {"problem_id": 7, "sample": 0, "verdict": "unjudged", "length": None, "finish": "stop", "extracted": "3"},
        {"problem_id": "a", "sample": 2, "verdict": True, "length": 5, "finish": "stop", "extracted": "0.5"},
    ]
    found = read_result(lines(tmp_path / "x.jsonl", rows))
    assert (found.name, found.problems) == ("x", ("a", "7"))
    assert found.problem_N.tolist() == [0, 0, 1, 0]
    assert found.value_N.tolist() == pytest.approx([1, 0, math.nan, 1], nan_ok=True)
    assert found.length_N.tolist() == pytest.approx([10, 20, math.nan, 5], nan_ok=True)
    assert found.truncated_N.tolist() == [0, 1, 0, 0]
    assert found.class_N.tolist() == [0, -1, 0, 0], "1/2 and 0.5 are verified to be equal"
    assert (found.score_N, found.entropy_N, found.spec) == (None, None, None)


def test_one_problem_a_line(tmp_path):
    rows = [
        {"idx": 0, "correct": [True, False], "pred": ["1", "2"], "score": [[0.5], [0.25]]},
        {"idx": 1, "correct": [1, None], "pred": ["3", "3"], "score": [[1], [2]]},
    ]
    found = read_result(lines(tmp_path / "x.jsonl", rows))
    assert found.problem_N.tolist() == [0, 0, 1, 1]
    assert found.value_N.tolist() == pytest.approx([1, 0, 1, math.nan], nan_ok=True)
    assert found.score_N.tolist() == [0.5, 0.25, 1, 2]
    assert found.class_N.tolist() == [0, 1, 0, 0]


def test_fields_can_be_named_and_nested(tmp_path):
    path = lines(tmp_path / "x.jsonl", [{"q": "a", "big": {"ok": True}}, {"q": "b", "big": {"ok": False}}])
    found = read_result(path, fields=Fields(problem="q", value="big.ok"))
    assert found.value_N.tolist() == [1, 0]


def test_parquet_is_read_like_jsonl(tmp_path):
    rows = [{"id": f"p{i // 2}", "verdict": "right" if i % 3 else "wrong", "entropy": [0.5] * i} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=2)
    found = read_result(tmp_path / "x.parquet")
    assert found.value_N.tolist() == [0, 1, 1, 0, 1, 1]
    assert found.entropy_N.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert found.length_N.tolist() == [0, 1, 2, 3, 4, 5]
    as_lines = read_result(lines(tmp_path / "y.jsonl", rows))
    assert as_lines.entropy_N.tolist() == found.entropy_N.tolist()


@pytest.mark.parametrize("entropy", [[["a"]], [[[0.5]]], [[None]]])
def test_entropies_that_are_no_numbers_are_none(tmp_path, entropy):
    pq.write_table(pa.table({"id": ["a"], "verdict": ["right"], "entropy": entropy}), tmp_path / "x.parquet")
    found = read_result(tmp_path / "x.parquet")
    assert (found.entropy_N is None) or np.isnan(found.entropy_N).all()
    assert found.length_N.tolist() == [1]


def test_a_run_gives_its_last_evaluation(tmp_path):
    run = write_synthetic_run(tmp_path / "run")
    found = read_result(run)
    files = sorted((run / "evals").iterdir())
    table = pq.read_table(files[-1])
    assert len(found.value_N) == len(table)
    assert found.notes == (f"run is the evaluation {files[-1].name}.",)
    wanted = [float(verdict == "right") for verdict in table.column("verdict").to_pylist()]
    assert found.value_N.tolist() == wanted
    entropy = summarise(found).values["entropy"]
    by_hand = {}
    for problem, values in zip(table.column("prompt_id").to_pylist(), table.column("entropy").to_pylist(), strict=True):
        by_hand.setdefault(problem, []).append(values)
    first = by_hand[found.problems[0]]
    assert entropy[0] == pytest.approx(sum(map(sum, first)) / sum(map(len, first)), rel=1e-6)


def test_conditions_of_a_run_come_from_its_recipe(tmp_path):
    run = write_synthetic_run(tmp_path / "run")
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["recipe"] |= {
        "eval": {"problems": 64, "samples": 4, "temperature": 0.7, "top_p": 1.0},
        "decode": {"engine": "vllm", "max_tokens": 128},
        "task": {"name": "countdown", "verifier": "math", "extraction": "boxed"},
    }
    recipe |= {"versions": {"vllm": "0.33", "math-verify": "0.9.0"}, "seed": 5, "device": "cuda"}
    (run / "recipe.json").write_text(json.dumps(recipe))
    spec = read_result(run).spec
    assert (spec.dataset, spec.problems, spec.samples, spec.seeds) == ("countdown", 64, 4, (5,))
    assert spec.decoding == {"temperature": 0.7, "top_p": 1.0, "max_tokens": 128}
    assert (spec.engine, spec.engine_version, spec.dtype, spec.parallelism) == ("vllm", "0.33", "auto", "cuda")
    assert (spec.verifier, spec.verifier_version) == ("math, boxed", "0.9.0")
    assert len(spec.dataset_hash) == 16
    assert run_spec(read_run(run)).dataset_hash is None
    (run / "recipe.json").unlink()
    assert read_result(run).spec is None


def test_the_hash_is_that_of_the_problems(tmp_path):
    run = write_synthetic_run(tmp_path / "run")
    file = sorted((run / "evals").iterdir())[-1]
    before = read_result(run).spec.dataset_hash
    table = pq.read_table(file)
    pq.write_table(table.take(np.arange(len(table))[::-1]), file)
    assert read_result(run).spec.dataset_hash == before, "order does not matter"
    answers = ["25", *table.column("answer").to_pylist()[1:]]
    pq.write_table(table.set_column(table.column_names.index("answer"), "answer", pa.array(answers)), file)
    assert read_result(run).spec.dataset_hash != before


def test_conditions_of_a_file_stand_beside_it(tmp_path):
    path = lines(tmp_path / "x.jsonl", [{"id": "a", "correct": True}])
    spec = EvalSpec(samples=1, dtype="float32")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "spec.json").write_text(canonical(EvalSpec(samples=3)))
    assert read_result(path).spec.samples == 3
    (tmp_path / "x.spec.json").write_text(canonical(spec))
    assert read_result(path).spec == spec
    (tmp_path / "x.jsonl.spec.json").write_text(canonical(EvalSpec(samples=2)))
    assert read_result(path).spec.samples == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no answer"),
        ('{"verdict": "right"}\n', "row 1 has no problem id .* its fields are verdict: name it with --id"),
        ('{"id": null, "verdict": "right"}\n', "row 1 has no problem id"),
        ('{"id": "a"}\n', "row 1 has no verdict .* its fields are id: name it with --value"),
        ('{"id": "a", "verdict": "perhaps"}\n', "value is 'perhaps'"),
        ('{"id": "a", "verdict": "right"}\n[1]\n', "row 2: a JSON list"),
        ('{"id": "a", "verdict": "right"}\n{"id": \n', "row 2: it is not valid JSON"),
        ('{"id": "a", "sample": 1, "verdict": 1}\n' * 2, "sample 1 of problem 'a' twice"),
        ('{"id": "a", "correct": [1, 0]}\n' * 2, "problem 'a' comes twice"),
        ('{"id": "a", "correct": [1, 0], "pred": ["1"]}\n', "1 values of answer for 2 verdicts"),
        ('{"id": "a", "value": 1e999}\n', "value is inf, but right, wrong"),
        (f'{{"id": "a", "value": 1{"0" * 400}}}\n', "value is 10000.*0…, but right, wrong"),
        ('{"id": "a", "value": 2e150}\n', r"value is 2e\+150, but"),
    ],
)
def test_bad_files_are_named(tmp_path, content, said):
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_result(path)


def test_other_bad_places(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_result(tmp_path / "none.jsonl")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no evaluation"):
        read_result(tmp_path / "run")
    pq.write_table(
        pa.table({"id": pa.array([], pa.string()), "verdict": pa.array([], pa.string())}), tmp_path / "e.parquet"
    )
    with pytest.raises(InputError, match="holds no answer"):
        read_result(tmp_path / "e.parquet")


def test_arguments_are_taken_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_source("a.jsonl").paths == (Path("a.jsonl"),)
    one = parse_source("big model=x/a.jsonl,x/b.jsonl:scores.big")
    assert (one.name, one.paths, one.value) == ("big model", (Path("x/a.jsonl"), Path("x/b.jsonl")), "scores.big")
    odd = lines(tmp_path / "a=b,c:d.jsonl", [])
    assert parse_source(odd.name).paths == (Path(odd.name),), "what exists is a path"
    for text in ("=a.jsonl", "a,,b", ""):
        with pytest.raises(InputError, match="empty name or path"):
            parse_source(text)


def test_folders_hold_a_benchmark_a_file(tmp_path):
    for name in ("old", "new"):
        for benchmark in ("aime", "math", *(["gsm"] if name == "new" else [])):
            lines(tmp_path / name / f"{benchmark}.jsonl", [{"id": "a", "correct": name == "new"}])
    systems, notes = read_systems([str(tmp_path / "old"), str(tmp_path / "new")], Fields())
    assert list(systems) == ["aime", "math"]
    assert [one.name for one in systems["math"]] == ["old", "new"]
    assert notes == ["new alone has gsm, which is left out."]
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="neither a run directory nor holds"):
        read_systems([str(tmp_path / "old"), str(tmp_path / "other")], Fields())
    lines(tmp_path / "other" / "x.jsonl", [{"id": "a", "correct": True}])
    lines(tmp_path / "other" / "y.jsonl", [{"id": "a", "correct": True}])
    with pytest.raises(InputError, match="no benchmark in common"):
        read_systems([str(tmp_path / "old"), str(tmp_path / "other")], Fields())
    with pytest.raises(InputError, match="not every training seed has gsm"):
        read_systems([f"a={tmp_path / 'new'},{tmp_path / 'old'}", str(tmp_path / "old")], Fields())


def test_names_are_told_apart_and_seeds_collected(tmp_path):
    for folder in ("a", "b"):
        lines(tmp_path / folder / "x.jsonl", [{"id": "a", "one": True, "two": False}])
    a, b = (str(tmp_path / folder / "x.jsonl") for folder in ("a", "b"))
    named, _ = read_systems([f"{a}:one", f"{a}:two"], Fields())
    assert [one.name for one in named[""]] == ["one", "two"]
    seeds, _ = read_systems([f"s={a},{b}:one", f"{b}:two"], Fields())
    assert [(one.name, len(one.results)) for one in seeds[""]] == [("s", 2), ("x", 1)]
    twice, _ = read_systems([f"{a}:one", f"{a}:one"], Fields())
    assert [one.name for one in twice[""]] == [f"{a} #1", f"{a} #2"]
    with pytest.raises(InputError, match="only one evaluation"):
        read_systems([a], Fields())
