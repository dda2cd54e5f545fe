r"""From a problem to the token ids that a model reads, and the tokens that end its answer.

Templates: `none` (the text as it is), `chat` (the tokenizer's own), `boxed` (the literal prompt of arXiv
2506.01939), `auto` (`chat` where the tokenizer has a template, else `none`), or any text that contains
`{question}`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Prompt

log = logging.getLogger(__name__)

TEMPLATES = ("auto", "none", "chat", "boxed")
BOXED = "User:\n{question}\nPlease reason step by step, and put your final answer within \\boxed{}.\n\nAssistant:\n"
"""The prompt of arXiv 2506.01939, word for word."""


def load_tokenizer(path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer of a model folder or hub id.

    A folder whose `tokenizer_config.json` is verl's character tokenizer (`char_ords`) is read too.

    Raises:
        InputError: there is none; the message says what was looked for.
    """
    from transformers import AutoTokenizer

    from forkpoint.model import looks_local
    from forkpoint.tasks.arithmetic_sequence import char_tokenizer

    folder = Path(path).expanduser()
    if not folder.is_dir() and looks_local(path):
        raise InputError(f"there is no model folder {folder}; give a folder or a hub id such as Qwen/Qwen3-0.6B")
    if "char_ords" in _json_object(folder / "tokenizer_config.json"):
        return char_tokenizer(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder if folder.is_dir() else path),
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        what = "folder" if folder.is_dir() else "hub id or folder"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"no tokenizer could be loaded from the {what} {str(path)!r} ({reason}); "
            "a model folder needs tokenizer.json, a hub id needs the network"
        ) from error
    # For some families transformers returns an empty tokenizer where the files are missing.
    if not tokenizer("a 1 .", add_special_tokens=False)["input_ids"]:
        raise InputError(
            f"the tokenizer of {str(path)!r} turns text into no tokens: "
            "its files (tokenizer.json) are missing or damaged"
        )
    return tokenizer


def render(prompt: Prompt, tokenizer: Any, *, template: str = "auto") -> list[int]:
    """Return one problem as token ids, with the tokenizer's first token exactly once and no end token.

    Raises:
        InputError: an unknown template, a chat template that the tokenizer lacks or that refuses the
            messages, or an empty prompt.
    """
    if template not in TEMPLATES and "{question}" not in template:
        hint = did_you_mean(template, TEMPLATES)
        raise InputError(f"prompt template {template!r} is no name and has no {{question}} in it; {hint}")
    if not prompt.text.strip():
        raise InputError(f"prompt {prompt.id!r} is empty")
    if template == "auto":
        template = "chat" if tokenizer.chat_template else "none"
    if template == "chat":
        text = _chat(prompt, tokenizer)
    else:
        # replace, not format: a question is full of braces.
        text = {"none": "{question}", "boxed": BOXED}.get(template, template).replace("{question}", prompt.text)
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    first = tokenizer.bos_token_id
    if template != "chat" and first is not None and ids[:1] != [first] and _adds_first(tokenizer):
        ids.insert(0, first)
    if not ids:
        raise InputError(f"prompt {prompt.id!r} has no tokens after the template")
    return ids


def encode_prompts(
    prompts: Sequence[Prompt],
    tokenizer: Any,
    *,
    template: str = "auto",
    max_tokens: int,
    overlong: Literal["error", "drop"] = "error",
) -> list[list[int]]:
    """Return every problem as token ids.

    Args:
        prompts: the problems.
        tokenizer: a Hugging Face tokenizer.
        template: see the module.
        max_tokens: longest prompt allowed, in tokens, >= 1.
        overlong: what a longer one does: `error`, or `drop`, which puts an empty list in its place.

    Returns:
        As many lists as prompts, in their order; empty only where dropped.

    Raises:
        InputError: an empty or overlong prompt, by its id, or what `render` raises.
    """
    encoded = [render(prompt, tokenizer, template=template) for prompt in prompts]
    long = [i for i, ids in enumerate(encoded) if len(ids) > max_tokens]
    if long and overlong == "error":
        worst = max(long, key=lambda i: len(encoded[i]))
        raise InputError(
            f"{len(long)} of {len(prompts)} prompts are longer than {max_tokens} tokens "
            f"(prompt {prompts[worst].id!r} has {len(encoded[worst])}); raise prompt.max_tokens or "
            "set prompt.overlong = 'drop'"
        )
    if long:
        log.warning("left out %d of %d prompts longer than %d tokens", len(long), len(prompts), max_tokens)
    for i in long:
        encoded[i] = []
    return encoded


def end_token_ids(tokenizer: Any, generation_config: Any = None, stop: Sequence[str] = ()) -> tuple[int, ...]:
    """Return the ids that end an answer: the tokenizer's, the model's, and stop texts that are one token.

    Stop texts of several tokens are found by `stop_text`.

    Args:
        tokenizer: a Hugging Face tokenizer.
        generation_config: the model's, or None; its `eos_token_id` may be a list.
        stop: further texts that end an answer.

    Raises:
        InputError: there is neither an end token nor a stop text, or a stop text is empty.
    """
    declared = getattr(generation_config, "eos_token_id", None)
    found = [tokenizer.eos_token_id, *(declared if isinstance(declared, list | tuple) else [declared])]
    for text in stop:
        if not text:
            raise InputError("a stop text is empty; remove it from decode.stop")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            found.append(ids[0])
    ends = tuple(sorted({int(token) for token in found if token is not None}))
    if not ends and not stop:
        raise InputError(
            "the tokenizer has no end token and no stop text is set, so no answer would ever end; "
            "set decode.stop, or use a tokenizer with an eos_token"
        )
    return ends


def stop_text(tokenizer: Any, stop: Sequence[str]) -> Callable[[list[int]], bool] | None:
    """Return a test of whether an answer's ids end with one of the stop texts, or None without any.

    The last token may run past the stop text: `##` ends an answer whose last token is `## The`.
    """
    if not stop:
        return None
    # Every token but a fragment of a character is at least one character long.
    reach = 4 * max(map(len, stop)) + 4

    def test(ids: list[int]) -> bool:
        last = tokenizer.decode(ids[-1:])
        tail = tokenizer.decode(ids[-reach:])
        return any(text in tail[-(len(text) + len(last)) :] for text in stop)

    return test


def token_text(tokenizer: Any) -> Callable[[int], str]:
    """Return a function from a token id to its text, such that the texts of an answer join to the answer.

    Word tokenizers put a space between words when they decode several ids at once; it is made part of the word.
    """
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in range(len(tokenizer)) if token not in special][-2:]
    single = [tokenizer.decode([token]) for token in ordinary]
    space = " " if len(single) == 2 and tokenizer.decode(ordinary) == " ".join(single) else ""
    return lambda token: space + tokenizer.decode([token])


def _chat(prompt: Prompt, tokenizer: Any) -> str:
    import jinja2

    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; set prompt.template to 'boxed', 'none' or a text")
    messages = prompt.messages or ({"role": "user", "content": prompt.text},)
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise InputError(f"the chat template refuses prompt {prompt.id!r}: {str(error).splitlines()[0]}") from error
    return str(text)


def _adds_first(tokenizer: Any) -> bool:
    return bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])


def _json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON; copy the model folder again") from error
    return content if isinstance(content, dict) else {}
