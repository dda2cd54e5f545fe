"""Packing: the same states and gradients as one padded row an answer."""

import dataclasses

import pytest
import torch

from forkpoint.model import hidden_states
from forkpoint.products import rounded
from forkpoint.rollouts import Prompt, Rollouts
from forkpoint.train import packed as module
from forkpoint.train import policy
from forkpoint.train.packed import can_pack, pack, packed_states
from forkpoint.train.policy import forward_rows
from tiny import WORDS, qwen3

PROMPTS = [[3, 4], [5], [6, 7, 8, 9]]
ANSWERS = [(0, 5), (0, 1), (1, 9), (2, 3), (2, 4), (2, 2)]
"""Prompt and length of every answer; one has a single token, which is predicted and never read."""


def tensors():
    generator = torch.Generator().manual_seed(3)
    prompt_BS = torch.tensor([(PROMPTS[p] + [0] * 4)[:4] for p, _ in ANSWERS])
    return {
        "prompt_BS": prompt_BS,
        "prompt_length_B": torch.tensor([len(PROMPTS[p]) for p, _ in ANSWERS]),
        "prompt_B": torch.tensor([p + 4 for p, _ in ANSWERS]),
        "ids_BT": torch.randint(3, len(WORDS), (len(ANSWERS), 9), generator=generator),
        "length_B": torch.tensor([length for _, length in ANSWERS]),
    }


def alone(model, given, row):
    """Return the states that predict one answer, from a row of its own."""
    n, m = int(given["prompt_length_B"][row]), int(given["length_B"][row])
    ids = torch.cat([given["prompt_BS"][row, :n], given["ids_BT"][row, : m - 1]])
    return hidden_states(model, input_ids=ids[None], use_cache=False).last_hidden_state[0, n - 1 :]


def gemma2(**changes):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    settings = {
        "vocab_size": 23, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 3, "query_pre_attn_scalar": 3,
        "attn_logit_softcapping": None, "attn_implementation": "eager", "pad_token_id": 0,
    }  # fmt: skip
    return Gemma2ForCausalLM(Gemma2Config(**(settings | changes))).eval()


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=23, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, attention_bias=True,
        )
    ).eval()  # fmt: skip


MODELS = {
    "qwen3": qwen3,
    "llama": llama,
    "sliding": lambda: gemma2(),
    "window-of-two": lambda: qwen3(
        use_sliding_window=True, sliding_window=2, layer_types=["sliding_attention", "full_attention"]
    ),
}


@pytest.mark.parametrize("block_tokens", [0, 10**6])
@pytest.mark.parametrize("name", MODELS)
def test_states_and_gradients_are_those_of_rows_of_their_own(name, block_tokens, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_TOKENS", block_tokens)
    monkeypatch.setattr(module, "rounded", (lambda rows: rows) if block_tokens else rounded)
    model, given = MODELS[name]().double(), tensors()
    assert can_pack(model)
    packing = pack(**given)
    assert len(packing.blocks) == (2 if block_tokens else 6)
    weight = torch.randn(9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for run in ("packed", "alone"):
        model.zero_grad()
        states_MH = packed_states(model, packing) if run == "packed" else None
        parts = []
        for row, length in enumerate(given["length_B"].tolist()):
            parts.append(states_MH[packing.state_BT[row, :length]] if run == "packed" else alone(model, given, row))
            (parts[-1] * weight[:length]).sum().backward(retain_graph=True)
        results.append((torch.cat(parts).detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_every_prompt_is_read_once_and_nothing_is_padded_beyond_the_step():
    given = tensors()
    packing = pack(**given)
    real = sum(len(prompt) for prompt in PROMPTS) + sum(length - 1 for _, length in ANSWERS)
    assert packing.ids_M.numel() == rounded(real + 1) == 64
    assert int((packing.ids_M != 0).sum()) == real
    long = pack(**{**given, "length_B": given["length_B"].clamp(max=1)})
    assert int((long.ids_M != 0).sum()) == sum(len(prompt) for prompt in PROMPTS)


def test_padding_reaches_no_weight():
    """Whatever the padding token is, states and gradients stay."""
    model, given = qwen3().double(), tensors()
    grads = []
    for padding in (0, 7):
        packing = pack(**given)
        ids_M = packing.ids_M.clone()
        ids_M[-1] = padding
        model.zero_grad()
        states_MH = packed_states(model, dataclasses.replace(packing, ids_M=ids_M))
        states_MH[packing.state_BT[torch.arange(9) < given["length_B"][:, None]]].pow(2).sum().backward()
        grads.append(model.model.layers[0].self_attn.k_proj.weight.grad.clone())
    assert torch.equal(*grads)


def test_attention_that_cannot_be_packed_is_recognised():
    assert not can_pack(gemma2(attn_logit_softcapping=5.0))
    model = qwen3()
    assert can_pack(model)
    assert model.config._attn_implementation == "sdpa"
    model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states * 0.5, None)
    assert can_pack(model)  # attention of its own, but the states still agree
    model.model.layers[0].register_forward_hook(lambda module, args, out: out.cumsum(1))
    assert not can_pack(model)


def test_rows_beyond_the_limit_go_padded(monkeypatch):
    calls = []
    monkeypatch.setattr(policy, "packed_states", lambda *args: calls.append(args))
    monkeypatch.setattr(policy, "LONGEST", 5)
    given = tensors()
    rollouts = _rollouts(given)
    with torch.no_grad():
        forward_rows(qwen3(), rollouts, packed=True)
    assert not calls


def _rollouts(given):
    rows = given["length_B"].numel()
    return Rollouts(
        prompts=tuple(Prompt(id=str(i), text="") for i in range(3)),
        prompt_BS=given["prompt_BS"],
        prompt_length_B=given["prompt_length_B"],
        ids_BT=given["ids_BT"],
        mask_BT=torch.arange(9) < given["length_B"][:, None],
        group_B=given["prompt_B"] - 4,
        sample_B=torch.arange(rows),
        logp_BT=torch.zeros(rows, 9),
        entropy_BT=torch.zeros(rows, 9),
        finish=("stop",) * rows,
        text=("",) * rows,
    )
