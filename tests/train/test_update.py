"""The update on a real model: forward pass, micro-batches, statistics passes, refusals."""

import copy
import dataclasses

import pytest
import torch

from forkpoint.credit import chain, init, run
from forkpoint.credit import entropy_bonus as bonus_link
from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import sample_rollouts
from forkpoint.entropy.token import token_logp_entropy
from forkpoint.errors import TrainingError
from forkpoint.methods import dapo, forking, grpo, method_chain
from forkpoint.model import recompute_activations
from forkpoint.rollouts import Prompt, blank_credit
from forkpoint.train import policy as policy_module
from forkpoint.train.batches import micro_batches, mini_batches
from forkpoint.train.policy import forward_rows, row_lengths
from forkpoint.train.update import UpdateSettings, learn
from tiny import qwen3, tokenizer

PROMPTS = [Prompt(id=f"p{i}", text=" ".join("0123456789"[: i + 2])) for i in range(6)]


@pytest.fixture(scope="module")
def batch():
    words = tokenizer()
    encoded = [words(prompt.text)["input_ids"] for prompt in PROMPTS]
    sampling = Sampling(max_tokens=24, stop_ids=(1, 2, 3))
    rollouts = sample_rollouts(qwen3(), words, PROMPTS, encoded, sampling, group=4, stream=("u",))
    reward_B = (rollouts.ids_BT.sum(1) % 2).float()
    return dataclasses.replace(rollouts, reward_B=reward_B, judged_B=torch.ones_like(reward_B, dtype=torch.bool))


def updated(batch, method, *, micro_tokens, mini_prompts=6, steps=1, seed=0, model=None):
    """Return the gradient-descent step of one rollout batch: weights after minus weights before, and metrics."""
    model = (model or qwen3(seed=1)).double()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    credit, states = run(method, blank_credit(batch), batch, init(method), when="rollout", rng=3)
    model.train()
    result = learn(
        model, optimizer, method, states, batch, credit,
        UpdateSettings(mini_prompts=mini_prompts, micro_tokens=micro_tokens, grad_clip=0.0, seed=seed), step=1,
    )  # fmt: skip
    return [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)], result


def distance(a, b):
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True)) / max(float(x.abs().max()) for x in a)


