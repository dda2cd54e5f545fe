"""Small models and tokenizers that tests build in memory: random weights, real architectures."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ("<pad>", "<end>", "<unk>", *"0123456789", "a", "b", "c", "d", ":", "+", "=", "yes", "no", ",")


def tokenizer(eos: bool = True):
    """Return a whitespace word tokenizer over `WORDS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"eos_token": "<end>"} if eos else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", **special)


def qwen3(seed: int = 0, spread: float = 0.2, **changes):
    """Return a random Qwen3 with peaked enough distributions that entropies differ between tokens."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": spread,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    return Qwen3ForCausalLM(Qwen3Config(**(settings | changes))).eval()


def strange_head(**changes):
    """Return a model whose logits are more than a linear layer, so that only the model itself can compute them."""
    from transformers import Qwen3ForCausalLM

    class Strange(Qwen3ForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits.sin() * 2
            return out

    model = qwen3(**changes)
    model.__class__ = Strange
    return model


def save(folder: Path, *, eos: bool = True, **changes) -> Path:
    """Write a model folder as Hugging Face does."""
    qwen3(**changes).save_pretrained(folder)
    tokenizer(eos).save_pretrained(folder)
    return folder
