"""The entropy of the nucleus in the update of a model: values, gradient, and SIREN's term."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_loop import write

from forkpoint.credit import init, run
from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import sample_rollouts
from forkpoint.entropy.nucleus import nucleus_entropy_of
from forkpoint.methods import method_chain
from forkpoint.rollouts import Prompt, blank_credit
from forkpoint.train.needs import check_chain
from forkpoint.train.policy import forward_rows
from forkpoint.train.recipe import load_recipe
from forkpoint.train.update import UpdateSettings, learn
from tiny import qwen3, strange_head, tokenizer


@pytest.fixture(scope="module")
def batch():
    words = tokenizer()
    prompts = [Prompt(id=f"p{i}", text=" ".join("0123456789"[: i + 2])) for i in range(3)]
    encoded = [words(prompt.text)["input_ids"] for prompt in prompts]
    sampling = Sampling(max_tokens=12, stop_ids=(1, 2, 3))
    rollouts = sample_rollouts(qwen3(), words, prompts, encoded, sampling, group=4, stream=("n",))
    reward_B = (rollouts.ids_BT.sum(1) % 2).float()
    return dataclasses.replace(rollouts, reward_B=reward_B, judged_B=torch.ones(12, dtype=torch.bool))


def by_row(model, rollouts, temperature):
    """The same from the model's own logits, a row at a time."""
    out = torch.zeros(rollouts.mask_BT.shape)
    for row in range(rollouts.rows):
        prompt = rollouts.prompt_BS[row, : rollouts.prompt_length_B[row]]
        answer = rollouts.ids_BT[row][rollouts.mask_BT[row]]
        logits = model(input_ids=torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
        out = out.index_put(
            (torch.tensor(row), torch.arange(len(answer))), nucleus_entropy_of(logits.float() / temperature)
        )
    return out


@pytest.mark.parametrize(("head", "packed"), [("fused", False), ("fused", True), ("plain", False)])
def test_the_forward_pass_gives_it_with_gradient(head, packed, batch):
    make = strange_head if head == "plain" else qwen3
    model, other = make(seed=1), make(seed=1)
    forward = forward_rows(model, batch, temperature=0.8, head=head, packed=packed, nucleus=True, entropy_gradient=True)
    got, expected = forward.extra["nucleus_entropy"], by_row(other, batch, 0.8)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert float(got.detach()[batch.mask_BT].max()) > 0.5
    weight_BT = torch.arange(got.numel()).reshape(got.shape).cos()
    (got * weight_BT).sum().backward()
    (expected * weight_BT).sum().backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)


def test_it_is_there_only_when_asked_for_and_without_gradient_where_none_is_needed(batch):
    assert not forward_rows(qwen3(), batch).extra
    assert not forward_rows(qwen3(), batch, nucleus=True).extra["nucleus_entropy"].requires_grad


def stepped(batch, anchor, *, micro_tokens, coefficient=5.0):
    chain, model = method_chain("siren", coefficient=coefficient), qwen3(seed=1)
    states = [state | {"anchor": anchor} if "anchor" in state else state for state in init(chain)]
    credit, states = run(chain, blank_credit(batch), batch, states, when="rollout")
    model.train()
    settings = UpdateSettings(mini_prompts=3, micro_tokens=micro_tokens, grad_clip=0.0)
    result = learn(model, torch.optim.SGD(model.parameters(), lr=0.0), chain, states, batch, credit, settings, step=1)
    return result, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_siren_adds_the_squared_distance_of_its_forks_to_the_anchor(batch):
    """Loss and gradient against the definition, from the model's own logits and autograd through all of it."""
    anchor = 0.25
    whole, gradient = stepped(batch, anchor, micro_tokens=100_000)
    plain, without = stepped(batch, anchor, micro_tokens=100_000, coefficient=0.0)
    model = qwen3(seed=1)
    entropy_BT = by_row(model, batch, 1.0)
    means = []
    for row in range(batch.rows):
        values = entropy_BT[row][batch.mask_BT[row]]
        forks = values[values > values.detach().quantile(0.8)]
        if forks.numel():
            means.append(forks.mean())
    assert len(means) > 3
    term = 5.0 * (torch.stack(means).mean() - anchor) ** 2
    term.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert whole.metrics["loss"] - plain.metrics["loss"] == pytest.approx(float(term.detach()), rel=1e-4)
    assert float(expected.norm()) > 0.1
    torch.testing.assert_close(gradient - without, expected, rtol=1e-3, atol=1e-4)


def test_passes_of_a_mini_batch_add_up(batch):
    whole, gradient = stepped(batch, 0.25, micro_tokens=100_000)
    parts, split = stepped(batch, 0.25, micro_tokens=60)
    assert parts.metrics["cost/statistics_tokens"] > 0
    assert parts.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-4, abs=1e-5)
    torch.testing.assert_close(split, gradient, rtol=1e-3, atol=1e-5)


def test_the_first_update_sets_the_anchor(batch):
    result, _ = stepped(batch, None, micro_tokens=100_000)
    anchor = next(state["anchor"] for state in result.states if "anchor" in state)
    entropy_BT = by_row(qwen3(seed=1), batch, 1.0).detach()
    assert 0 < anchor <= float(entropy_BT.max())


def test_a_run_may_ask_for_it(tmp_path):
    recipe = load_recipe(write(tmp_path, "siren"))
    check_chain(recipe, method_chain("siren"))
