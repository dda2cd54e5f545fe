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
from forkpoint.errors import InputError, TrainingError
from forkpoint.methods import dapo, forking, grpo, method_chain
from forkpoint.model import check_head, recompute_activations
from forkpoint.rollouts import Penalty, Prompt, blank_credit
from forkpoint.train import policy as policy_module
from forkpoint.train import update as update_module
from forkpoint.train.batches import micro_batches, mini_batches
from forkpoint.train.policy import forward_rows, row_lengths
from forkpoint.train.update import UpdateSettings, learn
from tiny import qwen3, strange_head, tokenizer

EMPTY = chain()
PROMPTS = [Prompt(id=f"p{i}", text=" ".join("0123456789"[: i + 2])) for i in range(6)]


@pytest.fixture(scope="module")
def batch():
    words = tokenizer()
    encoded = [words(prompt.text)["input_ids"] for prompt in PROMPTS]
    sampling = Sampling(max_tokens=24, stop_ids=(1, 2, 3))
    rollouts = sample_rollouts(qwen3(), words, PROMPTS, encoded, sampling, group=4, stream=("u",))
    reward_B = (rollouts.ids_BT.sum(1) % 2).float()
    return dataclasses.replace(rollouts, reward_B=reward_B, judged_B=torch.ones_like(reward_B, dtype=torch.bool))


