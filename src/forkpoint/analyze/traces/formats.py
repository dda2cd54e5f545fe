"""What others write, as records: plain rows, responses with log-probs, TRL's completions, verl's dumps.

Everything comes from strangers: it is checked here, and a row that cannot be used says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from forkpoint.analyze.rundata import number
from forkpoint.analyze.traces.records import (
    BadRecordError,
    Record,
    as_id,
    as_number,
    as_sequence,
    as_text,
    as_token,
)

Parser = Callable[[Mapping[str, Any]], Iterator[Record]]
ALIASES: Mapping[str, tuple[str, ...]] = {
    "tokens": ("tokens", "token_texts"),
    "ids": ("ids", "token_ids", "completion_ids", "response_ids"),
    "logp": ("logp", "logprobs", "token_logprobs", "log_probs", "logps"),
    "entropy": ("entropy", "entropies", "token_entropy", "token_entropies"),
    "rank": ("rank", "ranks"),
    "top": ("top_logprobs", "top"),
    "advantage": ("advantage", "advantages"),
    "credit": ("credit",),
    "kept": ("kept",),
    "phase": ("phase",),
    "prompt_id": ("prompt_id", "problem_id", "id", "uid"),
    "sample": ("sample", "sample_id"),
    "step": ("step",),
    "prompt": ("prompt", "question", "problem", "input"),
    "answer": ("answer", "ground_truth", "gts", "gt", "reference"),
    "completion": ("completion", "response", "output", "text"),
    "reward": ("reward", "score"),
    "verdict": ("verdict",),
    "finish": ("finish", "finish_reason"),
    "entropy_kind": ("entropy_kind",),
}
"""Names under which plain JSONL and parquet may call what the trace format calls by the key; the first one wins."""


def plain_records(row: Mapping[str, Any]) -> Iterator[Record]:
    """Yield the record of a plain row: tokens (or ids) with log-probs, under any name in `ALIASES`."""
    record = {name: row[alias] for name, names in ALIASES.items() if (alias := _found(row, names)) is not None}
    if "tokens" not in record and "ids" not in record:
        raise BadRecordError("fields 'tokens' and 'ids' are both missing")
    if "logp" not in record and "entropy" not in record and "top" not in record:
        raise BadRecordError("field 'logp' is missing")
    if isinstance(record.get("advantage"), int | float):
        count = len(as_sequence(record.get("tokens", record.get("ids")), "tokens"))
        record["advantage"] = [record["advantage"]] * count
    if "top" in record:
        record["top"] = [_alternatives(entry) for entry in as_sequence(record["top"], "top_logprobs")]
    yield record


def verl_records(row: Mapping[str, Any]) -> Iterator[Record]:
    """Yield the record of a line of verl's rollout or validation dump: texts and a score, no tokens."""
    for name in ("input", "output"):
        if not isinstance(row.get(name), str):
            raise BadRecordError(f"field {name!r} is missing or not text")
    score = row.get("score")
    acc = row.get("acc")
    verdict = ("right" if acc else "wrong") if isinstance(acc, bool) else None
    yield {
        "prompt": row["input"], "completion": row["output"], "answer": as_text(row.get("gts")),
        "reward": score, "step": row.get("step"), "verdict": verdict, "prompt_id": row.get("uid"),
    }  # fmt: skip


def trl_records(row: Mapping[str, Any]) -> Iterator[Record]:
    """Yield the record of a row of TRL's completion table; the reward is the plain sum of its reward columns.

    A row may hold further logged columns; only those named `reward` or `*reward*` count, or all numeric ones if no
    column is named so.
    """
    for name in ("prompt", "completion"):
        if row.get(name) is None:
            raise BadRecordError(f"field {name!r} is missing")
    numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and k not in ("step", "advantage")}
    rewards = {k: v for k, v in numbers.items() if "reward" in k.lower()} or numbers
    known = [size for value in rewards.values() if not math.isnan(size := number(value))]
    yield {
        "prompt": as_text(row["prompt"]), "completion": as_text(row["completion"]), "step": row.get("step"),
        "reward": sum(known) if known else math.nan, "answer": as_text(row.get("answer")),
    }  # fmt: skip


def response_records(row: Mapping[str, Any]) -> Iterator[Record]:
    """Yield a record for every choice of an OpenAI or vLLM response, chat or completion, or a line of a batch file."""
    wrapped = row.get("response")
    body = wrapped.get("body", wrapped) if isinstance(wrapped, Mapping) else row
    if not isinstance(body, Mapping) or not isinstance(body.get("choices"), list):
        raise BadRecordError("field 'choices' is missing")
    for place, choice in enumerate(body["choices"]):
        if not isinstance(choice, Mapping):
            raise BadRecordError(f"choice {place} is not an object")
        logprobs = choice.get("logprobs")
        if not isinstance(logprobs, Mapping):
            raise BadRecordError("field 'logprobs' is missing: the request did not ask for log-probs")
        message = choice.get("message")
        record = _chat_tokens(logprobs) if isinstance(logprobs.get("content"), list) else _old_tokens(logprobs)
        record["completion"] = message.get("content") if isinstance(message, Mapping) else choice.get("text")
        record["finish"] = choice.get("finish_reason")
        record["prompt_id"] = row.get("custom_id") or body.get("id")
        record["sample"] = choice.get("index", place)
        yield record


def _chat_tokens(logprobs: Mapping[str, Any]) -> Record:
    entries = logprobs["content"]
    for place, entry in enumerate(entries):
        if not (isinstance(entry, Mapping) and "token" in entry and "logprob" in entry):
            raise BadRecordError(f"field 'token' or 'logprob' is missing at token {place}")
    return {
        "tokens": [entry["token"] for entry in entries],
        "logp": [entry["logprob"] for entry in entries],
        "top": [_alternatives(entry.get("top_logprobs") or []) for entry in entries],
    }


def _old_tokens(logprobs: Mapping[str, Any]) -> Record:
    for name in ("tokens", "token_logprobs"):
        if not isinstance(logprobs.get(name), list):
            raise BadRecordError(f"field 'logprobs.{name}' is missing")
    top = logprobs.get("top_logprobs") or [{}] * len(logprobs["tokens"])
    return {
        "tokens": logprobs["tokens"],
        "logp": logprobs["token_logprobs"],
        "top": [_alternatives(entry or {}) for entry in as_sequence(top, "top_logprobs")],
    }


def _alternatives(entry: Any) -> list[tuple[str | None, int, float]]:
    """Return (text, id, log-prob) of one position, most likely first.

    Read are a dict from text to log-prob, a list of objects (`token`, `logprob`), and a list of pairs.
    """
    if entry is None:
        return []
    pairs = entry.items() if isinstance(entry, Mapping) else as_sequence(entry, "top_logprobs")
    found = []
    for item in pairs:
        if isinstance(item, Mapping):
            token, value = item.get("token", item.get("token_id")), item.get("logprob")
        elif isinstance(item, list | tuple) and len(item) == 2:
            token, value = item
            value = value.get("logprob") if isinstance(value, Mapping) else value
        else:
            raise BadRecordError("an entry of 'top_logprobs' is neither an object, a pair nor a text with a log-prob")
        is_id = isinstance(token, int) and not isinstance(token, bool)
        found.append(
            (None if is_id else as_token(token), as_id(token) if is_id else -1, as_number(value, "top_logprobs"))
        )
    # The sort is stable, so tokens of equal probability keep the order of the source.
    return sorted((item for item in found if not math.isnan(item[2])), key=lambda item: -item[2])


def _found(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if row.get(name) is not None), None)
