"""Columns from a scoring pass: formulas by hand, the weights that sampled, bounded memory, one pass for all."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import sample_rollouts
from forkpoint.errors import InputError
from forkpoint.rollouts import Prompt
from forkpoint.train import columns_scored, rescore
from forkpoint.train.columns_scored import (
    FORMULAS,
    attention_column,
    attention_layer,
    distribution_columns,
    hidden_column,
    min_p_logp,
)
from forkpoint.train.policy import forward_rows
from tiny import qwen3, strange_head, tokenizer

PROMPTS = [Prompt(id=f"p{i}", text=" ".join("0123456789"[: i + 1])) for i in range(3)]


@pytest.fixture(scope="module")
def batch():
    words = tokenizer()
    encoded = [words(prompt.text)["input_ids"] for prompt in PROMPTS]
    sampling = Sampling(max_tokens=12, stop_ids=(1, 2, 3))
    return sample_rollouts(qwen3(), words, PROMPTS, encoded, sampling, group=3, stream=("s",))


def distribution(*p):
    return torch.tensor([p], dtype=torch.float64).log()


def test_min_p_by_hand():
    # Largest 0.5; with 0.2 of it, 0.1, the last token goes: 0.5, 0.3, 0.15 renormalised by 0.95.
    logp_NV = distribution(0.5, 0.3, 0.15, 0.05).expand(4, 4)
    found = min_p_logp(logp_NV, torch.arange(4), 0.2)
    expected = torch.tensor([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0], dtype=torch.float64).log()
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    assert found[3] == -math.inf
    # Exactly on the edge stays; min_p 1 leaves the most likely tokens alone.
    assert min_p_logp(distribution(0.5, 0.25, 0.25), torch.tensor([1]), 0.5).isfinite()
    torch.testing.assert_close(min_p_logp(distribution(0.4, 0.4, 0.2), torch.tensor([1]), 1.0).exp()[0].item(), 0.5)


def test_formulas_by_hand():
    p = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)
    ids = torch.tensor([1])
    entropy = -(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1))
    flow = sum(x**2 * (math.log(x) + entropy) for x in (0.6, 0.3, 0.1))
    found = {name: float(formula(p.log(), ids, 0.2)[0]) for name, formula in FORMULAS.items()}
    assert found["collision"] == pytest.approx(0.46, abs=1e-14)
    assert found["sampled_flow"] == pytest.approx(flow, abs=1e-14)
    assert found["proxy_logp"] == pytest.approx(math.log(0.3 / 0.9), abs=1e-14)
    q = (2 / 3, 1 / 3)
    assert found["nucleus_entropy"] == pytest.approx(-sum(x * math.log(x) for x in q), abs=1e-14)


def reference(model, batch, temperature):
    """Log-probs of every row by itself, (V,) for every token, in float64."""
    for row in range(batch.rows):
        prompt, size = int(batch.prompt_length_B[row]), int(batch.mask_BT[row].sum())
        ids = torch.cat([batch.prompt_BS[row, :prompt], batch.ids_BT[row, :size]])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, prompt - 1 : prompt + size - 1]
        yield row, size, (logits.double() / temperature).log_softmax(-1)


@pytest.mark.parametrize(("head", "temperature"), [("fused", 1.0), ("fused", 0.7), ("plain", 0.7)])
def test_columns_are_those_of_the_weights_at_the_temperature(head, temperature, batch, monkeypatch):
    model = strange_head() if head == "plain" else qwen3()
    monkeypatch.setattr(columns_scored, "LOGITS_HELD", 5 * len(tokenizer()))
    monkeypatch.setattr(rescore, "PASS_TOKENS", 40)
    found = distribution_columns(model, batch, list(FORMULAS), temperature=temperature, head=head, min_p=0.3)
    assert set(found) == set(FORMULAS)
    for row, size, logp_TV in reference(model, batch, temperature):
        for name, column_BT in found.items():
            expected = FORMULAS[name](logp_TV, batch.ids_BT[row, :size], 0.3)
            torch.testing.assert_close(column_BT[row, :size].double(), expected, rtol=1e-4, atol=1e-5)
            assert not column_BT[row, size:].any()
    assert found["proxy_logp"].isinf().any()


def test_no_more_logits_are_held_than_allowed(batch, monkeypatch):
    held, real = [], columns_scored.logits_of
    monkeypatch.setattr(columns_scored, "logits_of", lambda *args: held.append(real(*args)) or held[-1])
    monkeypatch.setattr(columns_scored, "LOGITS_HELD", 4 * len(tokenizer()))
    distribution_columns(qwen3(), batch, ["collision"], temperature=1.0)
    assert max(len(logits) for logits in held) == 4
    assert sum(len(logits) for logits in held) == int(batch.mask_BT.sum())


def test_one_pass_gives_all_columns_and_none_is_kept_for_a_gradient(batch, monkeypatch):
    passes, real = [], columns_scored.predicting
    monkeypatch.setattr(columns_scored, "predicting", lambda *a, **k: passes.append(1) or real(*a, **k))
    model = qwen3().train()
    found = distribution_columns(model, batch, list(FORMULAS), temperature=1.0)
    assert len(passes) == 1
    assert model.training
    assert not any(column.requires_grad for column in found.values())


def test_hidden_states_are_those_that_predict(batch, monkeypatch):
    model = qwen3()
    expected = forward_rows(model, batch, hidden=True).extra["hidden"].detach()
    monkeypatch.setattr(rescore, "PASS_TOKENS", 40)
    found = hidden_column(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not found[~batch.mask_BT].any()


@pytest.mark.parametrize("layer", [None, 0])
def test_attention_is_that_of_the_position_that_predicts(layer, batch, monkeypatch):
    from transformers import AutoModelForCausalLM

    model = qwen3(num_hidden_layers=3)
    eager = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager")
    eager.load_state_dict(model.state_dict())
    monkeypatch.setattr(columns_scored, "WEIGHTS_HELD", 4 * 15**2 * 2)
    before = model.config._attn_implementation
    found = attention_column(model, batch, layer=layer)
    assert model.config._attn_implementation == before
    assert not model.model.layers[1].self_attn._forward_hooks
    number = 1 if layer is None else layer
    for row in range(batch.rows):
        prompt, size = int(batch.prompt_length_B[row]), int(batch.mask_BT[row].sum())
        ids = torch.cat([batch.prompt_BS[row, :prompt], batch.ids_BT[row, :size]])
        with torch.no_grad():
            weights_HLL = eager.eval()(input_ids=ids[None], output_attentions=True).attentions[number][0].double()
        for t in range(size):
            at = prompt - 1 + t
            entropies_H = torch.special.entr(weights_HLL[:, at]).sum(-1)
            expected = float(entropies_H.mean()) / math.log(at + 1) if at else 0.0
            assert float(found[row, t]) == pytest.approx(expected, abs=1e-5)
        assert not found[row, size:].any()
    assert ((found >= 0) & (found <= 1 + 1e-6)).all()


def test_a_window_is_the_context(batch):
    model = qwen3(layer_types=["sliding_attention"] * 2, use_sliding_window=True, sliding_window=3, max_window_layers=0)
    assert attention_layer(model).sliding_window == 3
    row = torch.arange(batch.rows)[batch.mask_BT.sum(1) > 6][:1]
    found = attention_column(model, batch.select(row))
    model.model.layers[1].self_attn.q_proj.weight.data.zero_()
    even = attention_column(model, batch.select(row))
    # Without queries every key in the window weighs the same.
    torch.testing.assert_close(even[even != 0], torch.ones(int((even != 0).sum())))
    assert found.amax() <= 1 + 1e-6


def test_a_layer_that_is_not_there_and_a_model_that_shows_nothing(batch):
    with pytest.raises(InputError, match=r"attention_layer = 7, and Qwen3ForCausalLM has attention in layers 0, 1:"):
        attention_column(qwen3(), batch, layer=7)
    model = qwen3()
    attention = model.model.layers[1].self_attn
    real = attention.forward
    attention.forward = lambda *args, **kwargs: (real(*args, **kwargs)[0], None)
    with pytest.raises(InputError, match=r"does not show its attention weights.*columns\.program"):
        attention_column(model, batch)


def test_a_row_by_itself_and_a_row_without_tokens(batch):
    one = batch.select(torch.tensor([4]))
    found = distribution_columns(qwen3(), one, ["collision"], temperature=1.0)["collision"]
    whole = distribution_columns(qwen3(), batch, ["collision"], temperature=1.0)["collision"]
    size = int(one.mask_BT.sum())
    torch.testing.assert_close(found[0, :size], whole[4, :size], rtol=1e-5, atol=1e-6)
    empty = dataclasses.replace(one, mask_BT=torch.zeros_like(one.mask_BT))
    assert not distribution_columns(qwen3(), empty, ["collision"], temperature=1.0)["collision"].any()
