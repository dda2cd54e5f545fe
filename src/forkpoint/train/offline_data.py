"""Recorded answers: a run's or an evaluation's parquet files, or JSONL, as rows and as the rollouts they were."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forkpoint.errors import InputError
from forkpoint.rollouts import EntropyKind, Prompt, Rollouts, Verdict

FORM = '{"prompt": …, "completion": …, "reward": …} or {"prompt": …, "completions": […], "rewards": […]}'
_LISTS = {"ids": int, "logp": float, "entropy": float}
_READ = (
    "step", "prompt_id", "sample", "prompt", "answer", "completion", "completions", "ids", "logp", "entropy",
    "entropy_kind", "reward", "rewards", "reward_parts", "verdict", "finish", "version",
)  # fmt: skip
_TEXTS = ("prompt", "answer", "completion", "entropy_kind", "verdict", "finish")


def read_answers(path: str | Path) -> list[dict[str, Any]]:
    """Return recorded answers, a row each: what a run writes, what an evaluation writes, or lines of JSON.

    A run directory gives the answers of all its steps, an evaluation's folder those of all its shards; answers to
    one problem in one step form a group. A line of JSON holds one answer (`completion`, `reward`) or a group of them
    (`completions`, `rewards`) to a `prompt`; lines with the same `prompt_id`, or without one the same prompt, form a
    group. Beside them `ids`, `logp` and `entropy` (lists over the tokens), `answer` (the reference), `verdict` and
    `finish` (`length` where the answer was cut) are read. A reward of null says that an answer was not judged; where
    no answer has one, they are left to be judged.

    Args:
        path: a run directory, a folder of an evaluation, a .parquet file, or JSONL.

    Returns:
        Rows with `prompt_id`, `prompt`, `completion` and whatever else is known; `step` tells groups of one problem
        apart.

    Raises:
        InputError: nothing is there, or an answer cannot be used; the message names it.
    """
    path = Path(path)
    files = _files(path)
    rows: list[dict[str, Any]] = []
    for file in files:
        records = _table(file) if file.suffix == ".parquet" else _lines(file)
        for where, record in records:
            try:
                rows += _answers(record)
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
    if not rows:
        raise InputError(f"{path} holds no answers: an answer is a line {FORM}")
    rewarded = ["reward" in row for row in rows]
    if any(rewarded) and not all(rewarded):
        raise InputError(
            f"{path}: {sum(rewarded):,} of {len(rows):,} answers have a reward: give all of them one (null for those "
            "that could not be judged), or none, so that the task's verifier judges them"
        )
    return rows


def rollouts_of_rows(rows: Sequence[Mapping[str, Any]], *, max_tokens: int | None = None) -> Rollouts:
    """Return rows as rollouts on the CPU, answers to one problem of one step as a group.

    Numbers are float64, log-probs and entropies that are not recorded NaN. An answer whose verdict is neither right
    nor wrong, or whose reward is missing or not finite, counts as not judged. Prompt ids are not in the rows: every
    prompt is one 0.

    Args:
        rows: with `prompt_id` and `ids`, and what else `read_answers` names.
        max_tokens: the longest answer the decoder allowed, where it is known.

    Raises:
        InputError: there are no rows, or the lists of an answer differ in length.
    """
    if not rows:
        raise InputError("there are no answers: choose another file or step")
    for place, row in enumerate(rows):
        lengths = {len(row[name] or ()) for name in _LISTS if row.get(name) is not None}
        if len(lengths) > 1:
            raise InputError(
                f"answer {place} has lists of {sorted(lengths)} tokens where ids, logp and entropy must agree"
            )
    T = max(len(row["ids"] or ()) for row in rows)
    mask_BT = torch.tensor([[t < len(row["ids"] or ()) for t in range(T)] for row in rows]).reshape(len(rows), T)
    first: dict[tuple[Any, str], Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(_problem(row), row)
    place_of = {problem: place for place, problem in enumerate(first)}
    reward_B = torch.tensor([_number(row.get("reward")) for row in rows], dtype=torch.float64)
    verdicts = tuple(_verdict(row.get("verdict")) for row in rows)
    told = any(row.get("verdict") is not None for row in rows)
    judged_B = reward_B.isfinite()
    if told:
        judged_B &= torch.tensor([verdict is not Verdict.UNJUDGED for verdict in verdicts])
    return Rollouts(
        prompts=tuple(
            Prompt(id=name, text=str(row.get("prompt") or ""), answer=row.get("answer"))
            for (_, name), row in first.items()
        ),
        prompt_BS=torch.zeros(len(rows), 1, dtype=torch.int64),
        prompt_length_B=torch.ones(len(rows), dtype=torch.int64),
        ids_BT=_padded(rows, "ids", mask_BT).to(torch.int64),
        mask_BT=mask_BT,
        group_B=torch.tensor([place_of[_problem(row)] for row in rows]),
        sample_B=torch.tensor(_samples(rows)),
        logp_BT=_padded(rows, "logp", mask_BT),
        entropy_BT=_padded(rows, "entropy", mask_BT),
        finish=tuple(str(row.get("finish") or "stop") for row in rows),
        text=tuple(str(row.get("completion") or "") for row in rows),
        reward_B=torch.where(judged_B, reward_B, 0.0),
        reward_parts=_parts(rows),
        judged_B=judged_B,
        verdicts=verdicts if told else (),
        max_tokens=max_tokens,
        version=int(rows[0].get("version") or 0),
        entropy_kind=_kind(rows),
    )


def with_ids(rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """Return the rows with token ids, those of the text and an end token where an answer was not cut off.

    A text can be written in other tokens than those that were sampled; recorded ids are kept as they are.

    Raises:
        InputError: the tokenizer has no end token, or an answer has no token.
    """
    out = []
    for place, row in enumerate(rows):
        ids = row.get("ids")
        if ids is None:
            ids = list(tokenizer(row["completion"], add_special_tokens=False)["input_ids"])
            if row.get("finish") != "length":
                if tokenizer.eos_token_id is None:
                    raise InputError("the tokenizer has no end token, so nothing would say that an answer ended")
                ids = ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]
        if not ids:
            raise InputError(f"answer {place} to problem {row['prompt_id']!r} has no token: leave it out")
        if max(ids) >= len(tokenizer) or min(ids) < 0:
            raise InputError(
                f"answer {place} has token {max(ids)}, and the tokenizer has {len(tokenizer)}: it was written by "
                "another model"
            )
        out.append({**row, "ids": ids})
    return out


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} does not exist: name a run directory, a .parquet file or JSONL with answers")
    for pattern in ("rollouts/step-*.parquet", "answers/part-*.parquet", "*.parquet"):
        found = sorted(path.glob(pattern))
        if found:
            return found
    raise InputError(
        f"{path} holds no rollouts/step-*.parquet and no other parquet file: train with rollouts recorded, or name a "
        "file of answers"
    )


def _table(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            rows = opened.read(columns=[name for name in _READ if name in opened.schema_arrow.names]).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file} cannot be read as parquet: {reason}") from error
    for place, row in enumerate(rows):
        yield f"{file}, answer {place}", row


def _lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: a JSON {type(record).__name__} where an object is needed: {FORM}")
        yield where, record


def _answers(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the answers of one record as rows, checked; fields that nothing reads are left behind."""
    record = {name: value for name, value in record.items() if name in _READ} or record
    given = {name: value for name, value in record.items() if value is not None or name == "reward"}
    if "completions" in given:
        completions, rewards = given.pop("completions"), given.pop("rewards", None)
        if not isinstance(completions, list) or not completions:
            raise InputError("`completions` must be a list of texts that is not empty")
        if rewards is not None and (not isinstance(rewards, list) or len(rewards) != len(completions)):
            raise InputError(f"`rewards` must be a list of {len(completions)} numbers, one a completion")
        shared = {name: value for name, value in given.items() if name not in (*_LISTS, "completion", "reward")}
        singles = [
            {**shared, "completion": text, **({} if rewards is None else {"reward": rewards[place]})}
            for place, text in enumerate(completions)
        ]
        return [_answer(single) for single in singles]
    return [_answer(given)]


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    if "prompt" not in row or not ("completion" in row or "ids" in row):
        raise InputError(f"needs {FORM}; it has {', '.join(map(str, row)) or 'nothing'}")
    for name in _TEXTS:
        if not isinstance(row.get(name, ""), str):
            raise InputError(f"`{name}` is a {type(row[name]).__name__}: write a string")
    if not row["prompt"].strip():
        raise InputError("`prompt` is empty: an answer needs something that it answers")
    for name, kind in _LISTS.items():
        if name in row and not _is_list(row[name], kind):
            raise InputError(f"`{name}` must be a list of {'whole numbers' if kind is int else 'numbers'}")
    reward = row.get("reward")
    if reward is not None and not (isinstance(reward, bool | int | float) and math.isfinite(reward)):
        raise InputError(f"`reward` is {reward!r}: write a finite number, or null where the answer was not judged")
    if isinstance(reward, bool):
        row["reward"] = float(reward)
    row.setdefault("prompt_id", row["prompt"])
    return {**row, "prompt_id": str(row["prompt_id"])}


