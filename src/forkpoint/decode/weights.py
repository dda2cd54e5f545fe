"""The weights of a policy as an engine with a copy of its own takes them: checkpoint names, adapters merged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from forkpoint.errors import InputError
from forkpoint.model import plain


def policy_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight of a policy under its checkpoint name, LoRA adapters merged, tied weights once.

    Nothing is changed in the model: W + (alpha / rank) B A is computed aside, one layer at a time.

    Raises:
        InputError: an adapter sits on an embedding that is tied to the lm-head, which then cannot be one weight.
    """
    causal = plain(model)
    adapted = {name: module for name, module in causal.named_modules() if hasattr(module, "get_delta_weight")}
    if getattr(causal.config.get_text_config(), "tie_word_embeddings", False):
        ends = (causal.get_input_embeddings(), causal.get_output_embeddings())
        if any(module is end for module in adapted.values() for end in ends):
            raise InputError(
                "vLLM holds tied embeddings as one weight and [model.lora] adapts one of them: "
                "leave it out of model.lora.targets, or set decode.engine = 'embedded'"
            )
    for name, parameter in causal.named_parameters():
        layer, _, kind = name.rpartition(".base_layer.")
        if layer:
            yield f"{layer}.{kind}", _merged(adapted[layer], parameter) if kind == "weight" else parameter.detach()
        elif not any(name.startswith(f"{path}.") for path in adapted):
            yield name, parameter.detach()


@torch.no_grad()
def _merged(layer: Any, weight: Tensor) -> Tensor:
    if layer.disable_adapters or layer.merged:
        return weight.detach()
    merged = weight.detach().float()
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            merged = merged + layer.get_delta_weight(adapter).float()
    return merged
