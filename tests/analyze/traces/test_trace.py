"""The trace format: values, disk, lower bounds, and what strangers can put into a file."""

import dataclasses
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forkpoint.analyze.traces.arrow import COLUMNS
from forkpoint.analyze.traces.parquet import KEY, file_info, read_batches, write_traces
from forkpoint.analyze.traces.records import batch_of
from forkpoint.analyze.traces.tokens import tokenizer_mismatch, with_texts
from forkpoint.analyze.traces.trace import Alternatives, Note, TraceBatch, TraceInfo, lower_bound, merged_notes
from forkpoint.errors import InputError

HOSTILE = [
    "<script>alert(1)</script>",
    "\u202eevil\u202c",
    "a\x00b",
    "\x1b[2J",
    "\ud800",
    "{{7*7}}",
    "'; DROP",
    "💥",
    "",
]
FULL = [
    {
        "tokens": [" So", "x", "<|end|>"], "ids": [5, 6, 7], "logp": [-1.0, -0.25, -0.5], "entropy": [1.5, 0.5, 0.0],
        "entropy_kind": "exact", "rank": [2, 1, 1], "advantage": [0.5, 0.5, 0.5], "credit": [0.5, 0.0, 0.0],
        "kept": [True, False, False], "phase": [1, 1, 2], "prompt_id": "p0", "sample": 3, "step": 12,
        "prompt": "Why?", "answer": "42", "completion": " Sox", "reward": 0.75, "verdict": "right", "finish": "stop",
        "top": [[("x", 6, -0.5), (" So", 5, -1.0)], [("x", 6, -0.25)], []],
    },
    {"tokens": ["y"], "entropy": [2.0], "entropy_kind": "rescored", "kept": [True]},
    {"completion": ""},
    {"ids": [9, 9], "logp": [-3.0, -4.0]},
]  # fmt: skip
INFO = TraceInfo(kind="plain", name="f", lacks=("phase",), notes=("Mind this.",), model="m", temperature=0.6)


def arrays(batch: TraceBatch) -> dict:
    """Return everything a batch says, token texts spelled out so that codes may differ."""
    said = {
        f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name not in ("texts", "text_N", "top")
    }
    said["text"] = [batch.text(token) for token in range(batch.tokens)]
    if batch.top is not None:
        said |= {f"top.{name}": getattr(batch.top, name) for name in ("offsets_N", "id_M", "logp_M")}
        said["top.text"] = [batch.texts[code] if code >= 0 else None for code in batch.top.text_M]
    return said


def assert_same(one: TraceBatch, other: TraceBatch, *, besides: tuple[str, ...] = ()) -> None:
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    for name in a.keys() - set(besides):
        np.testing.assert_equal(a[name], b[name], err_msg=name)
        if isinstance(a[name], np.ndarray):
            assert a[name].dtype == b[name].dtype, name


def test_a_batch_by_hand():
    batch = batch_of(FULL, file="f.jsonl")
    assert batch.offsets_R.tolist() == [0, 3, 4, 4, 6]
    assert batch.id_N.tolist() == [5, 6, 7, -1, 9, 9]
    assert [batch.text(n) for n in range(6)] == [" So", "x", "<|end|>", "y", None, None]
    assert batch.entropy_kind == ("exact", "rescored", "none", "lower-bound")
    assert batch.rank_N.tolist() == [2, 1, 1, 0, 0, 0]
    np.testing.assert_equal(batch.advantage_N, np.array([0.5] * 3 + [math.nan] * 3, np.float32))
    assert batch.kept_N.tolist() == [True, False, False, True, False, False]
    assert batch.span(3) == slice(4, 6)
    assert batch.where(3) == "f.jsonl line 4"
    assert batch.response_of_token().tolist() == [0, 0, 0, 1, 3, 3]


