"""Every kind of source as strangers write it: recognised by content, streamed, and told what it lacks."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import write_synthetic_run

from forkpoint.analyze.traces.parquet import write_traces
from forkpoint.analyze.traces.records import batch_of
from forkpoint.analyze.traces.sources import open_traces
from forkpoint.analyze.traces.stats import trace_stats
from forkpoint.analyze.traces.trace import TraceInfo
from forkpoint.errors import InputError
from tiny import save, tokenizer

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "data" / "recorded"
PLAIN = {"prompt": "p", "tokens": ["a", "b"], "logprobs": [-0.5, -1.0], "reward": 1.0}
VERL = {"input": "2+2?", "output": "It is 4.", "gts": "4", "score": 1.0, "step": 3, "acc": True}
CHAT = {
    "id": "x", "model": "m", "choices": [{
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi!"},
        "logprobs": {"content": [
            {"token": "Hi", "logprob": -0.5, "bytes": [72, 105],
             "top_logprobs": [{"token": "Hi", "logprob": -0.5}, {"token": "Yo", "logprob": -2.0}]},
            {"token": "!", "logprob": -2.5, "bytes": [33], "top_logprobs": [{"token": ".", "logprob": -0.25}]},
        ]},
    }],
}  # fmt: skip
OLD = {
    "id": "cmpl", "choices": [{
        "index": 0, "finish_reason": "length", "text": "ab",
        "logprobs": {"tokens": ["a", "b"], "token_logprobs": [None, -0.5], "text_offset": [0, 1],
                     "top_logprobs": [None, {"b": -0.5, "c": -1.5}]},
    }],
}  # fmt: skip


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bound(*logp, cap=1.0):
    """Return the least entropy with these log-probs, where no other token has more than `cap`."""
    p = [math.exp(x) for x in logp]
    while 1 - sum(p) > cap:
        p.append(cap)
    return -sum(x * math.log(x) for x in (*p, 1 - sum(p)))


def test_the_recorded_openai_responses():
    """Real responses without alternatives: of every token only its own log-prob is known."""
    path = RECORDED / "openai_logprobs_response.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    traces = open_traces(path)
    (batch,) = traces
    bodies = json.loads(path.read_text())
    entries = [entry for body in bodies for entry in body["choices"][0]["logprobs"]["content"]]
    assert batch.responses == len(bodies) == 3
    assert [batch.text(n) for n in range(batch.tokens)] == [entry["token"] for entry in entries]
    np.testing.assert_allclose(batch.logp_N, [entry["logprob"] for entry in entries], rtol=1e-6)
    # What is left of less than 1e-6 counts as none.
    h = [bound(lp) if -math.expm1(lp := entry["logprob"]) > 1e-6 else -lp for entry in entries]
    np.testing.assert_allclose(batch.entropy_N, h, atol=2e-6)
    assert batch.entropy_kind == ("lower-bound",) * 3
    assert batch.completion == tuple(body["choices"][0]["message"]["content"] for body in bodies)
    assert traces.about.model == "gpt-4o-2024-08-06"
    assert "lower bounds" in traces.about.notes[0]
    assert trace_stats(traces).is_lower_bound


@pytest.mark.parametrize("shape", ["jsonl", "list", "one", "pretty", "batch file"])
def test_chat_responses_in_every_shape(tmp_path, shape):
    wrapped = {"custom_id": "q1", "response": {"status_code": 200, "body": CHAT}}
    text = {
        "jsonl": json.dumps(CHAT) + "\n\n", "list": json.dumps([CHAT]), "one": json.dumps(CHAT),
        "pretty": "\n" + json.dumps(CHAT, indent=2), "batch file": json.dumps(wrapped),
    }[shape]  # fmt: skip
    (tmp_path / "r.json").write_text("\ufeff" + text, encoding="utf-8")
    (batch,) = open_traces(tmp_path / "r.json")
    np.testing.assert_allclose(batch.entropy_N, [bound(-0.5, -2.0, cap=math.exp(-2)), bound(-0.25, -2.5)], rtol=1e-5)
    assert [batch.text(0), batch.text(1)] == ["Hi", "!"]
    assert batch.rank_N.tolist() == [1, 0]
    assert (batch.completion, batch.finish) == (("Hi!",), ("stop",))
    assert batch.prompt_id == ("q1" if shape == "batch file" else "x",)


def test_completion_responses_of_the_old_kind(tmp_path):
    (batch,) = open_traces(lines(tmp_path / "r.jsonl", OLD))
    np.testing.assert_allclose(batch.logp_N, [math.nan, -0.5])
    np.testing.assert_allclose(batch.entropy_N, [math.nan, bound(-0.5, -1.5)], rtol=1e-5)
    assert any(note.what == "an entropy is NaN" for note in batch.notes)


def test_a_response_without_log_probs_says_what_to_ask_for(tmp_path):
    bare = {"id": "x", "choices": [{"message": {"content": "Hi"}, "logprobs": None}]}
    with pytest.raises(InputError, match=r"none of its responses .* 'logprobs' is missing: the request did not ask"):
        list(open_traces(lines(tmp_path / "r.jsonl", bare)))
    (batch,) = open_traces(lines(tmp_path / "r.jsonl", CHAT, bare))
    assert batch.responses == 1
    assert "r.jsonl line 2" in str(batch.notes[0])


def test_a_run_directory(tmp_path):
    run = write_synthetic_run(tmp_path / "run")
    traces = open_traces(run)
    batches = list(traces)
    assert [int(batch.step_R[0]) for batch in batches] == [1, 12]
    table = pq.read_table(run / "rollouts" / "step-00001.parquet").to_pylist()
    first = batches[0]
    assert first.responses == len(table)
    np.testing.assert_array_equal(first.entropy_N, np.float32([x for row in table for x in row["entropy"]]))
    assert [first.text(n) for n in range(first.tokens)] == [x for row in table for x in row["tokens"]]
    assert first.kept_N.tolist() == [x for row in table for x in row["kept"]]
    assert first.verdict == tuple(row["verdict"] for row in table)
    assert set(first.entropy_kind) == {"exact"}
    assert traces.about.model == "models/countdown-1m"
    evals = open_traces(run, part="evals")
    assert sum(batch.responses for batch in evals) == 2 * 256


def test_a_run_with_lower_bounds_is_marked(tmp_path):
    run = write_synthetic_run(tmp_path / "run")
    path = run / "rollouts" / "step-00012.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("entropy_kind", pa.array(["lower-bound"] * len(table))), path)
    kinds = [set(batch.entropy_kind) for batch in open_traces(run)]
    assert kinds == [{"exact"}, {"lower-bound"}]


def test_trl_completions_in_the_folder_it_writes(tmp_path):
    folder = tmp_path / "out" / "completions"
    folder.mkdir(parents=True)
    for step, prompt in ((2, "p"), (10, [{"role": "user", "content": "q"}])):
        table = {
            "step": [step] * 2,
            "prompt": [prompt] * 2,
            "completion": ["c1", "c2"],
            "accuracy_reward": [1.0, 0.0],
            "format_reward": [0.5, None],
            "n_tokens": [10, 20],
            "advantage": [0.7, -0.7],
        }
        pq.write_table(pa.table(table), folder / f"completions_{step:05d}.parquet")
    traces = open_traces(tmp_path / "out")
    batches = list(traces)
    assert [batch.step_R.tolist() for batch in batches] == [[2, 2], [10, 10]]
    assert [batch.prompt[0] for batch in batches] == ["p", "q"]
    assert batches[0].reward_R.tolist() == [1.5, 0.0]
    assert batches[0].completion == ("c1", "c2")
    assert traces.about.kind == "trl"
    assert {"tokens", "logp", "entropy"} <= set(traces.about.lacks)
    assert batches[0].tokens == 0
    assert batches[0].entropy_kind == ("none", "none")


def test_verl_dumps_in_the_order_of_their_steps(tmp_path):
    for step in (10, 9, 100):
        lines(tmp_path / f"{step}.jsonl", VERL | {"step": step}, VERL | {"step": step, "acc": False, "score": 0.0})
    traces = open_traces(tmp_path)
    assert [batch.step_R[0] for batch in traces] == [9, 10, 100]
    first = next(iter(traces))
    assert first.verdict == ("right", "wrong")
    assert first.reward_R.tolist() == [1.0, 0.0]
    assert (first.prompt[0], first.completion[0], first.answer[0]) == ("2+2?", "It is 4.", "4")
    assert traces.about.kind == "verl"
    assert "score_with" in traces.about.notes[0]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_plain_tokens_with_log_probs(tmp_path, suffix):
    rows = [PLAIN, PLAIN | {"tokens": ["a"], "logprobs": [-0.25]}]
    path = tmp_path / f"t.{suffix}"
    if suffix == "jsonl":
        lines(path, *rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    traces = open_traces(path)
    (batch,) = traces
    assert batch.offsets_R.tolist() == [0, 2, 3]
    np.testing.assert_allclose(batch.entropy_N, [bound(-0.5), bound(-1.0), bound(-0.25)], rtol=1e-5)
    assert batch.entropy_kind == ("lower-bound",) * 2
    assert [batch.text(n) for n in range(3)] == ["a", "b", "a"]
    assert batch.reward_R.tolist() == [1.0, 1.0]
    assert "lower bounds" in traces.about.notes[0]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_entropies_of_others_are_lower_bounds_until_somebody_says_more(tmp_path, suffix):
    row = {"token_ids": [1, 2], "token_logprobs": [-0.5, -1.0], "entropies": [0.9, 1.1]}
    path = tmp_path / f"t.{suffix}"
    if suffix == "jsonl":
        lines(path, row)
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    for said, kind in ((None, "lower-bound"), ("exact", "exact")):
        traces = open_traces(path, entropy_kind=said)
        (batch,) = traces
        np.testing.assert_allclose(batch.entropy_N, [0.9, 1.1], rtol=1e-6)
        assert batch.entropy_kind == (kind,)
        assert len(traces.about.notes) == (said is None)


def test_plain_alternatives_in_three_spellings(tmp_path):
    objects = [{"token": "x", "logprob": -0.5}, {"token": "y", "logprob": -1.5}]
    entries = ({"x": -0.5, "y": -1.5}, [["y", -1.5], ["x", -0.5]], objects)
    path = lines(tmp_path / "t.jsonl", *({"tokens": ["x"], "logp": [-0.5], "top_logprobs": [e]} for e in entries))
    (batch,) = open_traces(path)
    np.testing.assert_allclose(batch.entropy_N, [bound(-0.5, -1.5)] * 3, rtol=1e-5)
    assert [batch.texts[code] for code in batch.top.text_M] == ["x", "y"] * 3


def test_a_trace_and_a_folder_of_traces(tmp_path):
    info = TraceInfo(kind="plain", name="source", lacks=("ids",), notes=("Mind.",), model="m")
    for number in (2, 10):
        record = {"tokens": ["a"], "entropy": [float(number)], "entropy_kind": "exact"}
        write_traces(tmp_path / f"part-{number}.parquet", [batch_of([record], file="f")], info)
    traces = open_traces(tmp_path)
    assert [batch.entropy_N.tolist() for batch in traces] == [[2.0], [10.0]]
    assert (traces.about.kind, traces.about.notes, traces.about.model) == ("trace", ("Mind.",), "m")
    pq.write_table(pa.table({"ids": [[1]]}), tmp_path / "part-11.parquet")
    with pytest.raises(InputError, match=r"part-11\.parquet is no trace and part-2\.parquet is one"):
        open_traces(tmp_path)


@pytest.mark.parametrize("source", ["run", "verl", "plain", "chat"])
def test_everything_becomes_a_trace(tmp_path, source):
    path = tmp_path / "in.jsonl"
    if source == "run":
        path = write_synthetic_run(tmp_path / "in")
    else:
        lines(path, {"verl": VERL, "plain": PLAIN, "chat": CHAT}[source])
    traces = open_traces(path)
    write_traces(tmp_path / "out.parquet", traces, traces.about)
    before, after = trace_stats(traces), trace_stats(open_traces(tmp_path / "out.parquet"))
    assert (before.responses, before.tokens, before.kinds) == (after.responses, after.tokens, after.kinds)
    assert before.verdicts == after.verdicts
    assert before.entropy.mean == pytest.approx(after.entropy.mean, nan_ok=True)
    again = open_traces(tmp_path / "out.parquet").about
    assert (again.lacks, again.notes) == (traces.about.lacks, traces.about.notes)


def test_records_are_streamed_in_bounded_batches(tmp_path):
    path = lines(tmp_path / "t.jsonl", *[PLAIN | {"tokens": ["a"] * 300, "logprobs": [-0.5] * 300}] * 20)
    batches = list(open_traces(path, batch_tokens=1000))
    assert [batch.responses for batch in batches] == [4] * 5
    assert [int(place) for batch in batches for place in batch.place_R] == list(range(1, 21))


def test_a_file_is_not_read_further_than_the_batch(tmp_path, monkeypatch):
    """Counted, not clocked: the first batch has parsed its own lines, one for the kind, and no more."""
    import forkpoint.analyze.traces.files as module

    parsed = []
    real = module._parsed
    monkeypatch.setattr(module, "_parsed", lambda data: parsed.append(1) or real(data))
    path = lines(tmp_path / "t.jsonl", *[PLAIN | {"tokens": ["a"] * 300, "logprobs": [-0.5] * 300}] * 500)
    next(iter(open_traces(path, batch_tokens=3000)))
    assert len(parsed) <= 10 + 4


# Bad input


def test_bad_lines_are_noted_and_the_rest_comes_out(tmp_path):
    path = lines(tmp_path / "t.jsonl", PLAIN, PLAIN, PLAIN)
    good = path.read_text().splitlines()
    missing = json.dumps({"tokens": ["a"]})
    nan = json.dumps(PLAIN | {"logprobs": [-0.5, math.nan]})
    path.write_text("\n".join([good[0], "[1, 2", missing, '"text"', good[1], nan, missing, good[2][:20]]))
    (batch,) = open_traces(path)
    assert batch.place_R.tolist() == [1, 5, 6]
    said = [str(note) for note in trace_stats([batch]).notes]
    assert said[:4] == [
        "it is not valid JSON (2 responses; first: t.jsonl line 2)",
        "field 'logp' is missing (2 responses; first: t.jsonl line 3)",
        "it is not a JSON object (1 response; first: t.jsonl line 4)",
        "a log-prob is NaN (1 response; first: t.jsonl line 6)",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.jsonl", "", "holds no JSON object"),
        ("t.jsonl", "\n\n", "holds no JSON object"),
        ("t.jsonl", "not json\n", "holds no JSON object"),
        ("t.json", "[]", "holds no JSON object"),
        (
            "t.jsonl",
            '{"colour": "red"}',
            r"is of no kind that can be read \(its fields: colour\): give a run directory",
        ),
        ("t.jsonl", '{"tokens": ["a"]}', r"none of its responses could be used: field 'logp' is missing"),
        ("t.jsonl", '{"input": "a", "output": 3, "score": 1}', "field 'output' is missing or not text"),
        ("t.jsonl", "[" * 100_000, "holds no JSON object"),
        ("t.jsonl", '{"tokens": ["a"], "logp": [' + "9" * 5000 + "]}", "holds no JSON object"),
        ("t.bin", "PAR1 and then something else", "cannot be read as parquet"),
    ],
)
def test_files_that_cannot_be_used_are_one_sentence(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said) as raised:
        list(open_traces(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_empty_tables_are_one_sentence(tmp_path):
    path = tmp_path / "t.parquet"
    write_traces(path, [], TraceInfo(kind="plain", name="f"))
    with pytest.raises(InputError, match=r"t\.parquet holds nothing to analyse; it is empty"):
        list(open_traces(path))
    pq.write_table(pa.table({"tokens": pa.array([], pa.list_(pa.string()))}), path)
    with pytest.raises(InputError, match="has no column 'logp' and no column 'entropy'"):
        open_traces(path)


def test_places_that_hold_nothing_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*nowhere: give a run directory"):
        open_traces(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no \.parquet, \.jsonl or \.json file"):
        open_traces(tmp_path)
    lines(tmp_path / "a.jsonl", PLAIN)
    pq.write_table(pa.table({"ids": [[1]]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="holds both parquet and JSON files"):
        open_traces(tmp_path)
    with pytest.raises(InputError, match="is a model directory: give prompts too"):
        open_traces(save(tmp_path / "model"))
    (tmp_path / "run" / "rollouts").mkdir(parents=True)
    with pytest.raises(InputError, match=r"has no rollouts/step-\*\.parquet"):
        open_traces(tmp_path / "run")


def test_a_tokenizer_gives_texts_and_says_when_it_is_another(tmp_path):
    words = tokenizer()
    (batch,) = open_traces(lines(tmp_path / "a.jsonl", {"ids": [13, 14, 99], "logp": [-1.0] * 3}), tokenizer=words)
    assert [(batch.text(n) or "").strip() for n in range(3)] == ["a", "b", ""]
    assert "a token id is outside the tokenizer's vocabulary of 23, up to 99" in str(batch.notes[0])
    other = {"ids": [13, 14], "tokens": ["Ġnot", "Ġours"], "logp": [-1.0] * 2}
    batches = list(open_traces(lines(tmp_path / "b.jsonl", other, other), tokenizer=words, batch_tokens=1))
    assert [batch.text(0) for batch in batches] == ["Ġnot"] * 2
    assert [sum("not the trace's" in note.what for note in batch.notes) for batch in batches] == [1, 0]


def test_prompts_may_come_from_a_file(tmp_path):
    from forkpoint.analyze.traces.sampling import ModelSettings

    prompts = lines(tmp_path / "p.jsonl", {"question": "a b"}, {"question": "1 + 2"})
    settings = ModelSettings(group=2, max_tokens=3, device="cpu", top=2)
    (batch,) = open_traces(save(tmp_path / "model"), prompts=prompts, settings=settings)
    assert batch.responses == 4
    assert batch.prompt == ("a b", "a b", "1 + 2", "1 + 2")
    assert batch.entropy_kind == ("exact",) * 4
