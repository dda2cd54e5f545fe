"""verl's end-to-end test task: continue an arithmetic sequence modulo a number, one character a token.

A prompt `8,3:9,4` gives two numbers, the modulus and how many numbers to write: `7,2,6,1`. Files and
model are those of `tests/e2e/arithmetic_sequence` in verl; the model is untrained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forkpoint.errors import InputError
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.tasks.readers import data_task, read_prompts
from forkpoint.tasks.task import Task

_PROMPT = re.compile(r"(\d{1,6}),(\d{1,6}):(\d{1,6}),(\d{1,6})", re.ASCII)
_SEP, _END, _PAD, _UNKNOWN = "S", "E", "P", "U"


def arithmetic_sequence_task(train: str | Path, heldout: str | Path) -> Task:
    """Return verl's task over its own prompt files.

    Training prompts that are also in the held-out file are left out (29 of 736 in verl's files).

    Args:
        train: parquet or other file of verl rows (`prompt`: a chat of one message).
        heldout: the same, for evaluation.

    Returns:
        The task; the true continuation is each prompt's `answer`.

    Raises:
        InputError: a file cannot be read, or a prompt is not of the form `first,second:modulus,count`.
    """
    train_prompts, heldout_prompts = (_with_answers(path) for path in (train, heldout))
    return data_task("arithmetic-sequence", train_prompts, heldout_prompts, judge)


def continuation(text: str) -> str:
    """Return the true continuation of a prompt.

    x_{n+1} = x_n + (second - first) mod modulus, starting after `second`, `count` numbers joined by commas.

    >>> continuation("8,3:9,4")
    '7,2,6,1'
    >>> continuation("5,8:9,0")
    ''

    Raises:
        InputError: the prompt has another form, or modulus 0.
    """
    match = _PROMPT.fullmatch(text.strip())
    first, second, modulus, count = map(int, match.groups()) if match else (0, 0, 0, 0)
    if not modulus:
        raise InputError(f"prompt {text!r} is not of the form `first,second:modulus,count` with a modulus above 0")
    difference = (second - first) % modulus
    return ",".join(str((second + n * difference) % modulus) for n in range(1, count + 1))


def sequence_reward(truth: str, response: str) -> float:
    """Return the share of a sequence continued correctly, as verl's test defines it.

    reward = m / (len(truth) + 1), with m the number of leading characters of `response` that equal those of
    `truth`. The 1 stands for the end token, which this sum never pays, so a perfect answer of n characters
    earns n / (n + 1). Where nothing is to be continued every response earns 0.

    Args:
        truth: the true continuation.
        response: the answer, end token removed.

    Returns:
        A number in [0, 1).

    >>> sequence_reward("7,2", "7,2"), sequence_reward("7,2", "7,3"), sequence_reward("7,2", "7,2,6")
    (0.75, 0.5, 0.75)
    """
    matched = 0
    for expected, found in zip(truth, response, strict=False):
        if expected != found:
            break
        matched += 1
    return matched / (len(truth) + 1)


def judge(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Judgement]:
    """Judge continuations: `sequence_reward`, and right where the text is exactly the true continuation.

    An answer with anything after the true continuation is wrong though it earns the full reward: it did not
    end there. One cut off exactly there by the length limit cannot be told from one that ended. A prompt that
    asks for no numbers is continued rightly by an empty answer, whose reward is 0 like that of any other.
    """
    return [_judge(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]


def _judge(prompt: Prompt, text: str) -> Judgement:
    if prompt.answer is None:
        return Judgement(verdict=Verdict.UNJUDGED, reward=0.0, detail="no reference")
    reward = sequence_reward(prompt.answer, text)
    verdict = Verdict.RIGHT if text == prompt.answer else Verdict.WRONG
    return Judgement(verdict=verdict, reward=reward, parts={"answer": reward})


def _with_answers(path: str | Path) -> tuple[Prompt, ...]:
    prompts = read_prompts(path, question="prompt", answer=None)
    return tuple(
        Prompt(id=p.id, text=p.text, messages=p.messages, answer=continuation(p.text), meta=p.meta) for p in prompts
    )


def char_tokenizer(path: str | Path) -> Any:
    """Return verl's character tokenizer as a fast Hugging Face tokenizer.

    Ids: `S` (separator) 0, `E` (end) 1, `P` 2, `U` (unknown) 3, then the characters of `char_ords` from 4.
    Only the end token is special, and it pads: the others stay visible in decoded text, as they do in verl's
    reward, so an answer cannot hide wrong tokens from the verifier.

    Args:
        path: a folder with verl's `tokenizer_config.json` (`char_ords`, `model_max_length`, `chat_template`).

    Raises:
        InputError: the file is missing, or its `char_ords` are no code points.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    file = Path(path) / "tokenizer_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        characters = [chr(number) for number in config["char_ords"]]
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{file} is no character tokenizer: it needs `char_ords`, a list of code points") from error
    vocabulary = {token: id for id, token in enumerate([_SEP, _END, _PAD, _UNKNOWN, *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=_END,
        pad_token=_END,
        model_max_length=config.get("model_max_length", 2048),
        clean_up_tokenization_spaces=False,
    )
    if template := config.get("chat_template"):
        # The separator is a plain character here, so the template names it itself.
        tokenizer.chat_template = re.sub(r"\bsep_token\b", repr(_SEP), template)
    return tokenizer
