"""Problems from files and the Hugging Face hub: JSONL, JSON, CSV, parquet, and verl's row format."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Prompt
from forkpoint.tasks.rows import open_rows
from forkpoint.tasks.task import Judge, Task

log = logging.getLogger(__name__)

_VERL = ("prompt", "reward_model.ground_truth")
_META = ("data_source", "ability", "extra_info")


def read_prompts(
    source: str | Path,
    *,
    split: str | None = None,
    question: str = "question",
    answer: str | None = "answer",
    id: str | None = None,
    limit: int | None = None,
    answer_extraction: Literal["none", "gsm8k", "boxed"] = "none",
    config: str | None = None,
    keep: Sequence[str] = (),
) -> tuple[Prompt, ...]:
    r"""Read problems and reference answers.

    A problem that occurs again is left out (the public file of DAPO-Math holds every problem about a hundred
    times), and so is one with an empty reference answer; a warning is logged that says how many were.

    Args:
        source: a `.jsonl`, `.json` (list of rows, or lines), `.csv` or `.parquet` file, a folder that holds
            `<split>.jsonl` or the like, or the id of a hub data set (needs the `datasets` package).
        split: split of a folder or hub data set (`train` where not given); a single file has no splits.
        question: field of the problem, dots reach into nested fields (`extra_info.question`). A list of
            messages (`role`, `content`) is read as a chat.
        answer: field of the reference answer, or None where the task needs none. With both fields at their
            defaults, rows in verl's format (`prompt`, `reward_model.ground_truth`) are read too.
        id: field that names a problem; file name and row number where not given.
        limit: read at most this many different problems, >= 1.
        answer_extraction: `gsm8k` takes what follows `####`, `boxed` the last \boxed{…}, `none` all.
        config: configuration (subset) of a hub data set.
        keep: further fields that become metadata, for the verifier or the prompt.

    Returns:
        The problems in the order of the source, with `data_source`, `ability` and `extra_info` as metadata.

    Raises:
        InputError: nothing can be read, or a row cannot be used; file, row and field are named.
    """
    if answer_extraction not in _EXTRACTIONS:
        hint = did_you_mean(answer_extraction, _EXTRACTIONS)
        raise InputError(f"unknown answer_extraction {answer_extraction!r}; {hint}")
    if limit is not None and limit < 1:
        raise InputError(f"limit = {limit} reads no problem; use 1 or more, or leave it out to read all")
    name, stem, rows = open_rows(source, split, config)
    kept: dict[Any, Prompt] = {}
    ids: set[str] = set()
    repeated = conflicting = unanswered = 0
    for number, (where, row) in enumerate(rows, start=1):
        if number == 1 and (question, answer) == ("question", "answer") and _is_verl(row):
            question, answer = _VERL
        prompt = _prompt(
            row, f"{name} {where}", f"{stem}/{number}", question, answer, id, _EXTRACTIONS[answer_extraction], keep
        )
        if answer is not None and not prompt.answer:
            unanswered += 1
            continue
        key = prompt.text if prompt.messages is None else json.dumps(prompt.messages)
        if key in kept:
            repeated += 1
            conflicting += prompt.answer != kept[key].answer
            continue
        if prompt.id in ids:
            raise InputError(f"{name} {where}: the id {prompt.id!r} is taken by an earlier, different problem")
        kept[key] = prompt
        ids.add(prompt.id)
        if len(kept) == limit:
            break
    if not kept:
        reason = f"field {answer!r} is empty in all of its rows" if unanswered else "it is empty"
        raise InputError(f"{name} holds no problem: {reason}")
    if unanswered:
        log.warning("%s: left out %d problems whose field %r is empty", name, unanswered, answer)
    if repeated:
        log.warning(
            "%s: left out %d repeated problems (%d of them with another answer), %d are different",
            name, repeated, conflicting, len(kept),
        )  # fmt: skip
    return tuple(kept.values())


def data_task(name: str, prompts: Sequence[Prompt], heldout: Sequence[Prompt], judge: Judge) -> Task:
    """Return a task over fixed problems, drawn without replacement in a new order every epoch.

    Training problems that are also held out are left out, and a warning says how many.

    Args:
        name: the task's name.
        prompts: training problems.
        heldout: problems for evaluation.
        judge: the verifier.

    Returns:
        A task whose `train_prompt(seed, position)` is `prompts[order(seed, position // n)[position % n]]`,
        with the order from a counter-based (Philox) stream keyed by seed and epoch.

    Raises:
        InputError: nothing is left to train on.
    """
    reserved = {prompt.text for prompt in heldout}
    train = tuple(prompt for prompt in prompts if prompt.text not in reserved)
    if not train:
        raise InputError(f"task {name!r} has no training problem that is not held out; give it a training set")
    if len(train) < len(prompts):
        log.warning("%s: left out %d training problems that are held out", name, len(prompts) - len(train))

    @functools.lru_cache(maxsize=2)
    def order(seed: int, epoch: int) -> np.ndarray:
        stream = np.random.Philox(key=np.array([seed % 2**64, epoch % 2**64], dtype=np.uint64))
        return np.argsort(stream.random_raw(len(train)), kind="stable")

    def train_prompt(seed: int, position: int) -> Prompt:
        epoch, index = divmod(position, len(train))
        return train[int(order(seed, epoch)[index])]

    return Task(name=name, train_prompt=train_prompt, heldout=tuple(heldout), judge=judge)


def _is_verl(row: Any) -> bool:
    if not isinstance(row, dict) or "question" in row:
        return False
    reference = row.get("reward_model")
    return isinstance(row.get("prompt"), list) and isinstance(reference, dict) and "ground_truth" in reference


def _prompt(
    row: Any,
    where: str,
    default_id: str,
    question: str,
    answer: str | None,
    id: str | None,
    extract: Any,
    keep: Sequence[str] = (),
) -> Prompt:
    if not isinstance(row, dict):
        raise InputError(f"{where} holds {_kind(row)}, not an object with fields")
    asked = _field(row, question, where)
    messages = _messages(asked, f"{where}, field {question!r}") if isinstance(asked, list) else None
    if messages is not None:
        text = "\n\n".join(message["content"] for message in messages)
    else:
        text = _text(asked, f"{where}, field {question!r}")
    if not text.strip():
        raise InputError(f"{where}, field {question!r} is empty")
    reference = None
    if answer is not None:
        place = f"{where}, field {answer!r}"
        value = _field(row, answer, where)
        # A table writes a number that is missing as NaN.
        written = "" if value is None or value != value else _text(value, place).strip()
        reference = extract(written, place) if written else ""
    name = default_id if id is None else _text(_field(row, id, where), f"{where}, field {id!r}")
    if not name.strip():
        raise InputError(f"{where}, field {id!r} is empty, but every problem needs an id")
    return Prompt(
        id=name,
        text=text,
        answer=reference,
        messages=messages,
        meta={name: row[name] for name in _META if name in row} | {name: _field(row, name, where) for name in keep},
    )


def _field(row: Mapping[str, Any], path: str, where: str) -> Any:
    """Return the value at a dotted path; numbers index lists."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise InputError(f"{where} has no field {path!r}; {did_you_mean(path, _paths(row))}")
    return value


