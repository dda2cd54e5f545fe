"""Everything that moves a score, in one value that can be hashed and compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkpoint.errors import InputError, did_you_mean

Plain = str | int | float | bool | None

NOT_RECORDED = "not recorded"
"""What a difference shows for a field that a result does not name."""


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """The conditions of an evaluation. None means not recorded; the model is not one of them."""

    dataset: str | None = None
    """Name or path of the problems."""
    dataset_version: str | None = None
    """Revision, split or date, as the source names it."""
    dataset_hash: str | None = None
    """Hash of the problems and references as they were read."""
    problems: int | None = None
    """How many were asked."""
    prompt_template: str | None = None
    """Text with {question}, or the name of a template."""
    instruction: str | None = None
    """What the model is told besides the problem."""
    instruction_place: str | None = None
    """Where it stands: `system`, `before`, `after` or `none`."""
    samples: int | None = None
    """Answers to each problem."""
    decoding: Mapping[str, Plain] = field(default_factory=dict)
    """temperature, top_p, top_k, max_tokens, stop texts, ..."""
    seeds: tuple[int, ...] | None = None
    """Of the draws."""
    engine: str | None = None
    """What decoded."""
    engine_version: str | None = None
    dtype: str | None = None
    """Of the products, such as `bfloat16`."""
    parallelism: str | None = None
    """Devices and how the model was laid out over them, batch size where it matters."""
    verifier: str | None = None
    """Which verifier, with its settings."""
    verifier_version: str | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            for inner in value.values() if isinstance(value, Mapping) else [value]:
                if isinstance(inner, float) and not math.isfinite(inner):
                    raise InputError(f"{name} of an evaluation holds {inner}: only finite numbers can be recorded")


@dataclass(frozen=True, kw_only=True)
class SpecDifference:
    """A condition that two evaluations do not share."""

    field: str
    a: str
    """What the first says, as text."""
    b: str

    def __str__(self) -> str:
        """Return the difference in words."""
        return f"{self.field}: {self.a} against {self.b}"


def canonical(spec: EvalSpec) -> str:
    """Return a specification as JSON that is the same text for the same conditions.

    Keys are sorted and nothing is spaced; a whole float equals its integer, so a temperature of 1 is one of 1.0.

    >>> canonical(EvalSpec(dataset="aime24", samples=8, decoding={"top_p": 1.0, "temperature": 0.6}))
    '{"dataset":"aime24","decoding":{"temperature":0.6,"top_p":1},"samples":8}'
    """
    kept = {name: value for name, value in dataclasses.asdict(spec).items() if value not in (None, {})}
    return json.dumps(_whole(kept), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(spec: EvalSpec) -> str:
    """Return the SHA-256 of the canonical JSON, in hex.

    >>> digest(EvalSpec())[:8]
    '44136fa3'
    """
    return hashlib.sha256(canonical(spec).encode()).hexdigest()


def differences(a: EvalSpec, b: EvalSpec) -> list[SpecDifference]:
    """Return every condition in which two evaluations differ, in the order of the fields.

    A field that one of them does not record is a difference; one that neither records is not.

    >>> [str(d) for d in differences(EvalSpec(samples=8, dtype="bfloat16"), EvalSpec(samples=16, dtype="bfloat16"))]
    ['samples: 8 against 16']
    """
    left, right = _flat(a), _flat(b)
    names = [*left, *(name for name in right if name not in left)]
    order = {name: place for place, name in enumerate(EvalSpec.__dataclass_fields__)}
    names.sort(key=lambda name: (order[name.partition(".")[0]], name))
    return [
        SpecDifference(field=name, a=left.get(name, NOT_RECORDED), b=right.get(name, NOT_RECORDED))
        for name in names
        if left.get(name) != right.get(name)
    ]


def unrecorded(spec: EvalSpec) -> list[str]:
    """Return the fields that a specification leaves open."""
    return [name for name, value in dataclasses.asdict(spec).items() if value in (None, {})]


def spec_of(values: Mapping[str, Any], where: str = "the specification") -> EvalSpec:
    """Return a specification from a JSON object.

    Raises:
        InputError: For an unknown field or a value of the wrong kind, which is named.

    >>> spec_of({"samples": 8, "seeds": [0, 1]}).seeds
    (0, 1)
    """
    known = EvalSpec.__dataclass_fields__
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{where} has an unknown field {name!r}: {did_you_mean(name, known)}")
        if not _fits(name, value):
            raise InputError(f"{where}: field {name!r} holds {value!r}, which is not {_KINDS.get(name, 'a text')}")
    seeds = values.get("seeds")
    return EvalSpec(**{**values, **({"seeds": tuple(seeds)} if seeds is not None else {})})


def read_spec(path: Path) -> EvalSpec:
    """Read a specification from a JSON file.

    Raises:
        InputError: It cannot be read or does not hold one.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: write the specification again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a JSON {type(values).__name__}, not an object with the fields of EvalSpec")
    return spec_of(values, str(path))


_KINDS = {
    "problems": "a whole number", "samples": "a whole number", "seeds": "a list of whole numbers",
    "decoding": "an object of texts and numbers",
}  # fmt: skip


def _fits(name: str, value: object) -> bool:
    def whole(item: object) -> bool:
        return isinstance(item, int) and not isinstance(item, bool)

    if value is None:
        return name != "decoding"
    if name in ("problems", "samples"):
        return whole(value)
    if name == "seeds":
        return isinstance(value, Sequence) and not isinstance(value, str) and all(map(whole, value))
    if name == "decoding":
        return isinstance(value, Mapping) and all(
            isinstance(item, str | int | float | bool | None) for item in value.values()
        )
    return isinstance(value, str)


def _whole(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _flat(spec: EvalSpec) -> dict[str, str]:
    """Return every recorded condition as text, those of decoding under dotted names."""
    found = {}
    for name, value in json.loads(canonical(spec)).items():
        for key, inner in value.items() if isinstance(value, dict) else [("", value)]:
            found[f"{name}.{key}" if key else name] = json.dumps(inner, ensure_ascii=False)
    return found
