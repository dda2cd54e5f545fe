"""vLLM in place of the embedded decoder: the same contract, the same process, the same device.

Written against the source of vLLM 0.33.0 and run against a stand-in with the same interface, never against vLLM
itself and not on a GPU.

vLLM returns the log-prob of the sampled token and of the k most likely ones, not of the whole vocabulary. The
entropies recorded here are therefore lower bounds, and are marked as such until the training model rescores them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forkpoint.decode.decoder import Answer, NotFiniteError, Sampling
from forkpoint.decode.rollout import Engine
from forkpoint.decode.weights import policy_weights
from forkpoint.entropy.bound import entropy_lower_bound
from forkpoint.errors import InputError, TrainingError
from forkpoint.model import plain

_EMBEDDED = "or set decode.engine = 'embedded'"


def open_vllm(
    path: str | Path,
    *,
    samplings: Sequence[Sampling],
    device: torch.device,
    dtype: str,
    context: int,
    memory: float = 0.4,
    top_logprobs: int = 20,
    revision: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 0,
    stored: bool = False,
    measured: bool = True,
) -> Engine:
    """Return an engine that samples with vLLM, in this process and on this device.

    Its `refresh` sends the policy's weights to vLLM in place, which also forgets cached prefixes; nothing can be
    decoded before the first time, unless the weights at `path` are meant.

    Args:
        path: model directory or hub name.
        samplings: every way of sampling the engine will be asked for: they decide which log-probs vLLM returns.
        device: of the policy.
        dtype: of weights and products: `float32` or `bfloat16`.
        context: most tokens of prompt and answer together.
        memory: share of the device's memory that vLLM takes, weights and cache together.
        top_logprobs: k >= 0, how many of the most likely tokens tighten the lower bound of the entropy.
        revision: hub revision.
        trust_remote_code: run code that comes with the model.
        seed: of vLLM's own generator; answers draw from their streams.
        stored: decode with the weights at `path`; nothing has to be sent.
        measured: False lets samplings be any that vLLM has. Log-probs and entropies of the answers are then those of
            the logits before temperature and cuts.

    Returns:
        `Engine` whose entropies are lower bounds.

    Raises:
        InputError: vLLM is not installed, runs on another device, cannot hold the model, or cannot report the
            log-probs of these samplings.

    Source: vLLM 0.33.0, `LLM`, `SamplingParams` and the worker's `reload_weights`.
    """
    mode = logprobs_mode(samplings if measured else [dataclasses.replace(s, top_p=1.0, top_k=0) for s in samplings])
    mode = mode if measured else ""
    llm_class, parameters, platform = _vllm()
    if platform != device.type:
        raise InputError(
            f"the policy is on {device.type} and this vLLM runs on {platform or 'no device of this machine'}: "
            f"set model.device = 'cuda' on a machine with a GPU, {_EMBEDDED}"
        )
    try:
        llm = llm_class(
            model=str(path),
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            seed=seed,
            gpu_memory_utilization=memory,
            max_model_len=context,
            max_num_seqs=max(sampling.slots for sampling in samplings),
            max_logprobs=max(top_logprobs, 1),
            logprobs_mode=mode or "raw_logprobs",
            # The model's own sampling defaults must not reach the draws.
            generation_config="vllm",
        )
    except (ValueError, RuntimeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"vLLM cannot hold {str(path)!r}: {reason}; change decode.vllm_memory, {_EMBEDDED}") from error
    sent = stored

    def refresh(model: Any) -> None:
        nonlocal sent
        with torch.autocast(device.type, enabled=False):
            _send(llm, model)
        sent = True

    def decode(
        model: Any,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[int],
        sampling: Sampling,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Answer]:
        if not sent:
            raise InputError("vLLM has not been given the policy's weights: call the engine's refresh(model) first")
        _check(prompts, streams, sampling, mode, context)
        params = [_parameters(parameters, sampling, stream, top_logprobs) for stream in streams]
        # The trainer decodes inside an autocast context, which is not for vLLM's kernels.
        with torch.autocast(device.type, enabled=False):
            outputs = llm.generate(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts],
                params,
                use_tqdm=_bar(progress) if progress is not None else False,
            )
        if len(outputs) != len(prompts):
            raise TrainingError(f"vLLM answered {len(outputs)} of {len(prompts)} requests: see its log for the reason")
        return [_answer(index, output.outputs[0], top_logprobs) for index, output in enumerate(outputs)]

    return Engine(decode=decode, entropy_kind="lower-bound", refresh=refresh)


def logprobs_mode(samplings: Sequence[Sampling]) -> str:
    """Return vLLM's `logprobs_mode` that yields log softmax(logits / temperature) over the full vocabulary.

        raw_logprobs        log softmax(logits), before temperature and cuts: right at temperature 1 (and 0, which
                            is measured at 1), with any cut
        processed_logprobs  after temperature, top-k and top-p: right without cuts, at any temperature

    Raises:
        InputError: no mode fits all samplings, or vLLM cannot sample like one of them.

    Source: vLLM 0.33.0, `vllm.config.model.ModelConfig.logprobs_mode` and `vllm.v1.sample.sampler.Sampler`.

    >>> logprobs_mode([Sampling(max_tokens=1, stop_ids=(), temperature=0.6)])
    'processed_logprobs'
    """
    for sampling in samplings:
        if sampling.stop_text is not None:
            raise InputError(
                f"decode.stop ends answers at a text and vLLM here ends them at tokens: empty it, {_EMBEDDED}"
            )
        if sampling.two is not None:
            raise InputError(f"two temperatures need every token's entropy before it is drawn: {_EMBEDDED}")
        if not (sampling.temperature == 0 or 0.01 <= sampling.temperature <= 2):
            raise InputError(
                f"temperature is {sampling.temperature} and vLLM takes 0, or 0.01 to 2: change it, {_EMBEDDED}"
            )
    if all(sampling.temperature in (0, 1) for sampling in samplings):
        return "raw_logprobs"
    if not any(_cuts(sampling) for sampling in samplings):
        return "processed_logprobs"
    raise InputError(
        "vLLM reports the log-probs of softmax(logits / temperature) only where every temperature (of [decode] and "
        f"[eval]) is 1 or 0, or none is cut by top_p or top_k: change one of them, {_EMBEDDED}"
    )


def _cuts(sampling: Sampling) -> bool:
    return sampling.temperature != 0 and (sampling.top_p < 1 or sampling.top_k > 0)


def _send(llm: Any, model: Any) -> None:
    """Put the policy's weights in the place of vLLM's and forget what was computed with the old ones."""
    try:
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": policy_weights(model)})
    except (KeyError, ValueError, RuntimeError) as error:
        raise TrainingError(
            f"vLLM did not take the weights of {type(plain(model)).__name__}: {error}; set decode.engine = 'embedded'"
        ) from error
    if not llm.reset_prefix_cache():
        raise TrainingError("vLLM still holds prompts read with the old weights: its prefix cache could not be reset")


def _vllm() -> tuple[Any, Any, str]:
    """Return vLLM's `LLM` and `SamplingParams` and the device type it runs on."""
    # Weights are handed over as tensors, which needs the engine in this process; it reads this on import.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # Training reports to nobody unless its user says so.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        vllm: Any = importlib.import_module("vllm")
        platforms: Any = importlib.import_module("vllm.platforms")
    except ImportError as error:
        raise InputError(
            f"decode.engine = 'vllm' needs vLLM, which cannot be imported here ({error}): "
            f"pip install 'forkpoint[vllm]' on a machine with CUDA, {_EMBEDDED}"
        ) from error
    return vllm.LLM, vllm.SamplingParams, str(platforms.current_platform.device_type)