def test_what_is_written_is_read(tmp_path):
    batch = batch_of(FULL, file="f.jsonl")
    path = tmp_path / "t.parquet"
    assert write_traces(path, [batch, batch], INFO) == 8
    first, second = read_batches(path)
    for place, read in ((1, first), (5, second)):
        assert_same(batch, read, besides=("file", "unit", "place_R", "notes"))
        assert read.place_R.tolist() == list(range(place, place + 4))
    assert file_info(path) == dataclasses.replace(INFO, kind="trace", name=str(path))
    assert pq.read_schema(path).names == list(COLUMNS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.parquet"]


def test_what_is_read_is_written_again_the_same(tmp_path):
    write_traces(tmp_path / "a.parquet", [batch_of(FULL, file="f")], INFO)
    write_traces(tmp_path / "b.parquet", read_batches(tmp_path / "a.parquet"), INFO)
    first, second = (pq.read_table(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert first.schema.equals(second.schema)
    assert repr(first.to_pylist()) == repr(second.to_pylist())  # as text, since NaN differs from itself


@pytest.mark.parametrize("tokens", [1, 3, 7, 10_000])
def test_batches_are_bounded_and_lose_nothing(tmp_path, tokens):
    rng = np.random.default_rng(0)
    records = [{"ids": rng.integers(0, 9, n).tolist(), "entropy": rng.random(n).tolist()} for n in [3] * 40]
    path = tmp_path / "t.parquet"
    write_traces(path, [batch_of(records, file="f")], INFO)
    batches = list(read_batches(path, tokens=tokens))
    assert max(batch.tokens for batch in batches) <= max(3, tokens)
    assert len(batches) == {1: 40, 3: 40, 7: 20, 10_000: 1}[tokens]
    assert [i for batch in batches for i in batch.id_N.tolist()] == [i for r in records for i in r["ids"]]
    assert [p for batch in batches for p in batch.place_R.tolist()] == list(range(1, 41))


def test_memory_follows_the_batch_and_not_the_file(tmp_path):
    """Arrow's own count of bytes: a pass over ten times the tokens holds no more at once."""
    n, rng = 2_000, np.random.default_rng(0)
    part = [{"ids": rng.integers(0, 1 << 30, n).tolist(), "entropy": rng.random(n).tolist()} for _ in range(10)]
    batch, peaks = batch_of(part, file="f"), []
    for groups in (4, 40):
        path = tmp_path / f"{groups}.parquet"
        write_traces(path, [batch] * groups, INFO)
        pool = pa.default_memory_pool()
        before, peak = pool.bytes_allocated(), 0
        for read in read_batches(path, tokens=10 * n):
            peak = max(peak, pool.bytes_allocated() - before)
            assert read.tokens == 10 * n
        peaks.append(peak)
    assert peaks[1] < 1.3 * peaks[0]


def test_only_the_columns_asked_for_are_read(tmp_path):
    path = tmp_path / "t.parquet"
    write_traces(path, [batch_of(FULL, file="f")], INFO)
    (batch,) = read_batches(path, columns=("entropy",))
    assert batch.entropy_N.tolist()[:4] == [1.5, 0.5, 0.0, 2.0]
    assert (batch.id_N == -1).all()
    assert np.isnan(batch.logp_N).all()
    assert batch.entropy_kind == ("exact", "rescored", "none", "lower-bound")
    assert batch.texts == ()
    assert not any("log-prob" in note.what for note in batch.notes)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_as_it_was(tmp_path, text):
    path = tmp_path / "t.parquet"
    record = {"tokens": [text, "x"], "entropy": [0.5, 0.5], "prompt": text, "completion": text, "prompt_id": text}
    write_traces(path, [batch_of([record], file="f")], INFO)
    (batch,) = read_batches(path)
    shown = text.encode("utf-8", "backslashreplace").decode()
    assert (batch.text(0), batch.prompt[0], batch.completion[0], batch.prompt_id[0]) == (shown,) * 4


def test_bytes_that_are_no_text_become_visible(tmp_path):
    raw = pa.array([b"ok", b"\xff\xfe"], pa.binary()).view(pa.string())
    table = pa.table({"tokens": pa.ListArray.from_arrays([0, 2], raw), "entropy": [[0.1, 0.2]], "prompt": raw[1:]})
    pq.write_table(table, tmp_path / "t.parquet")
    (batch,) = read_batches(tmp_path / "t.parquet")
    assert (batch.text(1), batch.prompt[0]) == ("\\xff\\xfe",) * 2


# Lower bounds


def test_lower_bound_by_hand():
    top = [[("a", -1, math.log(0.5)), ("b", -1, math.log(0.25))], [("a", -1, math.log(0.5))], []]
    record = {"tokens": ["a", "z", "z"], "logp": [math.log(p) for p in (0.5, 0.25, 0.125)], "top": top}
    batch = batch_of([record], file="f")
    h = lambda *p: -sum(x * math.log(x) for x in p)  # noqa: E731
    expected = [h(0.5, 0.25, 0.25), h(0.5, 0.25, 0.25), h(0.125, 0.875)]
    np.testing.assert_allclose(batch.entropy_N, expected, rtol=1e-6)
    assert batch.entropy_kind == ("lower-bound",)
    # Of the second token two are known, and it is not the most likely; nothing is known of the third one's place.
    assert batch.rank_N.tolist() == [1, 0, 0]


@pytest.mark.parametrize("k", [0, 1, 3, 10, 50])
def test_lower_bound_is_below_the_entropy_and_grows_with_what_is_known(k):
    rng = np.random.default_rng(k)
    p = rng.dirichlet(np.full(50, 0.2), size=200)
    sampled = np.array([rng.choice(50, p=row) for row in p])
    entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(1)

    def bound(k):
        order = np.argsort(-p, axis=1)[:, :k]
        logp = np.log(np.maximum(np.take_along_axis(p, order, 1), 1e-300)).astype(np.float32)
        known = Alternatives(
            offsets_N=np.arange(201, dtype=np.int64) * k, id_M=order.reshape(-1).astype(np.int32),
            text_M=np.full(200 * k, -1, np.int32), logp_M=logp.reshape(-1),
        )  # fmt: skip
        inside = (order == sampled[:, None]).any(1) if k else np.zeros(200, bool)
        return lower_bound(np.log(p[np.arange(200), sampled]), known, inside)

    found = bound(k)
    assert (found <= entropy + 1e-5).all()
    if k == 50:
        np.testing.assert_allclose(found, entropy, atol=1e-5)
    else:
        assert (bound(k + 5) >= found - 1e-5).all()
        assert found.mean() < entropy.mean() - 0.001


def test_a_sampled_token_of_the_list_is_not_counted_twice():
    """Two different tokens may have the same text, and log-probs are rounded: in doubt the bound stays low."""
    top = [[("a", -1, -0.1), ("b", -1, -3.0)]]
    for token, logp in (("a", -0.1), ("other spelling of a", -0.1), ("b", -3.0001)):
        (entropy,) = batch_of([{"tokens": [token], "logp": [logp], "top": top}], file="f").entropy_N
        p = [math.exp(-0.1), math.exp(-3.0)]
        assert entropy == pytest.approx(-sum(x * math.log(x) for x in (*p, 1 - sum(p))), rel=1e-4)


def test_no_unknown_token_is_likelier_than_the_last_of_the_list():
    """Unless that last one is the sampled token, which servers append however unlikely it is."""
    h = lambda *p: -sum(x * math.log(x) for x in p)  # noqa: E731
    top = [[("a", -1, math.log(0.4)), ("b", -1, math.log(0.1))]]
    for token, p, expected in (
        ("a", 0.4, h(0.4, *[0.1] * 6)),
        ("b", 0.1, h(0.4, 0.1, 0.4, 0.1)),
        ("c", 0.05, h(0.4, 0.1, 0.05, *[0.1] * 4, 0.05)),
    ):
        (entropy,) = batch_of([{"tokens": [token], "logp": [math.log(p)], "top": top}], file="f").entropy_N
        assert entropy == pytest.approx(expected, rel=1e-5)


def test_impossible_probabilities_give_no_entropy_and_a_note():
    top = [[("a", -1, -0.1), ("b", -1, -0.2)]]
    batch = batch_of([{"tokens": ["a"], "logp": [-0.1], "top": top}], file="f")
    assert np.isnan(batch.entropy_N).all()
    assert [note.what for note in batch.notes] == ["an entropy is NaN"]


def test_a_log_prob_of_minus_infinity_is_an_impossible_token():
    (entropy,) = batch_of([{"tokens": ["a"], "logp": [-math.inf], "top": [[("b", -1, 0.0)]]}], file="f").entropy_N
    assert entropy == 0


def test_the_bound_is_computed_for_parquet_with_alternatives_too(tmp_path):
    path = tmp_path / "t.parquet"
    # The third token is of the list, though its log-prob was rounded away from the list's.
    table = {
        "ids": [[1, 2, 7]], "logp": [[-0.5, -2.0, -0.2501]], "top_ids": [[[1, 7], [7], [7]]],
        "top_logp": [[[-0.5, -1.5], [-0.25], [-0.25]]],
    }  # fmt: skip
    pq.write_table(pa.table(table), path)
    (batch,) = read_batches(path)
    lists = ([-0.5, -1.5], [-0.25, -2.0], [-0.25])
    expected = [-sum(x * math.log(x) for x in (*p, 1 - sum(p))) for p in ([math.exp(v) for v in row] for row in lists)]
    np.testing.assert_allclose(batch.entropy_N, expected, rtol=1e-5)
    assert batch.entropy_kind == ("lower-bound",)


# Bad input


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"tokens": ["a", "b"], "logp": [-1.0]}, "field 'logp' has 1 entries for 2 tokens in field 'tokens'"),
        ({"tokens": ["a"], "entropy": "high"}, "field 'entropy' is not a list"),
        ({"tokens": ["a"], "entropy": ["high"]}, "field 'entropy' holds something that is not a number"),
        ({"tokens": [3], "entropy": [0.1]}, "field 'tokens' holds something that is not text"),
        ({"ids": ["3"], "entropy": [0.1]}, "field 'ids' holds something that is not a token id"),
        ({"ids": [2**40], "entropy": [0.1]}, "field 'ids' holds something that is not a token id"),
        ({"ids": [3], "rank": [2**40]}, "field 'rank' holds something that is not a number, or too large"),
        ({"ids": [3], "entropy": [0.1], "entropy_kind": "sure"}, "entropy_kind is none of exact, rescored"),
    ],
)
def test_a_bad_record_is_left_out_by_name_and_place(record, said):
    batch = batch_of([FULL[0], record, FULL[1]], file="f.jsonl", places=[4, 7, 9])
    assert batch.place_R.tolist() == [4, 9]
    assert batch.tokens == 4
    assert len(batch.notes) == 1
    assert said in str(batch.notes[0])
    assert str(batch.notes[0]).endswith("(1 response; first: f.jsonl line 7)")


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"ids": [1, 2], "logp": [-1.0, 0.5], "entropy": [1.0, 1.0]}, "a log-prob is above 0 and was left out"),
        ({"ids": [1, 2], "logp": [-1.0, None], "entropy": [1.0, 1.0]}, "a log-prob is NaN"),
        ({"ids": [1, 2], "entropy": [1.0, -0.5]}, "an entropy is negative or infinite and was left out"),
        ({"ids": [1, 2], "entropy": [1.0, 1e300]}, "an entropy is negative or infinite and was left out"),
        ({"ids": [1, 2], "entropy": [1.0, math.nan]}, "an entropy is NaN"),
        ({"ids": [], "entropy": []}, "the answer is empty"),
    ],
)
def test_odd_values_are_noted_and_the_rest_stays(record, what):
    batch = batch_of([record, FULL[1]], file="f.jsonl")
    assert batch.responses == 2
    assert merged_notes(batch.notes) == (Note(what=what, count=1, first="f.jsonl line 1"),)
    assert batch.entropy_N[-1] == 2.0
    assert not (batch.entropy_N < 0).any()
    assert not np.isinf(batch.entropy_N).any()
    assert not (batch.logp_N > 0).any()


