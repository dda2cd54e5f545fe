"""Evaluations from sampling to summary: what is written, what is resumed, what is refused, how much is held."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import weakref

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from forkpoint.errors import InputError, TrainingError
from forkpoint.evaluate import runner, store
from forkpoint.evaluate.benchmark import Benchmark, Drawing, Layout, Verifying, load_benchmark, load_problems
from forkpoint.evaluate.runner import evaluate
from forkpoint.evaluate.sources import Answerer, Drawn, LocalSettings, local_answerer
from forkpoint.evaluate.spec import read_spec
from forkpoint.verify.verifiers import make_verifier

BENCHMARK = Benchmark(
    name="sums", title="Sums", licence="own", rows=3, layout=(Layout(question="q", answer="a", id="id"),),
    verifier=Verifying(name="exact"), sampling=Drawing(samples=4),
)  # fmt: skip
ANSWERS = {"p": ["2", "2", "3", None], "q": ["4", "4.0", "4", "5"], "r": ["1", "2", "3", "4"]}
"""Right answers: 2 of 4, 3 of 4, 0 of 4."""


@pytest.fixture
def problems(tmp_path):
    rows = [{"q": f"{i} + {i} in {i}", "a": a, "id": n} for i, (n, a) in enumerate({"p": 2, "q": 4, "r": 9}.items())]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_problems(BENCHMARK, path)


def scripted(calls=None, *, fail_after=None, error=None, name="script"):
    """Return a source that gives `ANSWERS`, and notes what it was asked."""

    def answer(wanted):
        for number, request in enumerate(wanted):
            if number == fail_after:
                raise error
            said = ANSWERS[request.prompt.id][request.sample % 4]
            if calls is not None:
                calls.append((request.prompt.id, request.sample))
            text = "no box" if said is None else rf"so \boxed{{{said}}}"
            yield request, Drawn(
                text=text, finish="length" if said is None else "stop", length=len(text), entropy=[0.5, 0.25],
                ids=[1, 2], logp=[-0.5, -0.25], tokens=["a", "b"], entropy_kind="exact",
            )  # fmt: skip

    return Answerer(name=name, answer=answer, engine="script", dtype="float32")


def test_an_evaluation_by_hand(problems, tmp_path):
    found = evaluate(scripted(), BENCHMARK, problems, tmp_path / "out")
    values = {name: one.value for name, one in found.metrics.estimates.items()}
    assert values["avg@4"] == pytest.approx((0.5 + 0.75 + 0) / 3)
    assert values["pass@2"] == pytest.approx((1 - 1 / 6 + 1 + 0) / 3)
    assert values["pass@4"] == pytest.approx(2 / 3)
    assert values["maj@4"] == pytest.approx((1 + 1 + 0) / 3)
    assert values["format"] == pytest.approx((3 / 4 + 1 + 1) / 3)
    assert values["truncated"] == pytest.approx(1 / 12)
    assert values["entropy"] == pytest.approx(0.75 / values["length"], rel=0.05)
    assert (found.answers, found.drawn) == (12, 12)
    folder = tmp_path / "out/sums"
    assert json.loads((folder / "summary.json").read_text())["metrics"]["pass@4"]["value"] == pytest.approx(2 / 3)
    spec = read_spec(folder / "spec.json")
    assert spec == found.spec == read_spec(tmp_path / "out/sums.parquet.spec.json")
    assert (spec.samples, spec.engine, spec.dtype, spec.dataset_hash) == (4, "script", "float32", problems.hash)
    rows = pq.read_table(tmp_path / "out/sums.parquet").to_pylist()
    assert [row["verdict"] for row in rows[:4]] == ["right", "right", "wrong", "wrong"]
    assert [row["extracted"] for row in rows[4:8]] == ["4", "4.0", "4", "5"]
    assert [row["has_answer"] for row in rows[:4]] == [1, 1, 1, 0]


def test_answers_are_written_as_they_come_and_can_be_analysed(problems, tmp_path, monkeypatch):
    from forkpoint.analyze.traces.sources import open_traces

    monkeypatch.setattr(runner, "SHARD", 5)
    evaluate(scripted(), BENCHMARK, problems, tmp_path)
    sizes = [pq.read_metadata(shard).num_rows for shard in store.shards(tmp_path / "sums")]
    assert sizes == [5, 5, 2]
    batches = list(open_traces(tmp_path / "sums/answers"))
    assert sum(batch.responses for batch in batches) == 12
    assert batches[0].prompt_id[0] == "p"
    assert batches[0].entropy_N[:2].tolist() == [0.5, 0.25]


def test_the_table_can_be_compared(problems, tmp_path):
    from forkpoint.analyze.results import read_result

    evaluate(scripted(), BENCHMARK, problems, tmp_path)
    read = read_result(tmp_path / "sums.parquet")
    own = store.read_graded(tmp_path / "sums.parquet", name="x")
    assert read.problems == own.problems
    assert read.value_N.tolist() == own.value_N.tolist()
    assert read.entropy_N.tolist() == own.entropy_N.tolist()
    assert read.spec is not None


@pytest.mark.parametrize("error", [TrainingError("the server is gone"), KeyboardInterrupt(), InputError("no")])
def test_what_was_stopped_goes_on_where_it_was(problems, tmp_path, monkeypatch, error):
    monkeypatch.setattr(runner, "SHARD", 3)
    whole = evaluate(scripted(), BENCHMARK, problems, tmp_path / "whole")
    said = "7 of 12 answers to sums are written: give the same command" if isinstance(error, TrainingError) else None
    with pytest.raises(type(error), match=said):
        evaluate(scripted(fail_after=7, error=error), BENCHMARK, problems, tmp_path / "part")
    assert len(store.finished(tmp_path / "part/sums")) == 7
    assert not (tmp_path / "part/sums.parquet").exists()
    calls = []
    found = evaluate(scripted(calls), BENCHMARK, problems, tmp_path / "part")
    assert calls == [("q", 3), ("r", 0), ("r", 1), ("r", 2), ("r", 3)]
    assert (found.drawn, found.answers) == (5, 12)
    assert {n: e.value for n, e in found.metrics.estimates.items()} == pytest.approx(
        {n: e.value for n, e in whole.metrics.estimates.items()}
    )
    calls.clear()
    assert evaluate(scripted(calls), BENCHMARK, problems, tmp_path / "part").drawn == 0
    assert calls == []


def test_a_killed_process_loses_less_than_a_shard(problems, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SHARD", 4)
    evaluate(scripted(), BENCHMARK, problems, tmp_path)
    shards = store.shards(tmp_path / "sums")
    shards[1].unlink()
    (tmp_path / "sums/answers/.tmp-part-00003.parquet").write_bytes(b"half")
    calls = []
    evaluate(scripted(calls), BENCHMARK, problems, tmp_path)
    assert calls == [("q", n) for n in range(4)]
    assert len(store.finished(tmp_path / "sums")) == 12
    shards[0].write_bytes(b"PAR1 damaged")
    with pytest.raises(InputError, match=r"part-00000\.parquet is damaged .* delete it"):
        evaluate(scripted(), BENCHMARK, problems, tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TrainingError("the folder cannot be synced")])
def test_an_interrupt_just_after_a_shard_appeared_repeats_no_answer(problems, tmp_path, monkeypatch, error):
    monkeypatch.setattr(runner, "SHARD", 3)
    write, left = store.write_shard, [error]

    def interrupted(*arguments):
        path = write(*arguments)
        if len(store.shards(tmp_path / "sums")) == 2 and left:
            raise left.pop()
        return path

    monkeypatch.setattr(store, "write_shard", interrupted)
    with pytest.raises(type(error)):
        evaluate(scripted(), BENCHMARK, problems, tmp_path)
    assert [pq.read_metadata(shard).num_rows for shard in store.shards(tmp_path / "sums")] == [3, 3]
    found = evaluate(scripted(), BENCHMARK, problems, tmp_path)
    assert (found.drawn, found.answers) == (6, 12)


def test_answers_that_were_written_twice_count_once(problems, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SHARD", 5)
    whole = evaluate(scripted(), BENCHMARK, problems, tmp_path)
    shards = store.shards(tmp_path / "sums")
    shards[2].rename(shards[2].with_name("part-00003.parquet"))
    shutil.copy(shards[1], shards[2])
    again = evaluate(scripted(), BENCHMARK, problems, tmp_path)
    assert (again.answers, again.metrics.estimates) == (12, whole.metrics.estimates)
    assert pq.read_metadata(tmp_path / "sums.parquet").num_rows == 12


def test_one_process_at_a_time_writes_an_evaluation(problems, tmp_path):
    def answer(wanted):
        with pytest.raises(InputError, match=r"another process is writing .*sums: wait for it, or give another"):
            evaluate(scripted(), BENCHMARK, problems, tmp_path)
        yield from scripted().answer(wanted)

    assert evaluate(dataclasses.replace(scripted(), answer=answer), BENCHMARK, problems, tmp_path).drawn == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sums", "sums.jsonl", "sums.parquet", "sums.parquet.spec.json"]  # fmt: skip


def test_the_table_replaces_neither_the_problems_nor_a_folder(tmp_path):
    data = tmp_path / "sums.parquet"
    pq.write_table(pa.table({"q": ["1"], "a": ["1"], "id": ["p"]}), data)
    problems = load_problems(BENCHMARK, data)
    before = data.read_bytes()
    with pytest.raises(InputError, match=r"sums\.parquet would replace what is read from .*: give another --out"):
        evaluate(scripted(), BENCHMARK, problems, tmp_path)
    assert data.read_bytes() == before
    (tmp_path / "out/sums.parquet").mkdir(parents=True)
    with pytest.raises(InputError, match="is a folder, which cannot be replaced"):
        evaluate(scripted(), BENCHMARK, problems, tmp_path / "out")


def test_more_samples_go_on_and_other_conditions_are_refused(problems, tmp_path):
    evaluate(scripted(), BENCHMARK, problems, tmp_path, drawing=Drawing(samples=2))
    calls = []
    found = evaluate(scripted(calls), BENCHMARK, problems, tmp_path, drawing=Drawing(samples=3))
    assert calls == [("p", 2), ("q", 2), ("r", 2)]
    assert found.spec.samples == read_spec(tmp_path / "sums/spec.json").samples == 3
    three = {"drawing": Drawing(samples=3)}
    for change, said in (
        ({"drawing": Drawing(samples=2)}, "samples: 3 against 2"),
        ({"drawing": Drawing(samples=3, temperature=1)}, "decoding.temperature: 0.6 against 1"),
        (three | {"seed": 1}, r"seeds: \[0\] against \[1\]"),
        (three | {"place": "before"}, "instruction_place"),
    ):
        told = BENCHMARK.model_copy(update={"prompt": load_benchmark("aime24").prompt})
        benchmark = told if "place" in change else BENCHMARK
        with pytest.raises(InputError, match=f"under other conditions .*{said}"):
            evaluate(scripted(), benchmark, problems, tmp_path, **change)
    with pytest.raises(InputError, match="model: script against other"):
        evaluate(scripted(name="other"), BENCHMARK, problems, tmp_path, **three)
    with pytest.raises(InputError, match="dataset_hash"):
        evaluate(scripted(), BENCHMARK, dataclasses.replace(problems, hash="x"), tmp_path, **three)
    (tmp_path / "else/sums").mkdir(parents=True)
    (tmp_path / "else/sums/thesis.tex").touch()
    with pytest.raises(InputError, match="holds something that is no evaluation"):
        evaluate(scripted(), BENCHMARK, problems, tmp_path / "else")


def test_what_changes_no_answer_may_change(problems, tmp_path):
    def source(**changes):
        return dataclasses.replace(scripted(**changes), parallelism=f"{len(changes)} at once")

    with pytest.raises(TrainingError):
        evaluate(source(fail_after=7, error=TrainingError("gone")), BENCHMARK, problems, tmp_path)
    assert evaluate(source(), BENCHMARK, problems, tmp_path).drawn == 5
    # Nothing was answered under the conditions that are there.
    with pytest.raises(InputError):
        evaluate(scripted(fail_after=0, error=InputError("no")), BENCHMARK, problems, tmp_path / "none")
    assert evaluate(scripted(), BENCHMARK, problems, tmp_path / "none", seed=1).drawn == 12


def test_fresh_moves_an_evaluation_aside(problems, tmp_path):
    for _ in range(3):
        found = evaluate(scripted(), BENCHMARK, problems, tmp_path, fresh=True)
        assert found.drawn == 12
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["sums", "sums.1", "sums.2"]


def test_no_more_texts_are_held_than_a_shard(problems, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SHARD", 10)
    alive, most = [], []

    def answer(wanted):
        for request in wanted:
            drawn = Drawn(text=r"\boxed{2}", finish="stop")
            alive.append(weakref.ref(drawn))
            most.append(sum(one() is not None for one in alive[-40:]))
            yield request, drawn
            del drawn

    answerer = Answerer(name="m", answer=answer, engine="script")
    found = evaluate(answerer, BENCHMARK, problems, tmp_path, drawing=Drawing(samples=100))
    assert found.answers == len(most) == 300
    assert max(most) <= 11
    assert len(store.shards(tmp_path / "sums")) == 30


def test_hostile_text_and_missing_values(problems, tmp_path):
    def answer(wanted):
        for request in wanted:
            yield request, Drawn(text="\ud800\x00 \\boxed{\udfff}", finish="stop", tokens=["\ud800", "x"])

    found = evaluate(Answerer(name="m", answer=answer, engine="script"), BENCHMARK, problems, tmp_path)
    assert found.metrics.estimates["avg@4"].value == 0
    assert not {"length", "entropy"} & set(found.metrics.estimates)
    row = pq.read_table(store.shards(tmp_path / "sums")[0]).to_pylist()[0]
    assert row["completion"] == "\\ud800\x00 \\boxed{\\udfff}"
    assert row["tokens"] == ["\\ud800", "x"]
    assert row["length"] is None


def test_unreadable_references_are_named_and_not_judged(problems, tmp_path):
    prompts = (*problems.prompts[:2], dataclasses.replace(problems.prompts[2], answer=""))
    found = evaluate(scripted(), BENCHMARK, dataclasses.replace(problems, prompts=prompts), tmp_path)
    assert [name for name, _ in found.unreadable] == ["r"]
    assert found.metrics.unjudged == 4
    assert found.metrics.estimates["avg@4"].value == pytest.approx((0.5 + 0.75) / 2)
    assert any("4 of 12 answers" in note for note in found.notes)
    # An answer without a box is wrong whatever the reference is, and says nothing of one that cannot be read.
    prompts = (dataclasses.replace(problems.prompts[0], answer=r"1 + \frac{"), *problems.prompts[1:])
    changed = dataclasses.replace(problems, prompts=prompts)
    with make_verifier("math") as judge:
        found = evaluate(scripted(), BENCHMARK, changed, tmp_path / "other", judge=judge)
    assert [name for name, _ in found.unreadable] == ["p"]
    assert found.metrics.unjudged == 4
    assert found.metrics.estimates["avg@4"].value == pytest.approx((0.75 + 0) / 2)


def test_a_model_decoded_here_draws_the_same_however_it_is_interrupted(problems, tmp_path):
    drawing = Drawing(samples=3, temperature=1.0, top_p=1.0, max_tokens=6)
    model, tokenizer = tiny.qwen3(), tiny.tokenizer()

    def source(slots=2):
        return local_answerer(model, tokenizer, drawing, LocalSettings(template="none", slots=slots), name="tiny")

    whole = evaluate(source(), BENCHMARK, problems, tmp_path / "whole", drawing=drawing)
    assert whole.metrics.estimates["entropy"].value > 0

    def stopping(wanted):
        for number, pair in enumerate(source().answer(wanted)):
            if number == 5:
                raise KeyboardInterrupt
            yield pair

    stopped = dataclasses.replace(source(), answer=stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopped, BENCHMARK, problems, tmp_path / "part", drawing=drawing)
    evaluate(source(), BENCHMARK, problems, tmp_path / "part", drawing=drawing)

    def texts(folder):
        rows = [row for shard in store.shards(folder / "sums") for row in pq.read_table(shard).to_pylist()]
        return {(row["prompt_id"], row["sample"]): (row["completion"], row["ids"]) for row in rows}

    assert texts(tmp_path / "part") == texts(tmp_path / "whole")
    assert len({text for text, _ in texts(tmp_path / "whole").values()}) > 3
    with pytest.raises(InputError, match="reads 256 tokens, problem and answer together, and answers may have 256"):
        local_answerer(model, tokenizer, Drawing(max_tokens=256), LocalSettings(), name="tiny")


def test_the_numbers_of_a_summary_are_json(problems, tmp_path):
    found = evaluate(scripted(), BENCHMARK, dataclasses.replace(problems, prompts=problems.prompts[:1]), tmp_path)
    text = json.dumps(runner.summary(found), allow_nan=False)
    assert math.isnan(found.metrics.estimates["avg@4"].low)
    assert json.loads(text)["metrics"]["avg@4"]["low"] is None