def updated(batch, method, *, micro_tokens, mini_prompts=6, seed=0, model=None, **how):
    """Return the gradient-descent step of one rollout batch: weights after minus weights before, and metrics."""
    model = (model or qwen3(seed=1)).double()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    credit, states = run(method, blank_credit(batch), batch, init(method), when="rollout", rng=3)
    model.train()
    result = learn(
        model, optimizer, method, states, batch, credit,
        UpdateSettings(mini_prompts=mini_prompts, micro_tokens=micro_tokens, grad_clip=0.0, seed=seed, **how), step=1,
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


def test_the_plain_head_asks_the_model_for_its_logits(batch):
    """The model's own logits, values and gradients, for families whose head is not a linear layer."""
    model = strange_head(seed=1).double()
    with pytest.raises(InputError, match=r"model\.head = 'plain'"):
        check_head(model)
    forward = forward_rows(model, batch, head="plain", packed=True)
    row, n, m = 3, int(batch.prompt_length_B[3]), int(batch.mask_BT[3].sum())
    ids = torch.cat([batch.prompt_BS[row, :n], batch.ids_BT[row, :m]])
    logp, _ = token_logp_entropy(model(ids[None]).logits[0, n - 1 : -1], ids[n:])
    torch.testing.assert_close(forward.logp_BT[row, :m], logp, atol=1e-9, rtol=1e-9)
    ours, theirs = (
        torch.autograd.grad(value, model.model.embed_tokens.weight)[0]
        for value in (forward.logp_BT[row].sum(), logp.sum())
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_behaviour_policy_has_ratio_one(batch):
    with torch.no_grad():
        forward = forward_rows(qwen3(), batch)
    torch.testing.assert_close(forward.logp_BT, batch.logp_BT, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(forward.entropy_BT, batch.entropy_BT, atol=2e-5, rtol=1e-4)


@pytest.fixture
def entered(monkeypatch):
    """Hidden states that entered the head, one (rows, carries gradient) a call."""
    calls = []
    real = policy_module.head_values

    def counting(model, hidden_NH, *args, **kwargs):
        calls.append((hidden_NH.shape[0], hidden_NH.requires_grad))
        return real(model, hidden_NH, *args, **kwargs)

    monkeypatch.setattr(policy_module, "head_values", counting)
    return calls


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
    for key in ("loss", "grad_norm", "credit/share", "tokens/learned", "kl/behaviour"):
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


@pytest.mark.parametrize("packed", [False, True])
def test_no_padding_reaches_the_head(batch, packed, entered):
    updated(batch, forking(), micro_tokens=10**6, packed=packed)
    assert sum(rows for rows, _ in entered) == int(batch.mask_BT.sum())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["forking-behaviour", "dapo", "gspo", "bonus"])
def test_known_credit_asks_for_its_tokens_only(batch, name, packed, entered, monkeypatch):
    """The same update as with every token of every answer, from fewer states."""
    method = INVARIANT[name]
    quick, result = updated(batch, method, micro_tokens=10**6, packed=packed)
    asked = sum(rows for rows, _ in entered)
    monkeypatch.setattr(update_module, "learning_tokens", lambda chain, credit, mask_BT: mask_BT)
    entered.clear()
    slow, other = updated(batch, method, micro_tokens=10**6, head="plain")
    assert not entered
    assert distance(slow, quick) < (1e-6 if packed else 1e-10)
    learned = int(result.metrics["tokens/learned"])
    assert learned == other.metrics["tokens/learned"]
    advantage_BT = result.credit.advantage_BT
    rows_B = (advantage_BT != 0).any(1)
    expected = {"gspo": int(batch.mask_BT[rows_B].sum()), "bonus": int(batch.mask_BT.sum())}.get(name, learned)
    assert asked == expected
    if name == "forking-behaviour":
        assert asked < 0.25 * int(batch.mask_BT.sum())


def test_the_tokens_a_loss_depends_on(batch):
    """An advantage, or a penalty; a sequence ratio reads the whole answer, a regulariser everything."""
    at = torch.zeros_like(batch.mask_BT)
    at[1, 2] = True
    credit = dataclasses.replace(blank_credit(batch), keep_BT=batch.mask_BT & ~at.roll(1, 1))
    learns = lambda credit, method=EMPTY: update_module.learning_tokens(method, credit, batch.mask_BT)  # noqa: E731
    assert not learns(credit).any()
    advantage = dataclasses.replace(credit, advantage_BT=(at | at.roll(1, 1)).float())
    assert torch.equal(learns(advantage), at)
    assert not learns(dataclasses.replace(advantage, weight_BT=torch.zeros_like(credit.weight_BT))).any()
    whole = learns(dataclasses.replace(advantage, ratio="sequence"))
    assert torch.equal(whole, batch.mask_BT & (torch.arange(batch.rows) == 1)[:, None])
    penalty = Penalty(coefficient_BT=at.float(), target_logp_BT=batch.logp_BT, form="k3")
    assert torch.equal(learns(dataclasses.replace(credit, penalties=(penalty,))), at)
    assert torch.equal(learns(credit, chain(bonus_link(coefficient=0.1))), batch.mask_BT)


@pytest.mark.parametrize("packed", [False, True])
def test_rows_and_tails_that_nothing_asks_for_are_not_read(batch, packed):
    model, read = qwen3(), []
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: read.append(args[0]))
    row = int(batch.mask_BT.sum(1).argmax())
    needs_BT = torch.zeros_like(batch.mask_BT)
    needs_BT[row, 3] = True
    with torch.no_grad():
        forward = forward_rows(model, batch, needs_BT=needs_BT, packed=packed)
    prompt = batch.prompt_BS[row, : batch.prompt_length_B[row]]
    real = torch.cat([prompt, batch.ids_BT[row, :3]])
    assert torch.equal(read[0].flatten()[: len(real)], real)
    assert len(read) == 1
    assert not read[0].flatten()[len(real) :].any()
    torch.testing.assert_close(forward.logp_BT[row, 3], batch.logp_BT[row, 3], atol=2e-5, rtol=1e-4)
    assert int((forward.logp_BT != 0).sum()) == 1


def test_the_kl_of_known_credit_is_over_the_tokens_asked_for(batch):
    result = updated(batch, forking(source="behaviour"), micro_tokens=10**6)[1]
    model = qwen3(seed=1).double()
    with torch.no_grad():
        log_BT = forward_rows(model, batch).logp_BT - batch.logp_BT
    learned_BT = result.credit.keep_BT & (result.credit.advantage_BT != 0)
    k3_BT = torch.expm1(log_BT) - log_BT
    assert result.metrics["kl/behaviour"] == pytest.approx(float(k3_BT[learned_BT].mean()), rel=1e-6)


@pytest.mark.parametrize("name", INVARIANT)
@pytest.mark.parametrize("micro_tokens", [60, 10**6])
def test_packing_does_not_change_the_update(batch, name, micro_tokens):
    padded, one = updated(batch, INVARIANT[name], micro_tokens=micro_tokens)
    packed, other = updated(batch, INVARIANT[name], micro_tokens=micro_tokens, packed=True)
    # transformers computes norms in float32, so sums over a shared prompt round differently.
    assert distance(padded, packed) < 1e-6
    assert torch.equal(one.credit.keep_BT, other.credit.keep_BT)


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
    real = update_module.policy_loss

    def broken(*args):
        loss = real(*args)
        return dataclasses.replace(loss, value=loss.value * float("inf"))

    monkeypatch.setattr(update_module, "policy_loss", broken)
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
def test_answers_without_advantage_skip_their_backward_pass(batch, method, entered, monkeypatch):
    """Equal rewards in half of the groups: their rows run without gradient, and the update is the same."""
    equal_B = batch.group_B % 2 == 0
    flat = dataclasses.replace(batch, reward_B=torch.where(equal_B, 1.0, batch.reward_B))
    quick, result = updated(flat, method, micro_tokens=10**6)
    with_gradient = sum(rows for rows, gradient in entered if gradient)
    without = sum(rows for rows, gradient in entered if not gradient)
    equal, every = int(flat.mask_BT[equal_B].sum()), int(flat.mask_BT.sum())
    assert 0 < with_gradient <= every - equal
    if method.reads_forward:
        assert with_gradient + without == every
    else:
        assert without == 0
    everyone = torch.ones_like(flat.group_B, dtype=torch.bool)
    monkeypatch.setattr(update_module._Mini, "learns_B", lambda self: everyone)
    monkeypatch.setattr(update_module, "learning_tokens", lambda chain, credit, mask_BT: mask_BT)
    slow, other = updated(flat, method, micro_tokens=10**6)
    assert distance(slow, quick) < 1e-10
    assert result.metrics["tokens/learned"] == other.metrics["tokens/learned"]


def test_a_penalty_or_a_bonus_keeps_every_backward_pass(batch, entered):
    flat = dataclasses.replace(batch, reward_B=torch.ones_like(batch.reward_B))
    updated(flat, chain(dapo(), bonus_link(coefficient=0.01)), micro_tokens=10**6)
    assert sum(rows for rows, _ in entered) == int(flat.mask_BT.sum())
    assert all(gradient for _, gradient in entered)


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
