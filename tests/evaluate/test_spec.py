"""Specifications: one text for the same conditions, and every difference named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

import pytest

from forkpoint.errors import InputError
from forkpoint.evaluate.spec import EvalSpec, canonical, differences, digest, read_spec, spec_of, unrecorded

FULL = EvalSpec(
    dataset="aime24", dataset_version="test", dataset_hash="ab12", problems=30, prompt_template="{question}",
    instruction="box it", instruction_place="after", samples=8, decoding={"temperature": 0.6, "top_p": 0.95},
    seeds=(0, 1), engine="vllm", engine_version="0.33", dtype="bfloat16", parallelism="1 gpu", verifier="math",
    verifier_version="0.9.0",
)  # fmt: skip


def test_the_same_conditions_are_the_same_text():
    other = dataclasses.replace(FULL, decoding={"top_p": 0.95, "temperature": 0.6})
    assert canonical(FULL) == canonical(other)
    assert digest(FULL) == digest(other) == hashlib.sha256(canonical(FULL).encode()).hexdigest()
    assert canonical(EvalSpec(decoding={"temperature": 1.0})) == canonical(EvalSpec(decoding={"temperature": 1}))
    assert spec_of(json.loads(canonical(FULL))) == FULL


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(EvalSpec)])
def test_every_field_moves_the_hash_and_is_named(name):
    old = getattr(FULL, name)
    new = (
        {"temperature": 0.6, "top_p": 0.9}
        if name == "decoding"
        else (0, 2)
        if name == "seeds"
        else 7
        if isinstance(old, int)
        else "other"
    )
    changed = dataclasses.replace(FULL, **{name: new})
    assert digest(changed) != digest(FULL)
    (found,) = differences(FULL, changed)
    assert found.field == ("decoding.top_p" if name == "decoding" else name)
    assert found.a != found.b
    assert differences(FULL, FULL) == []


def test_what_only_one_records_is_a_difference():
    (found,) = differences(EvalSpec(samples=8, dtype="bfloat16"), EvalSpec(samples=8))
    assert str(found) == 'dtype: "bfloat16" against not recorded'
    assert unrecorded(EvalSpec(samples=8))[:2] == ["dataset", "dataset_version"]
    assert unrecorded(FULL) == []


def test_order_is_that_of_the_fields():
    a, b = EvalSpec(dataset="x", decoding={"top_p": 1, "a": 1}, verifier="m"), EvalSpec(dataset="y", verifier="n")
    assert [d.field for d in differences(a, b)] == ["dataset", "decoding.a", "decoding.top_p", "verifier"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sample": 8}, "did you mean 'samples'"),
        ({"samples": "8"}, "'samples' holds '8', which is not a whole number"),
        ({"samples": True}, "not a whole number"),
        ({"decoding": {"stop": ["a"]}}, "not an object of texts and numbers"),
        ({"decoding": None}, "'decoding'"),
        ({"seeds": 3}, "not a list of whole numbers"),
        ({"engine": 3}, "not a text"),
    ],
)
def test_wrong_fields_are_named(values, said):
    with pytest.raises(InputError, match=said):
        spec_of(values)


def test_numbers_that_are_none_are_refused():
    with pytest.raises(InputError, match="decoding of an evaluation holds nan"):
        EvalSpec(decoding={"temperature": math.nan})


def test_files(tmp_path):
    path = tmp_path / "a.spec.json"
    path.write_text(canonical(FULL))
    assert read_spec(path) == FULL
    for content, said in (("[1]", "JSON list"), ("{", "not valid JSON")):
        path.write_text(content)
        with pytest.raises(InputError, match=said):
            read_spec(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_spec(tmp_path / "none.json")
