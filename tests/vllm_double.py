"""A stand-in for vLLM 0.33.0 with the interface that forkpoint uses, over a transformers model.

Names, defaults and refusals follow vLLM's own source: `vllm.LLM`, `SamplingParams`, `RequestOutput`,
`CompletionOutput`, `FlatLogprobs`, `Logprob`, the sampler's `logprobs_mode` and the worker's `reload_weights`. Like
the real engine it keeps what it has read of a prefix until it is told to forget it.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import types
from typing import Any

import torch

ENGINE_ARGS = {"max_model_len", "max_num_seqs", "max_logprobs", "logprobs_mode", "generation_config"}


@dataclasses.dataclass(kw_only=True)
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    flat_logprobs: bool = False
    detokenize: bool = True

    def __post_init__(self):
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.seed == -1:
            self.seed = None
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")
        if self.temperature < 1e-5:
            self.top_p, self.top_k = 1.0, 0


@dataclasses.dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class FlatLogprobs:
    """Only what a reader of the real one sees: its length, and a dict a position."""

    def __init__(self):
        self._positions: list[dict[int, Logprob]] = []

    def append(self, position):
        self._positions.append(position)

    def __len__(self):
        return len(self._positions)

    def __iter__(self):
        return iter(self._positions)

    def __getitem__(self, index):
        return self._positions[index]


@dataclasses.dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: Any
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclasses.dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


class LLM:
    latest: LLM
    finish: str | None = None
    """Set by a test: how every request ends."""

    def __init__(
        self, model: str, *, tokenizer=None, trust_remote_code=False, dtype="auto", revision=None, seed=0,
        gpu_memory_utilization=0.92, **kwargs,
    ):  # fmt: skip
        unknown = set(kwargs) - ENGINE_ARGS
        if unknown:
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        if gpu_memory_utilization > 0.95:
            raise ValueError(
                "Free memory on device is less than desired GPU memory utilization.\nDecrease GPU memory utilization"
            )
        from transformers import AutoModelForCausalLM

        self.arguments = {"gpu_memory_utilization": gpu_memory_utilization, "seed": seed, "dtype": dtype, **kwargs}
        self.in_process = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") == "0"
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.eos = self.model.config.eos_token_id
        self.prefixes: dict[tuple[int, ...], torch.Tensor] = {}
        self.autocast: list[bool] = []
        self.busy = False
        LLM.latest = self

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None, priority=None):
        assert len(prompts) == len(sampling_params)
        bar = use_tqdm(total=len(prompts), desc="Processed prompts", dynamic_ncols=True) if callable(use_tqdm) else None
        outputs = []
        for number, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True)):
            ids = prompt["prompt_token_ids"]
            if len(ids) > self.arguments["max_model_len"]:
                raise ValueError(f"The decoder prompt (length {len(ids)}) is longer than the maximum model length")
            if (params.logprobs or 0) > self.arguments["max_logprobs"]:
                raise ValueError(f"Requested sample logprobs of {params.logprobs}, which is greater than max allowed")
            outputs.append(RequestOutput(str(number), None, ids, [self._complete(list(ids), params)]))
            if bar is not None:
                assert bar.format_dict["elapsed"] >= 0
                bar.update(1)
        if bar is not None:
            assert bar.n == len(prompts)
            bar.refresh()
            bar.close()
        return outputs

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        if not self.in_process:
            raise TypeError("cannot pickle 'generator' object")
        return [{"reload_weights": self._reload_weights}[method](*args, **(kwargs or {}))]

    def reset_prefix_cache(self, reset_running_requests=False, reset_connector=False):
        if self.busy:
            return False
        self.prefixes.clear()
        return True

    @torch.no_grad()
    def _reload_weights(self, weights_iterator=None, weights_path=None, is_checkpoint_format=True):
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        own = dict(self.model.named_parameters())
        for name, weight in weights_iterator:
            if name not in own:
                raise ValueError(f"There is no module or parameter named {name!r} in {type(self.model).__name__}.")
            assert not weight.requires_grad
            own[name].copy_(weight)

    @torch.no_grad()
    def _complete(self, ids, params):
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        generator = torch.Generator().manual_seed(params.seed) if params.seed is not None else None
        known = FlatLogprobs() if params.flat_logprobs else []
        ends = {*(params.stop_token_ids or ()), *([] if params.ignore_eos else [self.eos])}
        answer: list[int] = []
        finish = None
        while finish is None:
            token, position = self._sample(self._logits(ids + answer), params, generator)
            answer.append(token)
            known.append(position)
            if token in ends:
                finish = "stop"
            elif len(answer) >= params.max_tokens or len(ids) + len(answer) >= self.arguments["max_model_len"]:
                finish = "length"
        return CompletionOutput(0, "", answer, 0.0, known, self.finish or finish, token if finish == "stop" else None)

    def _logits(self, ids):
        if tuple(ids) not in self.prefixes:
            self.prefixes[tuple(ids)] = self.model(input_ids=torch.tensor([ids])).logits[0, -1].float()
        return self.prefixes[tuple(ids)].clone()

    def _sample(self, logits, params, generator):
        raw = logits.log_softmax(-1)
        greedy = params.temperature < 1e-5
        if not greedy:
            logits = logits / params.temperature
            if params.top_k > 0:
                logits[logits < logits.topk(params.top_k).values[-1]] = -torch.inf
            if params.top_p < 1:
                ordered, index = logits.softmax(-1).sort()
                drop = ordered.cumsum(-1) <= 1 - params.top_p
                drop[-1] = False
                logits[index[drop]] = -torch.inf
        processed = logits.log_softmax(-1)
        noise = torch.empty_like(processed).exponential_(generator=generator)
        token = int(processed.argmax() if greedy else (processed.exp() / noise).argmax())
        table = raw if self.arguments["logprobs_mode"] == "raw_logprobs" else processed
        best = table.topk(params.logprobs).indices.tolist()
        rank = int((table > table[token]).sum()) + 1
        entries = {token: Logprob(float(table[token]), rank)}
        entries |= {other: Logprob(float(table[other]), place + 1) for place, other in enumerate(best)}
        return token, entries


def install(monkeypatch, *, device_type: str = "cpu") -> None:
    """Make `import vllm` find this module for the length of a test."""
    vllm, platforms = types.ModuleType("vllm"), types.ModuleType("vllm.platforms")
    vllm.LLM, vllm.SamplingParams = LLM, SamplingParams
    platforms.current_platform = types.SimpleNamespace(device_type=device_type)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    # What `open_vllm` sets is taken back with the test.
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "1")
        monkeypatch.delenv(name)