def _is_list(value: Any, kind: type) -> bool:
    allowed = (int,) if kind is int else (int, float, type(None))
    return isinstance(value, list) and all(isinstance(x, allowed) and not isinstance(x, bool) for x in value)


def _problem(row: Mapping[str, Any]) -> tuple[Any, str]:
    return row.get("step"), str(row["prompt_id"])


def _samples(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the sample's number of every row, or its place among the answers to its problem where it has none."""
    seen: dict[tuple[Any, str], int] = {}
    out = []
    for row in rows:
        seen[_problem(row)] = seen.get(_problem(row), -1) + 1
        given = row.get("sample")
        out.append(seen[_problem(row)] if given is None else int(given))
    return out


def _padded(rows: Sequence[Mapping[str, Any]], name: str, mask_BT: Tensor) -> Tensor:
    out = torch.zeros(mask_BT.shape, dtype=torch.float64)
    flat: list[float] = []
    for row in rows:
        values = row.get(name)
        flat += [math.nan] * len(row["ids"] or ()) if values is None else [_number(value) for value in values]
    out[mask_BT] = torch.tensor(flat, dtype=torch.float64)
    return out


def _number(value: object) -> float:
    """Return a JSON value as a float, NaN where it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _verdict(text: object) -> Verdict:
    return next((verdict for verdict in Verdict if verdict == text), Verdict.UNJUDGED)


def _parts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    found: list[dict[str, Any]] = []
    for row in rows:
        try:
            parts = json.loads(row.get("reward_parts") or "{}")
        except (ValueError, TypeError, RecursionError):
            parts = {}
        found.append(parts if isinstance(parts, dict) else {})
    names = dict.fromkeys(name for parts in found for name in parts)
    return {
        name: torch.tensor([_number(parts.get(name, 0.0)) for parts in found], dtype=torch.float64) for name in names
    }


def _kind(rows: Sequence[Mapping[str, Any]]) -> EntropyKind:
    kinds = {row.get("entropy_kind") for row in rows}
    return "lower-bound" if "lower-bound" in kinds else "rescored" if "rescored" in kinds else "exact"
