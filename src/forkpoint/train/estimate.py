"""How large a run will be, worked out from recipe and model configuration: an estimate, not a measurement.

Notation: P parameters, R trainable parameters, L layers, H hidden size, V vocabulary, N padded tokens of a
micro-batch, b bytes of an element of `model.dtype`.

    weights      4 P where they learn, with b P more for the copies that bfloat16 products read;
                 b P + 4 R under adapters; b P for a reference model
    optimiser    12 R                            gradient and AdamW's two moments, all float32
    kv cache     2 L · kv heads · head size · (prompt + answer tokens) · rows decoded at once · b
    activations  N (2 H + L S) b with S = 7 H + 4 q + 4 kv + 4 I, kept for the backward pass;
                 N (2 H + L H + S) b with gradient checkpointing
    logits       12 V · rows decoded at once, or 12 · cells of a tile of the training head if that is more (12 N V
                 with the plain head): three float32 values for every logit held
    total        weights + optimiser + max(kv cache, activations) + logits

with q and kv the widths of queries and of keys, and I the width of the feed-forward layer. Left out: the
allocator's slack, the framework itself (about 0.4 GB on a CPU, 1 GB on a GPU), and attention scores, which
the `eager` attention does keep.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkpoint.entropy.head import LIMITS
from forkpoint.errors import InputError
from forkpoint.train.recipe import credit_chain
from forkpoint.train.schema import LoraTable, Recipe


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Counts that follow from the recipe alone, and bytes where the model's configuration is known."""

    rows_per_step: int
    """Answers in a rollout batch, before resampling."""
    max_tokens_per_step: int
    """Response tokens if every answer were as long as allowed; resampling can multiply it by `max_rounds`."""
    updates_per_step: int
    """Optimiser updates a rollout batch."""
    parameters: int | None = None
    """Of the model, each shared matrix once."""
    trainable: int | None = None
    """Parameters that learn: all, or the adapters'."""
    weight_bytes: int | None = None
    optimizer_bytes: int | None = None
    kv_cache_bytes: int | None = None
    activation_bytes: int | None = None
    logits_bytes: int | None = None
    total_bytes: int | None = None
    """At the peak: decoding and updating take turns."""

    def rows(self) -> list[tuple[str, str]]:
        """Return (label, value) pairs for people, without what is unknown."""
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            label = field.name.removesuffix("_bytes").replace("_", " ")
            shown.append((label, human_bytes(value) if field.name.endswith("_bytes") else f"{value:,}"))
        return shown


def estimate(recipe: Recipe, model_config: Any | None = None) -> Estimate:
    """Return the size of one training step.

    Args:
        recipe: what to train.
        model_config: a transformers configuration; None leaves only what follows from the recipe.

    Returns:
        The estimate; see the module for every formula.
    """
    train, decode = recipe.train, recipe.decode
    counts = Estimate(
        rows_per_step=train.prompts * train.group,
        max_tokens_per_step=train.prompts * train.group * decode.max_tokens,
        updates_per_step=train.prompts // train.mini_prompts * train.epochs,
    )
    if model_config is None:
        return counts
    b = product_bytes(recipe)
    parameters, linears = count_parameters(model_config)
    adapters = lora_parameters(recipe.model.lora, linears)
    trainable = parameters if recipe.model.lora is None else adapters
    shape = _Shape.of(model_config)
    slots = min(decode.slots, counts.rows_per_step)
    tokens = max(train.micro_tokens, recipe.prompt.max_tokens + decode.max_tokens)
    copies = b * parameters if b < 4 else 0
    weights = 4 * parameters + copies if recipe.model.lora is None else b * parameters + 4 * adapters
    weights += b * parameters if _needs_reference(recipe) else 0
    optimizer = 12 * trainable
    kv = 2 * shape.layers * shape.kv * (recipe.prompt.max_tokens + decode.max_tokens) * slots * b
    activations = shape.activations(tokens, checkpointing=recipe.model.gradient_checkpointing) * b
    cells = tokens * shape.vocabulary
    if recipe.model.head == "fused":
        cells = min(cells, LIMITS["cpu" if b == 4 else "cuda"].cells)
    logits = 12 * max(slots * shape.vocabulary, cells)
    return dataclasses.replace(
        counts,
        parameters=parameters,
        trainable=trainable,
        weight_bytes=weights,
        optimizer_bytes=optimizer,
        kv_cache_bytes=kv,
        activation_bytes=activations,
        logits_bytes=logits,
        total_bytes=weights + optimizer + max(kv, activations) + logits,
    )