def test_forward_equals_the_models_own_logits(batch):
    model = qwen3(seed=1)
    with torch.no_grad():
        forward = forward_rows(model, batch, temperature=0.7)
    for row in range(batch.rows):
        n, m = int(batch.prompt_length_B[row]), int(batch.mask_BT[row].sum())
        ids = torch.cat([batch.prompt_BS[row, :n], batch.ids_BT[row, :m]])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, n - 1 : -1]
        logp, entropy = token_logp_entropy(logits, ids[n:], temperature=0.7)
        torch.testing.assert_close(forward.logp_BT[row, :m], logp, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(forward.entropy_BT[row, :m], entropy, atol=1e-5, rtol=1e-5)
        assert not forward.logp_BT[row, m:].any()


def test_the_behaviour_policy_has_ratio_one(batch):
    with torch.no_grad():
        forward = forward_rows(qwen3(), batch)
    torch.testing.assert_close(forward.logp_BT, batch.logp_BT, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(forward.entropy_BT, batch.entropy_BT, atol=2e-5, rtol=1e-4)


def test_a_head_in_chunks_gives_the_same_gradient(batch, monkeypatch):
    whole, _ = updated(batch, dapo(), micro_tokens=10**6)
    monkeypatch.setattr(policy_module, "LOGIT_CELLS", 23 * 5)
    chunked, _ = updated(batch, dapo(), micro_tokens=10**6)
    assert distance(whole, chunked) < 1e-10


INVARIANT = {
    "grpo": grpo(),
    "dapo": dapo(),
    "dr_grpo": method_chain("dr_grpo"),
    "gspo": method_chain("gspo"),
    "cispo": method_chain("cispo"),
    "reinforce_pp": method_chain("reinforce_pp"),
    "bonus": chain(dapo(), bonus_link(coefficient=0.01)),
    "forking": forking(),
    "forking-rollout": forking(scope="rollout"),
    "forking-sequence": forking(scope="sequence"),
    "forking-behaviour": forking(source="behaviour"),
    "forking-threshold-all": forking(ties="threshold", denominator="all"),
    "forking-random": forking(keep="random"),
}


@pytest.mark.parametrize("name", INVARIANT)
def test_micro_batches_do_not_change_the_update(batch, name):
    whole, one = updated(batch, INVARIANT[name], micro_tokens=10**6, mini_prompts=3)
    cut, many = updated(batch, INVARIANT[name], micro_tokens=60, mini_prompts=3)
    assert one.updates == many.updates == 2
    assert distance(whole, cut) < 1e-9
    assert torch.equal(one.credit.keep_BT, many.credit.keep_BT)
    for key in ("loss", "grad_norm", "credit/share", "tokens/learned"):
        assert one.metrics[key] == pytest.approx(many.metrics[key], rel=1e-9), key


@pytest.mark.parametrize("preset", ["authors-code", "trl"])
def test_micro_scope_depends_on_the_micro_batches(batch, preset):
    whole, _ = updated(batch, forking(preset=preset), micro_tokens=10**6)
    cut, result = updated(batch, forking(preset=preset), micro_tokens=60)
    assert distance(whole, cut) > 1e-3
    assert result.metrics["cost/statistics_tokens"] == 0


def test_the_cost_of_a_wide_statistic_is_counted(batch):
    tokens = int(row_lengths(batch).sum())
    assert updated(batch, forking(), micro_tokens=10**6)[1].metrics["cost/statistics_tokens"] == 0
    assert updated(batch, forking(), micro_tokens=60)[1].metrics["cost/statistics_tokens"] == tokens
    assert updated(batch, forking(source="behaviour"), micro_tokens=60)[1].metrics["cost/statistics_tokens"] == 0
    wide = updated(batch, forking(scope="rollout"), micro_tokens=10**6, mini_prompts=3)[1]
    assert wide.metrics["cost/statistics_tokens"] == 2 * tokens


def test_exactly_the_share_learns(batch):
    total = int(batch.mask_BT.sum())
    result = updated(batch, forking(share=0.2), micro_tokens=60)[1]
    kept = int(result.credit.keep_BT.sum())
    assert kept == -(-total // 5)
    assert result.metrics["credit/share"] == pytest.approx(kept / total)


def test_only_selected_tokens_reach_the_weights(batch):
    """Rows whose advantage is zero cannot change the update, whatever their tokens are."""
    mixed = next(g for g in range(6) if 0 < float(batch.reward_B[batch.group_B == g].mean()) < 1)
    here_B = batch.group_B == mixed
    flat = dataclasses.replace(batch, reward_B=torch.where(here_B, 1.0, batch.reward_B))
    method = dapo()
    other = dataclasses.replace(
        flat, ids_BT=torch.where(here_B[:, None] & flat.mask_BT, (flat.ids_BT + 3) % 20 + 3, flat.ids_BT)
    )
    a, _ = updated(flat, method, micro_tokens=10**6)
    b, _ = updated(other, method, micro_tokens=10**6)
    assert distance(a, b) < 1e-9
    c, _ = updated(batch, method, micro_tokens=10**6)
    assert distance(a, c) > 1e-3


def test_no_padding_reaches_the_head(batch, monkeypatch):
    seen = 0
    real = policy_module.head_logits

    def counting(model, hidden_NH):
        nonlocal seen
        seen += hidden_NH.shape[0]
        return real(model, hidden_NH)

    monkeypatch.setattr(policy_module, "head_logits", counting)
    updated(batch, dapo(), micro_tokens=10**6)
    assert seen == int(batch.mask_BT.sum())


def test_gradient_checkpointing_changes_nothing(batch):
    plain, _ = updated(batch, dapo(), micro_tokens=10**6)
    model = qwen3(seed=1)
    recompute_activations(model)
    saved, _ = updated(batch, dapo(), micro_tokens=10**6, model=model)
    assert distance(plain, saved) < 1e-10


def test_logits_that_are_not_finite_name_the_row_and_leave_the_weights(batch):
    model = qwen3(seed=1)
    with torch.no_grad():
        model.model.embed_tokens.weight[22] = float("nan")
    before = copy.deepcopy(model.state_dict())
    poisoned = dataclasses.replace(batch, ids_BT=torch.full_like(batch.ids_BT, 22))
    with pytest.raises(TrainingError, match=r"not finite for problem 'p\d', sample \d \(row \d+\), answer token \d"):
        updated(poisoned, dapo(), micro_tokens=10**6, model=model)
    assert all(torch.equal(v, before[k].double()) or v.isnan().any() for k, v in model.state_dict().items())


def test_a_gradient_that_is_not_finite_is_not_applied(batch, monkeypatch):
    import forkpoint.train.update as module

    real = module.policy_loss

    def broken(*args):
        loss = real(*args)
        return dataclasses.replace(loss, value=loss.value * float("inf"))

    monkeypatch.setattr(module, "policy_loss", broken)
    model = qwen3(seed=1).double()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingError, match="gradient of step 1 is not finite"):
        updated(batch, dapo(), micro_tokens=10**6, model=model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_learning_rates_are_used_in_order(batch):
    model = qwen3(seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0)
    method = dapo()
    credit, states = run(method, blank_credit(batch), batch, init(method), when="rollout")
    learn(
        model, optimizer, method, states, batch, credit, UpdateSettings(mini_prompts=3), step=1,
        learning_rates=[0.0, 0.5],
    )  # fmt: skip
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("method", [dapo(), forking(), forking(preset="trl"), forking(source="behaviour")])
def test_answers_without_advantage_skip_their_backward_pass(batch, method, monkeypatch):
    """Equal rewards in half of the groups: their rows run without gradient, and the update is the same."""
    equal_B = batch.group_B % 2 == 0
    flat = dataclasses.replace(batch, reward_B=torch.where(equal_B, 1.0, batch.reward_B))
    seen = {True: 0, False: 0}
    real = policy_module.head_logits

    def counting(model, hidden_NH):
        seen[hidden_NH.requires_grad] += hidden_NH.shape[0]
        return real(model, hidden_NH)

    with monkeypatch.context() as patch:
        patch.setattr(policy_module, "head_logits", counting)
        quick, result = updated(flat, method, micro_tokens=10**6)
    assert seen[True] < int(flat.mask_BT.sum()) - int(flat.mask_BT[equal_B].sum()) + 1
    assert seen[False] >= int(flat.mask_BT[equal_B].sum())
    import forkpoint.train.update as module

    everyone = torch.ones_like(flat.group_B, dtype=torch.bool)
    monkeypatch.setattr(module._Mini, "learns_B", lambda self: everyone)
    slow, other = updated(flat, method, micro_tokens=10**6)
    assert distance(slow, quick) < 1e-10
    assert result.metrics["tokens/learned"] == other.metrics["tokens/learned"]


def test_a_penalty_or_a_bonus_keeps_every_backward_pass(batch, monkeypatch):
    seen = []
    real = policy_module.head_logits
    monkeypatch.setattr(
        policy_module, "head_logits", lambda model, h: (seen.append(h.requires_grad), real(model, h))[1]
    )
    flat = dataclasses.replace(batch, reward_B=torch.ones_like(batch.reward_B))
    updated(flat, chain(dapo(), bonus_link(coefficient=0.01)), micro_tokens=10**6)
    assert all(seen)


def test_a_mini_batch_in_which_nothing_learns_leaves_plain_sgd_where_it_was(batch):
    flat = dataclasses.replace(batch, reward_B=torch.ones_like(batch.reward_B))
    change, result = updated(flat, dapo(), micro_tokens=10**6)
    assert all(not delta.any() for delta in change)
    assert result.metrics["grad_norm"] == 0
    assert result.updates == 1


@pytest.mark.parametrize("preset", ["trl", "authors-code"])
def test_micro_scope_over_several_passes_by_hand(batch, preset):
    """The presets' own definitions, written out: select inside each pass, divide as each of them does."""
    method, settings = forking(preset=preset), UpdateSettings(mini_prompts=6, micro_tokens=60, grad_clip=0.0, seed=5)
    change, _ = updated(batch, method, micro_tokens=60, seed=5)
    model = qwen3(seed=1).double()
    credit, _ = run(method, blank_credit(batch), batch, init(method), when="rollout", rng=3)
    mini = mini_batches(batch.group_B, settings.mini_prompts, 5, "mini", 1, 0)[0]
    cuts = micro_batches(row_lengths(batch), mini, settings.micro_tokens, 5, "micro", 1, 0, 0)
    assert len(cuts) > 2
    loss = 0.0
    for cut in cuts:
        rows = batch.select(cut, trim=False)
        forward = forward_rows(model, rows)
        entropies = forward.entropy_BT.detach()[rows.mask_BT].sort(descending=True).values
        if preset == "trl":
            chosen_BT = rows.mask_BT & (forward.entropy_BT >= torch.quantile(entropies, 0.8))
            divisor = float(batch.mask_BT.sum())
        else:
            cut_at = entropies[-(-len(entropies) // 5) - 1]
            chosen_BT = rows.mask_BT & (forward.entropy_BT >= cut_at)
            divisor = float(chosen_BT.sum()) * batch.rows / cut.numel()
        ratio_BT = (forward.logp_BT - rows.logp_BT).exp()
        advantage_BT = credit.advantage_BT[cut]
        gain_BT = torch.minimum(ratio_BT * advantage_BT, ratio_BT.clamp(0.8, 1.28) * advantage_BT)
        if preset == "authors-code":
            gain_BT = torch.where(advantage_BT < 0, torch.maximum(gain_BT, 10 * advantage_BT), gain_BT)
        loss = loss - torch.where(chosen_BT, gain_BT, 0.0).sum() / divisor
    loss.backward()
    assert distance([-p.grad for p in model.parameters()], change) < 1e-5