def test_lists_of_different_lengths_in_parquet_are_left_out_by_row(tmp_path):
    path = tmp_path / "t.parquet"
    table = {"ids": [[1], [1, 2], [5]], "entropy": [[0.5], [0.5], [0.25]], "prompt": ["a", "b", "c"]}
    pq.write_table(pa.table(table), path)
    (batch,) = read_batches(path)
    assert batch.place_R.tolist() == [1, 3]
    assert batch.prompt == ("a", "c")
    assert batch.entropy_N.tolist() == [0.5, 0.25]
    assert [str(note) for note in batch.notes] == [
        "field 'entropy' has fewer entries than another field has tokens (1 response; first: t.parquet row 2)"
    ]


def test_a_row_without_a_list_is_not_known_and_the_others_are(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"ids": [[1, 2], [3]], "entropy": [None, [0.25]], "advantage": [[1.0, 1.0], None]}), path)
    (batch,) = read_batches(path)
    np.testing.assert_equal(batch.entropy_N, np.array([math.nan, math.nan, 0.25], np.float32))
    np.testing.assert_equal(batch.advantage_N, np.array([1, 1, math.nan], np.float32))
    assert [(note.what, note.first) for note in batch.notes] == [("an entropy is NaN", "t.parquet row 1")]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"entropy": ["x"]}, "column 'entropy' of .* holds string, not a list for every response"),
        ({"entropy": [["x"]]}, "column 'entropy' of .* holds string where numbers belong"),
        ({"entropy": [[0.5]], "tokens": [[1]]}, "column 'tokens' of .* holds int64 where token texts belong"),
        ({"entropy": [[0.5]], "ids": [[2**40]]}, "column 'ids' of .* holds a number that is no int32"),
        ({"entropy": [[0.5]], "reward": ["good"]}, "column 'reward' of .* holds string where numbers belong"),
        ({"entropy": [[0.5]], "entropy_kind": ["sure"]}, "has an entropy_kind 'sure', which is none of exact"),
        ({"ids": [[5]], "top_logp": [[[-1.0]]], "top_ids": [[[1, 2]]]}, "column 'top_ids' of .* does not fit top_logp"),
        ({"ids": [[5]], "top_logp": [[-1.0]]}, "column 'top_logp' of .* holds double, not a list of lists"),
    ],
)
def test_columns_of_the_wrong_kind_are_named(tmp_path, column, said):
    pq.write_table(pa.table(column), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=said):
        list(read_batches(tmp_path / "t.parquet"))


