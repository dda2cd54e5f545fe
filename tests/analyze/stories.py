"""The trained Llama of a quarter million parameters in shared data, as a Hugging Face directory."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "weights"


def golden() -> dict:
    """Return the recorded ids, log-probs and entropies, or skip where the data are absent."""
    if not (WEIGHTS / "stories260K.bin").is_file():
        pytest.skip(f"{WEIGHTS} is absent")
    return json.loads((WEIGHTS / "stories260K_golden.json").read_text())


def save_stories(folder: Path) -> Path:
    """Convert llama2.c's legacy float32 format, which rotates neighbouring pairs, to Hugging Face's halves."""
    from transformers import LlamaConfig, LlamaForCausalLM

    raw = (WEIGHTS / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, length = struct.unpack_from("<7i", raw)
    data, at = torch.from_numpy(np.frombuffer(raw, "<f4", offset=28).copy()), 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return data[at - size : at].reshape(shape)

    def halves(weight: torch.Tensor, count: int) -> torch.Tensor:
        return weight.reshape(count, -1, 2, dim).transpose(1, 2).reshape(-1, dim)

    size = dim // heads
    state = {"model.embed_tokens.weight": take(vocabulary, dim)}
    stacks = (
        ("input_layernorm", (dim,)), ("self_attn.q_proj", (heads * size, dim)),
        ("self_attn.k_proj", (kv_heads * size, dim)), ("self_attn.v_proj", (kv_heads * size, dim)),
        ("self_attn.o_proj", (dim, dim)), ("post_attention_layernorm", (dim,)), ("mlp.gate_proj", (hidden, dim)),
        ("mlp.down_proj", (dim, hidden)), ("mlp.up_proj", (hidden, dim)),
    )  # fmt: skip
    for name, shape in stacks:
        for layer, weight in enumerate(take(layers, *shape)):
            count = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.get(name)
            state[f"model.layers.{layer}.{name}.weight"] = halves(weight, count) if count else weight
    state["model.norm.weight"] = take(dim)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=length, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    model.save_pretrained(folder)
    _tokenizer(vocabulary).save_pretrained(folder)
    return folder


def _tokenizer(vocabulary: int):
    """Return the SentencePiece model as a BPE tokenizer: merges are the pieces that two others make, best first."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    raw, at = (WEIGHTS / "tok512.bin").read_bytes(), 4
    pieces: list[tuple[str, float]] = []
    for _ in range(vocabulary):
        score, size = struct.unpack_from("<fi", raw, at)
        pieces.append((raw[at + 8 : at + 8 + size].decode().replace(" ", "▁"), score))
        at += 8 + size
    pieces[:3] = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    vocab = {piece: token for token, (piece, _) in enumerate(pieces)}
    ranked = sorted(range(259, vocabulary), key=lambda token: -pieces[token][1])
    words = [pieces[token][0] for token in ranked]
    merges = [(w[:i], w[i:]) for w in words for i in range(1, len(w)) if w[:i] in vocab and w[i:] in vocab]
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
