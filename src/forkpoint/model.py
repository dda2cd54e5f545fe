"""Loading a causal language model, and the two halves of its forward pass: body and head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forkpoint.entropy.head import HeadOut, head_logp_entropy
from forkpoint.environment import cores
from forkpoint.errors import InputError

HeadKind = Literal["fused", "plain"]
"""`fused`: the entropy head, which never holds all logits; `plain`: the model's own logits, held whole."""

PLAIN = "set model.head = 'plain' (`forkpoint sft`: --head plain)"
"""What to do where the fused head cannot."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes cuda, then mps, then cpu.

    Raises:
        InputError: the device is not available on this machine.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind = name.split(":")[0]
    if not available.get(kind, False):
        there = ", ".join(k for k, is_there in available.items() if is_there)
        raise InputError(f"device {name!r} is not available here: use one of {there}, or model.device = 'auto'")
    return torch.device(name)


def use_threads(count: int) -> int:
    """Set PyTorch's threads; 0 means every core this process may use. Returns the number in force."""
    torch.set_num_threads(count if count > 0 else cores())
    return torch.get_num_threads()


def load_model(
    path: str | Path,
    *,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
    revision: str | None = None,
    trust_remote_code: bool = False,
    head: HeadKind = "fused",
) -> Any:
    """Return a Hugging Face causal language model, in evaluation mode, on the device.

    Args:
        path: a directory, or a hub name such as `Qwen/Qwen3-0.6B`.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for what the checkpoint holds.
        device: where it goes.
        attention: transformers' attention implementation.
        revision: hub revision.
        trust_remote_code: run code that comes with the model. Off unless you trust its author.
        head: `fused` refuses a model whose logits are more than a linear layer with soft-cap or scaling.

    Raises:
        InputError: the path does not exist, the hub has no such model or is out of reach, or the model cannot be
            used; the message names the path.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: valid names: auto, {', '.join(DTYPES)}")
    check_path(path)
    # One bar a second-long load would scroll the run's own lines away.
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=DTYPES.get(dtype, "auto"),
            attn_implementation=attention,
            revision=revision,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load a causal language model from {str(path)!r}: {_first_line(error)}") from error
    model = model.to(device).eval()
    if head == "fused":
        check_head(model)
    return model


def check_path(path: str | Path) -> None:
    """Raise `InputError` for what is clearly meant as a directory and is not one, before the hub is asked."""
    name = str(path)
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise InputError(f"{name!r} holds no config.json, so it is not a model directory: check model.path")
    elif Path(name).exists() or looks_local(name):
        raise InputError(
            f"no model directory at {name!r}: check model.path, or give a hub name such as 'Qwen/Qwen3-0.6B'"
        )


def looks_local(path: str | Path) -> bool:
    """Return whether a name that is no folder was meant as one: the hub would only be asked in vain.

    >>> looks_local("./model"), looks_local("runs/demo"), looks_local("owner/name"), looks_local("gpt2")
    (True, True, False, False)
    """
    name = str(path)
    # Nobody on the hub is called as the folders that runs and the shipped model are kept in.
    if name.startswith((".", "/", "~", "runs/", "models/")) or name.count("/") > 1:
        return True
    return "/" in name and Path(name).parent.is_dir()


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def plain(model: Any) -> Any:
    """Return the transformers model inside a peft wrapper, or the model itself. Adapters stay active."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_states(model: Any, **inputs: Any) -> Any:
    """Return the output of the model's body; its `last_hidden_state` is (B, L, H)."""
    return plain(model).base_model(**inputs)