@pytest.mark.parametrize("kind", [pa.large_list(pa.float64()), pa.list_(pa.float32(), 2), pa.list_(pa.float16())])
def test_lists_of_other_kinds_are_read(tmp_path, kind):
    column = pa.array([[0.5, 0.25], [1.0, 2.0]], kind)
    pq.write_table(pa.table({"entropy": column}), tmp_path / "t.parquet")
    (batch,) = read_batches(tmp_path / "t.parquet")
    assert batch.entropy_N.tolist() == [0.5, 0.25, 1.0, 2.0]


def test_another_schema_and_damaged_metadata_are_one_sentence(tmp_path):
    path = tmp_path / "t.parquet"
    for meta, said in ((json.dumps({"schema": 99}), "has trace schema 99 and this version reads 1"), ("{", "damaged")):
        pq.write_table(pa.table({"ids": [[1]]}).replace_schema_metadata({KEY: meta}), path)
        with pytest.raises(InputError, match=said):
            file_info(path)


def test_a_cut_file_is_one_sentence(tmp_path):
    path = tmp_path / "t.parquet"
    write_traces(path, [batch_of(FULL, file="f")], INFO)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"t\.parquet cannot be read as parquet"):
        list(read_batches(path))
    path.write_bytes(whole[:60] + b"\xff" * 400 + whole[460:])
    with pytest.raises(InputError, match=r"t\.parquet is damaged near row 1"):
        list(read_batches(path))


