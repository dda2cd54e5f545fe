"""Text to learn from: JSONL to token ids with a mask, and streams cut into length-bucketed batches.

Data is a function of the position alone, so a position is all the state a run has to keep.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from forkpoint.errors import InputError
from forkpoint.tasks.streams import random_stream


@dataclass(frozen=True, kw_only=True)
class Example:
    """One text to learn from."""

    ids: tuple[int, ...]
    """Prompt and response, the end token included."""
    start: int
    """Index of the first token that counts in the loss, at least 1; everything from there on counts."""


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """A micro-batch of examples, right-padded to the longest."""

    ids_BT: Tensor
    """int64 (B, T)."""
    length_B: Tensor
    """int64 (B,): how many of the T positions are real."""
    mask_BT: Tensor
    """bool (B, T): tokens that count in the loss; never the first of a row."""


One = TypeVar("One")

Batches = Callable[[int], Sequence[TextBatch]]
"""Step (from 0) to the micro-batches of that step: a pure function."""


def read_examples(path: str | Path, tokenizer: Any, *, max_length: int | None = None) -> list[Example]:
    """Read a JSONL file of texts or chats as token ids.

    Every line is an object in one of three forms. `{"prompt": …, "response": …}`: both are text as it
    stands, and the response counts. `{"messages": [{"role": …, "content": …}, …]}`: written with the
    tokenizer's chat template, and the last message, which must be the assistant's, counts. `{"text": …}`:
    all of it counts but the first token, which nothing precedes. What counts ends with the tokenizer's end
    token. Blank lines are skipped.

    Args:
        path: the file, UTF-8.
        tokenizer: Hugging Face tokenizer with an end token.
        max_length: most tokens an example may have; None leaves it open.

    Returns:
        The examples in the order of the file.

    Raises:
        InputError: the file cannot be read or has no example, a line is malformed or too long (the message
            names file and line), or the tokenizer lacks an end token or a chat template that is needed.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end token, so nothing would teach a model to stop; set one.")
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: check the path, one JSON object a line is read.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    examples = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                examples.append(_encode(_parse(line), tokenizer, max_length))
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from error
    if not examples:
        raise InputError(f"{path} holds no example; write one JSON object a line.")
    return examples


def shuffled(examples: Sequence[One], seed: int) -> Callable[[int], One]:
    """Make an endless stream: every epoch goes once through the examples in an order of its own.

    Returns:
        Position (from 0) to example, a pure function of seed and position.

    Raises:
        InputError: there is no example.

    >>> stream = shuffled([Example(ids=(n, n), start=1) for n in range(4)], seed=7)
    >>> sorted(stream(position).ids[0] for position in range(4, 8))
    [0, 1, 2, 3]
    """
    if not examples:
        raise InputError("there is no example to shuffle; give at least one.")

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return random_stream(seed, epoch).permutation(len(examples))

    def example(position: int) -> One:
        epoch, place = divmod(position, len(examples))
        return examples[int(order(epoch)[place])]

    return example


def bucketed(example: Callable[[int], Example], *, rows: int, max_tokens: int = 16384, fill: float = 0.75) -> Batches:
    """Cut a stream of examples into steps, and every step into micro-batches of similar length.

    Args:
        example: position (from 0) to example, a pure function.
        rows: examples per step, at least 1.
        max_tokens: most positions, padding included, in a micro-batch; a longer example is alone in its own.
        fill: in (0, 1]: the shortest row of a micro-batch has at least this share of the longest's length,
            so less than `1 - fill` of the positions are padding.

    Returns:
        Step to micro-batches. Together they hold examples `step * rows` to `(step + 1) * rows - 1`.

    Raises:
        InputError: rows or fill is out of range.
    """
    if rows < 1 or not 0 < fill <= 1:
        raise InputError(f"rows = {rows} and fill = {fill}; rows must be at least 1 and fill inside (0, 1].")

    def batches(step: int) -> list[TextBatch]:
        drawn = [example(position) for position in range(step * rows, (step + 1) * rows)]
        buckets: list[list[Example]] = []
        longest = 0
        for one in sorted(drawn, key=lambda e: len(e.ids), reverse=True):
            length = len(one.ids)
            if not buckets or length < fill * longest or (len(buckets[-1]) + 1) * longest > max_tokens:
                buckets.append([])
                longest = length
            buckets[-1].append(one)
        return [collate(bucket) for bucket in buckets]

    return batches


def collate(examples: Sequence[Example]) -> TextBatch:
    """Pad examples on the right to the longest.

    >>> collate([Example(ids=(5, 6, 7), start=1), Example(ids=(8, 9), start=1)]).mask_BT.tolist()
    [[False, True, True], [False, True, False]]
    """
    length_B = torch.tensor([len(e.ids) for e in examples])
    start_B = torch.tensor([e.start for e in examples])
    ids_BT = torch.zeros(len(examples), int(length_B.max()), dtype=torch.int64)
    for row, e in enumerate(examples):
        ids_BT[row, : len(e.ids)] = torch.tensor(e.ids)
    place_T = torch.arange(ids_BT.shape[1])
    mask_BT = (place_T >= start_B[:, None]) & (place_T < length_B[:, None])
    return TextBatch(ids_BT=ids_BT, length_B=length_B, mask_BT=mask_BT)


def _parse(line: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON ({error}).") from error
    if not isinstance(record, dict):
        raise InputError(f"a JSON {type(record).__name__} where an object is needed.")
    return record


def _encode(record: Mapping[str, Any], tokenizer: Any, max_length: int | None) -> Example:
    if "messages" in record:
        prompt, response = _chat_ids(record["messages"], tokenizer)
    elif "text" in record:
        ids = tokenizer(_text(record, "text"))["input_ids"]
        prompt, response = ids[:1], ids[1:]
    elif "prompt" in record and "response" in record:
        prompt = tokenizer(_text(record, "prompt"))["input_ids"]
        response = tokenizer(_text(record, "response"), add_special_tokens=False)["input_ids"]
    else:
        found = ", ".join(map(str, record)) or "nothing"
        raise InputError(f"needs `prompt` and `response`, `messages`, or `text`; it has {found}.")
    if not prompt:
        raise InputError("there is no token before what should be learned; write some text.")
    if response[-1:] != [tokenizer.eos_token_id]:
        response = [*response, tokenizer.eos_token_id]
    ids = (*prompt, *response)
    if max_length is not None and len(ids) > max_length:
        raise InputError(f"{len(ids)} tokens, and max_length is {max_length}; raise it or shorten the line.")
    return Example(ids=ids, start=len(prompt))


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise InputError(f"`{name}` is a {type(value).__name__}; write a string.")
    return value


def _chat_ids(messages: Any, tokenizer: Any) -> tuple[list[int], list[int]]:
    import jinja2

    shaped = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    )
    if not shaped or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise InputError(
            "`messages` must be two or more objects with strings `role` and `content`, the assistant's last."
        )
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; use `prompt` and `response` instead.")
    try:
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        full = tokenizer.apply_chat_template(messages, return_dict=False)
    except jinja2.TemplateError as error:
        raise InputError(f"the chat template rejects these messages: {error}.") from error
    if full[: len(prompt)] != prompt:
        raise InputError(
            "the chat template writes the earlier messages differently once the last is there, so what to "
            "learn cannot be told apart; use `prompt` and `response` instead."
        )
    response = full[len(prompt) :]
    # Templates put a newline behind the end token; nothing that follows the end is ever sampled.
    ends = [place for place, token in enumerate(response) if token == tokenizer.eos_token_id]
    return prompt, response[: ends[-1] + 1] if ends else response