def read_model_config(recipe: Recipe) -> Any:
    """Return the transformers configuration of the recipe's model, from a directory, the cache or the hub.

    Raises:
        InputError: there is none at that path, or the hub cannot be reached; one sentence says which.
    """
    from transformers import AutoConfig

    model = recipe.model
    known = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    cannot = f"the configuration of model {model.path!r} cannot be read"
    try:
        return AutoConfig.from_pretrained(model.path, local_files_only=True, **known)
    except (OSError, ValueError, KeyError) as error:
        if Path(model.path).exists():
            raise InputError(f"{cannot}: {_first_sentence(error)}") from None
    if not _hub_answers():
        raise InputError(f"{cannot}: it is no directory, not in the cache, and the hub does not answer")
    try:
        return AutoConfig.from_pretrained(model.path, **known)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{cannot}: {_first_sentence(error)}") from None


def _hub_answers(timeout: float = 3.0) -> bool:
    """Return whether a connection opens at once; the hub's client would retry for half a minute."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    place = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((place.hostname or "", place.port or 443), timeout).close()
    except OSError:
        return False
    return True


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")


def product_bytes(recipe: Recipe) -> int:
    """Return the bytes of an element of products: 2 for bfloat16, which `auto` takes on cuda, else 4."""
    model = recipe.model
    if model.dtype != "auto":
        return {"float32": 4, "bfloat16": 2}[model.dtype]
    import torch

    on_cuda = model.device == "cuda" or (model.device == "auto" and torch.cuda.is_available())
    return 2 if on_cuda else 4


def count_parameters(model_config: Any) -> tuple[int, dict[str, tuple[int, int]]]:
    """Return the number of parameters and the (inputs, outputs) of every linear layer but the lm-head.

    The model is built without storage; a matrix shared by embedding and lm-head counts once.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    head = model.get_output_embeddings()
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    return sum(p.numel() for p in model.parameters()), linears


def lora_parameters(lora: LoraTable | None, linears: dict[str, tuple[int, int]]) -> int:
    """Return the parameters of the adapters: rank (inputs + outputs) for every adapted layer."""
    if lora is None:
        return 0
    chosen = [
        shape for name, shape in linears.items() if lora.targets == "all-linear" or name.split(".")[-1] in lora.targets
    ]
    if not chosen:
        have = ", ".join(sorted({name.split(".")[-1] for name in linears}))
        raise InputError(f"model.lora.targets names no layer of this model; it has {have}")
    return lora.rank * sum(inputs + outputs for inputs, outputs in chosen)


def human_bytes(count: float) -> str:
    """Return a number of bytes for people.

    >>> human_bytes(3_500_000), human_bytes(0)
    ('3.5 MB', '0 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


@dataclass(frozen=True, kw_only=True)
class _Shape:
    layers: int
    hidden: int
    q: int
    kv: int
    feed_forward: int
    vocabulary: int

    @staticmethod
    def of(config: Any) -> _Shape:
        config = config.get_text_config()
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return _Shape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            q=heads * size,
            kv=(getattr(config, "num_key_value_heads", None) or heads) * size,
            feed_forward=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            vocabulary=config.vocab_size,
        )

    def activations(self, tokens: int, *, checkpointing: bool) -> int:
        """Return the elements kept for the backward pass of one micro-batch."""
        layer = 7 * self.hidden + 4 * self.q + 4 * self.kv + 4 * self.feed_forward
        between = self.layers * self.hidden if checkpointing else (self.layers - 1) * layer
        return tokens * (2 * self.hidden + between + layer)


def _needs_reference(recipe: Recipe) -> bool:
    """Return whether a second copy of the weights is held; adapters are switched off instead."""
    own = recipe.reference.path is None and recipe.model.lora is not None
    return "ref_logp" in credit_chain(recipe).needs and not own