# Tokenizers


def test_texts_are_filled_in_and_ids_outside_are_noted():
    records = [{"ids": [0, 1, 0], "entropy": [1.0, 1.0, 1.0], "top": [[(None, 1, -0.5)], [], [(None, 8, -0.5)]]},
               {"ids": [7], "entropy": [1.0]}]  # fmt: skip
    asked = []
    batch = with_texts(batch_of(records, file="f"), lambda token: asked.append(token) or f"t{token}", 2)
    assert [batch.text(n) for n in range(4)] == ["t0", "t1", "t0", None]
    assert [batch.texts[code] if code >= 0 else None for code in batch.top.text_M] == ["t1", None]
    assert sorted(asked) == [0, 1, 1]
    assert [str(note) for note in batch.notes] == [
        "a token id is outside the tokenizer's vocabulary of 2, up to 7 (1 response; first: f line 2)"
    ]


def test_own_texts_are_kept():
    batch = with_texts(batch_of([{"ids": [0], "tokens": ["mine"], "entropy": [1.0]}], file="f"), str, 2)
    assert batch.text(0) == "mine"


def test_a_few_differences_are_special_tokens_and_many_are_another_tokenizer():
    words = [f"w{i}" for i in range(100)]
    batch = batch_of([{"ids": list(range(100)), "tokens": words, "entropy": [1.0] * 100}], file="f")
    assert tokenizer_mismatch(batch, lambda token: f" w{token}", 100) is None
    assert tokenizer_mismatch(batch, lambda token: f"w{token}" if token > 4 else "<x>", 100) is None
    assert "(6 of 100 ids differ)" in tokenizer_mismatch(batch, lambda token: f"w{token}" if token > 5 else "<x>", 100)
    assert "outside the tokenizer's 50 ids (50 of 100" in tokenizer_mismatch(batch, lambda token: f"w{token}", 50)