def _paths(row: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in row.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping) and prefix.count(".") < 3:
            yield from _paths(value, f"{prefix}{name}.")


def _messages(value: list[Any], where: str) -> tuple[dict[str, str], ...]:
    for message in value:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise InputError(f"{where} is a list, but not one of messages with `role` and `content` texts")
    return tuple({"role": message["role"], "content": message["content"]} for message in value)


def _text(value: Any, where: str) -> str:
    """Return a scalar, or a list of scalars, as text; whole floats lose their `.0`."""
    if isinstance(value, list | tuple) and value and not any(isinstance(v, list | tuple) for v in value):
        return ", ".join(_text(item, where) for item in value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where} holds {_kind(value)}, not text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} holds {value}, which is no number to read: give its value, or leave the row out")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", type(None): "nothing", bool: "true or false", bytes: "bytes"}
    return names.get(type(value), f"{type(value).__name__} {value!r}"[:40])


def _after_hashes(text: str, where: str) -> str:
    _, mark, tail = text.rpartition("####")
    if not mark:
        raise InputError(f"{where} has no answer after `####`; use answer_extraction = 'none' or another field")
    return tail.strip().replace(",", "")


def _boxed(text: str, where: str) -> str:
    r"""Return the content of the last \boxed{…}, braces balanced."""
    start = text.rfind("\\boxed{")
    depth = 0
    for position in range(start + len("\\boxed"), len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : position].strip()
    raise InputError(f"{where} has no complete \\boxed{{…}}; use answer_extraction = 'none' or another field")


_EXTRACTIONS = {"none": lambda text, where: text, "gsm8k": _after_hashes, "boxed": _boxed}
