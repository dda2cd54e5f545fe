"""vLLM as a source of answers: a stored model, in this process.

Run against a stand-in with vLLM's interface, never against vLLM itself.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

from forkpoint.errors import InputError
from forkpoint.evaluate.benchmark import Drawing
from forkpoint.evaluate.sources import Answerer, LocalSettings, answering, room_of, sampling_of, template_of
from forkpoint.rollouts import Prompt
from forkpoint.train.locate import model_path

PARTS = 8
"""Answers asked for at a time, in slots: vLLM fills a slot as it becomes free, and at the end of a part some wait."""
MEMORY = 0.9
"""Share of the device's memory: nothing else runs on it."""
TOP = 20
"""Likely tokens that tighten the lower bound of an entropy."""


def open_with_vllm(
    path: str, planned: Sequence[tuple[Sequence[Prompt], Drawing]], settings: LocalSettings | None = None
) -> Callable[[Drawing], Answerer]:
    """Open a stored model with vLLM: a folder, a hub name, or a run directory (its newest checkpoint).

    vLLM gives log-probs of softmax(logits / temperature) over the whole vocabulary at temperatures 0 and 1, and at
    others where nothing is cut by top_p. Only then are they written, with lower bounds of the entropies.

    Args:
        path: the model.
        planned: everything that will be asked, and how answers are drawn: it decides how much vLLM makes room for.
        settings: how problems are put, slots, device, dtype.

    Returns:
        A function from how answers are drawn, one of `planned`, to the source of answers.

    Raises:
        InputError: vLLM is not installed or cannot hold the model, or a problem and its answer are longer than the
            model reads.
    """
    from forkpoint.decode.vllm import open_vllm
    from forkpoint.model import pick_device
    from forkpoint.tasks.prompts import encode_prompts, load_tokenizer

    how = settings or LocalSettings()
    folder = model_path(path)
    device = pick_device(how.device)
    dtype = ("bfloat16" if device.type == "cuda" else "float32") if how.dtype == "auto" else how.dtype
    tokenizer = load_tokenizer(folder, revision=how.revision, trust_remote_code=how.trust_remote_code)
    config, generation = _configs(folder, how)
    samplings = [sampling_of(tokenizer, generation, drawing, how) for _, drawing in planned]
    context = 0
    for prompts, drawing in planned:
        room = room_of(config, drawing, folder)
        encoded = encode_prompts(prompts, tokenizer, template=how.template, max_tokens=room)
        context = max(context, max(map(len, encoded)) + drawing.max_tokens)
    measured = _measurable(samplings)
    engine = open_vllm(
        folder, samplings=samplings, device=device, dtype=dtype, context=context, memory=MEMORY,
        top_logprobs=TOP if measured else 0, stored=True, measured=measured, revision=how.revision,
        trust_remote_code=how.trust_remote_code,
    )  # fmt: skip

    draw = functools.partial(engine.decode, None)

    def drawing_from(drawing: Drawing) -> Answerer:
        return Answerer(
            name=folder, engine="vllm", engine_version=_version(), dtype=dtype,
            answer=answering(
                draw, tokenizer, sampling_of(tokenizer, generation, drawing, how), how,
                room=context - drawing.max_tokens, part=PARTS * how.slots,
                kind=engine.entropy_kind if measured else None,
            ),
            parallelism=f"1 {device.type}, {how.slots} slots", template=template_of(tokenizer, how),
        )  # fmt: skip

    return drawing_from


def _measurable(samplings: Sequence[Any]) -> bool:
    """Return whether vLLM reports log-probs of the distribution that is drawn from before cuts, for all of these."""
    from forkpoint.decode.vllm import logprobs_mode

    try:
        logprobs_mode(samplings)
    except InputError:
        return False
    return True


def _configs(folder: str, how: LocalSettings) -> tuple[Any, Any]:
    """Return a model's configuration, and that of its generation where it has one."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(folder, revision=how.revision, trust_remote_code=how.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder} holds no model that can be loaded ({reason}): give a folder or hub name") from error
    try:
        return config, GenerationConfig.from_pretrained(folder, revision=how.revision)
    except OSError:
        return config, None


def _version() -> str | None:
    try:
        return f"vllm {importlib.metadata.version('vllm')}"
    except importlib.metadata.PackageNotFoundError:
        return None