@dataclass(frozen=True, kw_only=True)
class Head:
    """The lm-head as numbers: z = cap(scale * (W h + b))."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    """Cohere's `logit_scale`, 1 / Granite's `logits_scaling`."""
    softcap: float | None = None
    """c of c tanh(z / c) (Gemma)."""


def head_of(model: Any) -> Head:
    """Return the model's lm-head, for `forkpoint.entropy.head`.

    Raises:
        InputError: the head is not a plain linear layer (quantised, or with an adapter of its own).
    """
    causal = plain(model)
    config = causal.config.get_text_config()
    layer = causal.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise InputError(
            f"the lm-head of {type(causal).__name__} is a {type(layer).__name__} and not a plain linear layer: "
            f"{PLAIN} to compute its logits as the model does"
        )
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return Head(weight_VH=layer.weight, bias_V=layer.bias, scale=float(scale), softcap=float(cap) if cap else None)


def read(model: Any, head: HeadKind, **inputs: Any) -> Tensor:
    """Return what the head starts from, (B, L, …): hidden states, or the model's own logits for the plain head."""
    out = plain(model)(**inputs) if head == "plain" else hidden_states(model, **inputs)
    states: Tensor = out.logits if head == "plain" else out.last_hidden_state
    return states


def logits_of(model: Any, head: HeadKind, states_NX: Tensor) -> Tensor:
    """Return the logits (N, V) of what `read` returned."""
    return states_NX if head == "plain" else head_logits(model, states_NX)


def head_values(
    model: Any, hidden_NH: Tensor, ids_N: Tensor, *, temperature: float = 1.0, entropy_gradient: bool = False
) -> HeadOut:
    """Return log-prob of the ids, entropy and log-partition of hidden states, without holding (N, V) logits."""
    head = head_of(model)
    return head_logp_entropy(
        hidden_NH,
        head.weight_VH,
        ids_N,
        bias_V=head.bias_V,
        temperature=temperature,
        scale=head.scale,
        softcap=head.softcap,
        entropy_gradient=entropy_gradient,
    )


def head_logits(model: Any, hidden_NH: Tensor) -> Tensor:
    """Return the logits (N, V) of hidden states, with the family's soft-cap or scaling.

    z = W h + b,  then z * logit_scale (Cohere), z / logits_scaling (Granite), c tanh(z / c) (Gemma)
    """
    causal = plain(model)
    config = causal.config.get_text_config()
    logits_NV = causal.get_output_embeddings()(hidden_NH)
    if getattr(config, "logit_scale", None):
        logits_NV = logits_NV * config.logit_scale
    if getattr(config, "logits_scaling", None):
        logits_NV = logits_NV / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits_NV / cap) if cap else logits_NV


@torch.no_grad()
def check_head(model: Any) -> None:
    """Raise `InputError` unless body and head reproduce the model's own logits on a probe of four tokens."""
    causal = plain(model)
    device = causal.get_input_embeddings().weight.device
    probe = torch.arange(4, device=device)[None] % causal.config.get_text_config().vocab_size
    own = causal(input_ids=probe, use_cache=False).logits
    ours = head_logits(model, hidden_states(model, input_ids=probe, use_cache=False).last_hidden_state)
    if own.shape != ours.shape or not torch.allclose(own, ours, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise InputError(
            f"{type(causal).__name__} computes its logits in a way forkpoint does not know, more than a linear layer "
            f"with soft-cap or scaling: {PLAIN} to compute them as the model does"
        )


def add_lora(model: Any, *, rank: int, alpha: float, dropout: float, targets: str | list[str], seed: int) -> Any:
    """Return the model wrapped with trainable low-rank adapters; everything else is frozen.

    Source: arXiv 2106.09685.

    Raises:
        InputError: peft is not installed, or no module matches `targets`.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError("[model.lora] needs peft: pip install 'forkpoint[lora]'") from error
    torch.manual_seed(seed)
    settings = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    try:
        return peft.get_peft_model(model, settings)
    except ValueError as error:
        raise InputError(f"cannot add LoRA adapters: {_first_line(error)}") from error


def recompute_activations(model: Any) -> None:
    """Turn gradient checkpointing on: less memory, about a third more time in the update.

    Source: arXiv 1604.06174.
    """
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is not None:
        enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def precision(device: torch.device, dtype: str) -> Any:
    """Return the context in which the model runs: bfloat16 products over float32 weights, or plain float32.

    Weights that learn stay in float32, since bfloat16 cannot hold a step of 1e-6; under `bfloat16` the products
    run in bfloat16 (autocast). One context around a whole decode casts every weight once.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that learn, by name; tied weights appear once."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
