"""The size of a run: formulas against hand counts, and against what torch really keeps."""

from __future__ import annotations

import pytest
import torch

from forkpoint.entropy.head import LIMITS
from forkpoint.errors import InputError
from forkpoint.train.estimate import _Shape, count_parameters, estimate, human_bytes, read_model_config
from forkpoint.train.schema import Recipe


def qwen(
    hidden: int = 128,
    layers: int = 4,
    feed_forward: int = 384,
    vocabulary: int = 64,
    head: int = 32,
    heads: int = 4,
):
    from transformers import Qwen3Config

    return Qwen3Config(
        hidden_size=hidden, intermediate_size=feed_forward, num_hidden_layers=layers, head_dim=head,
        num_attention_heads=heads, num_key_value_heads=heads // 2, vocab_size=vocabulary,
        tie_word_embeddings=True,
    )  # fmt: skip


def recipe(**tables) -> Recipe:
    table = {
        "name": "x",
        "model": {"path": "a/b", "device": "cpu"},
        "prompt": {"max_tokens": 16},
        "decode": {"max_tokens": 48, "slots": 10},
        "train": {"steps": 1, "prompts": 8, "group": 4, "mini_prompts": 2, "epochs": 3, "micro_tokens": 512},
    }
    for name, given in tables.items():
        table[name] = {**table.get(name, {}), **given}
    return Recipe.model_validate(table)


def test_counts_need_no_model():
    found = estimate(recipe())
    assert (found.rows_per_step, found.max_tokens_per_step, found.updates_per_step) == (32, 32 * 48, 12)
    assert found.total_bytes is None
    assert [label for label, _ in found.rows()] == [
        "rows per step",
        "max tokens per step",
        "updates per step",
    ]


def test_parameters_of_known_models():
    # Published sizes: Qwen3-0.6B has 596,049,920 parameters and 1.7B has 1,720,574,976, embeddings tied.
    small = qwen(1024, 28, 3072, 151936, 128, 16)
    assert count_parameters(small)[0] == 596_049_920
    assert count_parameters(qwen(2048, 28, 6144, 151936, 128, 16))[0] == 1_720_574_976


def test_bytes_by_hand():
    found = estimate(recipe(), qwen())
    assert found.parameters == 796_032
    assert found.weight_bytes == 4 * 796_032
    assert found.optimizer_bytes == 12 * 796_032
    # 2 (key, value) x 4 layers x 64 wide x 64 tokens x 10 rows x 4 bytes
    assert found.kv_cache_bytes == 2 * 4 * 64 * 64 * 10 * 4
    # 512 tokens x (2 x 128 + 4 layers x (7 x 128 + 4 x 128 + 4 x 64 + 4 x 384)) elements x 4 bytes
    assert found.activation_bytes == 512 * (256 + 4 * 3200) * 4
    assert found.logits_bytes == 12 * 512 * 64
    assert found.total_bytes == 16 * 796_032 + found.activation_bytes + found.logits_bytes


def test_what_changes_the_bytes():
    plain, config = estimate(recipe(), qwen()), qwen()
    half = estimate(recipe(model={"dtype": "bfloat16"}), config)
    assert half.weight_bytes == (4 + 2) * 796_032  # what learns stays float32; products read a bfloat16 copy
    assert half.optimizer_bytes == plain.optimizer_bytes
    assert half.kv_cache_bytes * 2 == plain.kv_cache_bytes
    checkpointed = estimate(recipe(model={"gradient_checkpointing": True}), config)
    assert checkpointed.activation_bytes == 512 * (256 + 4 * 128 + 3200) * 4
    wide = estimate(recipe(decode={"slots": 1000}), config)
    assert wide.kv_cache_bytes == plain.kv_cache_bytes / 10 * 32  # no more rows than a step has
    kl = estimate(recipe(credit={"method": "grpo", "kl_coefficient": 0.1}), config)
    assert kl.weight_bytes == 2 * plain.weight_bytes
    huge = estimate(recipe(train={"micro_tokens": 1 << 22}), config)
    assert huge.logits_bytes == 12 * LIMITS["cpu"].cells


def test_dtype_auto_is_bfloat16_on_cuda_alone():
    assert estimate(recipe(model={"device": "cpu"}), qwen()).kv_cache_bytes == 2 * 4 * 64 * 64 * 10 * 4
    assert estimate(recipe(model={"device": "cuda"}), qwen()).kv_cache_bytes == 2 * 4 * 64 * 64 * 10 * 2


def test_adapters_by_hand():
    # Every layer: q 128x128, k and v 128x64, o 128x128, gate, up and down 128x384.
    each = 2 * 256 + 2 * 192 + 3 * 512
    found = estimate(recipe(model={"lora": {"rank": 8}}), qwen())
    assert found.trainable == 8 * each * 4
    assert found.weight_bytes == 4 * 796_032 + 4 * found.trainable
    assert found.optimizer_bytes == 12 * found.trainable
    frozen = estimate(recipe(model={"lora": {"rank": 8}, "dtype": "bfloat16"}), qwen())
    assert frozen.weight_bytes == 2 * 796_032 + 4 * found.trainable
    some = estimate(recipe(model={"lora": {"rank": 8, "targets": ["q_proj"]}}), qwen())
    assert some.trainable == 8 * 256 * 4
    with pytest.raises(InputError, match=r"no layer.*q_proj"):
        estimate(recipe(model={"lora": {"targets": ["query"]}}), qwen())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("config", [qwen(), qwen(256, 3, 768, 64, 64, 8)], ids=["small", "wide"])
def test_activations_are_near_what_torch_keeps(config, checkpointing):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.model(input_ids=torch.randint(0, 64, (8, 64)), use_cache=False)
    shape = _Shape.of(config)
    said = 4 * shape.activations(512, checkpointing=checkpointing)
    if checkpointing:  # one layer's share is only there while that layer is recomputed
        whole = shape.activations(512, checkpointing=False)
        said -= 4 * (whole - 512 * 2 * config.hidden_size) // shape.layers
    assert output.last_hidden_state.requires_grad
    assert 0.9 < sum(kept.values()) / said < 1.1


def test_a_model_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_model_config(recipe(model={"path": str(tmp_path / "m")}))
    monkeypatch.setattr("forkpoint.train.estimate._hub_answers", lambda: False)
    with pytest.raises(InputError, match="the hub does not answer"):
        read_model_config(recipe(model={"path": "no-such-owner/no-such-model"}))


@pytest.mark.parametrize(("count", "text"), [(999, "999 B"), (1000, "1 kB"), (80e9, "80 GB"), (2.5e12, "2.5 TB")])
def test_human_bytes(count, text):
    assert human_bytes(count) == text
