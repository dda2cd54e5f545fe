"""Loading models, and the split into body and head."""

import pytest
import torch

from forkpoint.errors import InputError
from forkpoint.model import (
    check_head,
    check_path,
    head_logits,
    hidden_states,
    load_model,
    pick_device,
    precision,
    trainable,
    use_threads,
)
from tiny import qwen3, save


def tiny(family: str, **changes):
    import transformers as hf

    shared = {
        "vocab_size": 23, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    config = getattr(hf, f"{family}Config")(**shared, **changes)
    return getattr(hf, f"{family}ForCausalLM")(config).eval()


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Llama", {}),
        ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 2.0}),
        ("Granite", {"logits_scaling": 3.0}),
        ("Cohere", {"logit_scale": 0.25}),
    ],
)
def test_body_and_head_give_the_models_own_logits(family, changes):
    model = tiny(family, **changes)
    check_head(model)
    ids = torch.tensor([[4, 5, 6, 7, 8]])
    with torch.no_grad():
        ours = head_logits(model, hidden_states(model, input_ids=ids).last_hidden_state)
        torch.testing.assert_close(ours, model(ids).logits)


def test_a_head_that_does_more_is_refused(monkeypatch):
    model = qwen3()
    real = type(model).forward

    def more(self, **inputs):
        out = real(self, **inputs)
        out.logits = out.logits * 2
        return out

    monkeypatch.setattr(type(model), "forward", more)
    with pytest.raises(InputError, match="Qwen3ForCausalLM computes its logits in a way"):
        check_head(model)


def test_a_model_comes_back_as_it_was_saved(tmp_path):
    saved = qwen3()
    model = load_model(save(tmp_path / "model"))
    assert not model.training
    own = dict(saved.named_parameters())
    assert all(torch.equal(value, own[name]) for name, value in model.named_parameters())
    assert [name for name, _ in trainable(model)] == list(own)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/nowhere/model", "no model directory at"),
        ("./nope", "no model directory at"),
        ("a/b/c", "no model directory"),
        ("runs/nope", "no model directory"),
    ],
)
def test_paths_that_are_no_model(name, sentence):
    with pytest.raises(InputError, match=sentence):
        check_path(name)


def test_a_folder_without_config_and_a_file(tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json"):
        check_path(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="no model directory at"):
        check_path(tmp_path / "file")


@pytest.mark.parametrize("name", ["owner/model", "gpt2"])
def test_hub_names_pass(name):
    check_path(name)


def test_damaged_weights_are_told_in_one_line(tmp_path):
    folder = save(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot load a causal language model from") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_unknown_dtype(tmp_path):
    with pytest.raises(InputError, match="unknown dtype 'int8'"):
        load_model(save(tmp_path / "model"), dtype="int8")


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"device 'cuda' is not available here: use one of .*cpu"):
            pick_device("cuda")


def test_threads():
    before = torch.get_num_threads()
    try:
        assert use_threads(1) == 1
        assert use_threads(0) >= 1
    finally:
        torch.set_num_threads(before)


def test_bfloat16_is_of_products_only():
    x = torch.ones(2, 2)
    with precision(torch.device("cpu"), "bfloat16"):
        assert (x @ x).dtype == torch.bfloat16
    with precision(torch.device("cpu"), "float32"):
        assert (x @ x).dtype == torch.float32