def _check(
    prompts: Sequence[Sequence[int]], streams: Sequence[int], sampling: Sampling, mode: str, context: int
) -> None:
    if len(prompts) != len(streams):
        raise InputError(f"{len(prompts)} prompts but {len(streams)} random streams")
    for index, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise InputError(f"prompt {index} is empty: a prompt needs at least one token")
        if len(prompt) + sampling.max_tokens > context:
            raise InputError(
                f"prompt {index} has {len(prompt)} tokens, which with {sampling.max_tokens} of an answer is more than "
                f"the {context} vLLM was opened for: lower prompt.max_tokens or decode.max_tokens"
            )
    if not mode:
        return
    logprobs_mode([sampling])
    if not (sampling.temperature in (0, 1) if mode == "raw_logprobs" else not _cuts(sampling)):
        raise InputError(f"vLLM was opened with {mode}, wrong for this sampling: name the sampling when opening vLLM")


def _parameters(make: Any, sampling: Sampling, stream: int, top_logprobs: int) -> Any:
    return make(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=stream,
        max_tokens=sampling.max_tokens,
        stop_token_ids=list(sampling.stop_ids),
        # The stop ids are all there is: the model's own end tokens are among them where they should be.
        ignore_eos=True,
        logprobs=top_logprobs,
        flat_logprobs=True,
        detokenize=False,
    )


def _answer(index: int, completion: Any, top: int) -> Answer:
    ids = [int(token) for token in completion.token_ids]
    if completion.finish_reason not in ("stop", "length") or len(completion.logprobs) != len(ids) or not ids:
        raise TrainingError(
            f"vLLM ended request {index} with {completion.finish_reason!r} after {len(ids)} tokens: see its log"
        )
    logp = [float(known[token].logprob) for token, known in zip(ids, completion.logprobs, strict=True)]
    entropy = _bounds(ids, completion.logprobs, top)
    for place, values in enumerate(zip(logp, entropy, strict=True)):
        if not all(map(math.isfinite, values)):
            raise NotFiniteError(request=index, token=place)
    return Answer(ids=ids, logp=logp, entropy=entropy, finish=completion.finish_reason)


def _bounds(ids: Sequence[int], logprobs: Sequence[Any], top: int) -> list[float]:
    """Return a lower bound of every position's entropy: vLLM gives the `top` likeliest and the sampled token."""
    entries = [(token == drawn, entry.logprob) for drawn, known in zip(ids, logprobs, strict=True)
               for token, entry in known.items()]  # fmt: skip
    drawn_M, logp_M = np.array([drawn for drawn, _ in entries], bool), np.array([logp for _, logp in entries])
    count_N = np.array([len(known) for known in logprobs])
    # A drawn token beyond the likeliest ones says nothing of how likely the unknown ones can be.
    likely_M = ~drawn_M | np.repeat(count_N <= top, count_N)
    offsets_N = np.concatenate([[0], np.cumsum(count_N)])
    return entropy_lower_bound(logp_M, offsets_N, likely_M).tolist()


def _bar(progress: Callable[[int, int], None]) -> Callable[..., Any]:
    """Return what vLLM takes for a progress bar: one that draws nothing and reports finished answers."""
    tqdm: Any = importlib.import_module("tqdm").tqdm

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            progress(int(self.n), int(self.total))
            return shown

    return functools.partial(Bar, file=io.StringIO())
