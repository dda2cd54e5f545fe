"""One update of a real model by every method, and one step of every recipe on the shipped model."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from core_batches import with_extra
from forkpoint.credit import init, run
from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import sample_rollouts
from forkpoint.errors import InputError
from forkpoint.methods import METHODS
from forkpoint.model import load_model
from forkpoint.rollouts import Forward, Prompt, blank_credit
from forkpoint.tasks.prompts import load_tokenizer
from forkpoint.train import loop, setup
from forkpoint.train import policy as policy_module
from forkpoint.train.dryrun import plan
from forkpoint.train.needs import check_chain
from forkpoint.train.policy import forward_rows
from forkpoint.train.recipe import credit_chain, load_recipe
from forkpoint.train.update import UpdateSettings, learn
from tiny import qwen3, tokenizer

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [Prompt(id=f"p{i}", text=" ".join("0123456789"[: i + 2])) for i in range(3)]


@pytest.fixture(scope="module")
def batch():
    """Recorded answers with every column any link needs; the policy that learns has moved away a little."""
    words = tokenizer()
    encoded = [words(prompt.text)["input_ids"] for prompt in PROMPTS]
    sampling = Sampling(max_tokens=12, stop_ids=(1, 2, 3))
    rollouts = sample_rollouts(qwen3(), words, PROMPTS, encoded, sampling, group=4, stream=("u",))
    reward_B = (rollouts.ids_BT.sum(1) % 2).float()
    rollouts = dataclasses.replace(
        rollouts,
        reward_B=reward_B,
        judged_B=torch.ones_like(reward_B, dtype=torch.bool),
        reward_parts={"answer": reward_B, "format": (rollouts.sample_B % 3).float()},
        ref_logp_BT=rollouts.logp_BT - 0.1,
    )
    return with_extra(rollouts, Forward(logp_BT=rollouts.logp_BT, entropy_BT=rollouts.entropy_BT), seed=1)[0]


def path_of(method):
    places = [ROOT / "recipes" / folder / f"{method}.toml" for folder in ("methods", "countdown")]
    return next(place for place in places if place.exists())


def recipe_of(method):
    return load_recipe(path_of(method))


def stepped(method, batch, *, micro_tokens):
    chain = credit_chain(recipe_of(method))
    model = qwen3(seed=1)
    before = [p.detach().clone() for p in model.parameters()]
    credit, states = run(chain, blank_credit(batch), batch, init(chain), when="rollout", rng=3)
    model.train()
    result = learn(
        model, torch.optim.SGD(model.parameters(), lr=0.01), chain, states, batch, credit,
        UpdateSettings(mini_prompts=3, micro_tokens=micro_tokens, grad_clip=0.0, seed=0), step=1,
    )  # fmt: skip
    return result, sum(float((p.detach() - b).abs().sum()) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_an_update(method, batch):
    result, moved = stepped(method, batch, micro_tokens=100_000)
    assert math.isfinite(result.metrics["loss"])
    assert math.isfinite(result.metrics["grad_norm"])
    assert (moved > 0) == (result.metrics["grad_norm"] > 0)
    assert result.metrics["grad_norm"] > 0


@pytest.mark.parametrize("method", ["epo", "hidden_align", "kl_cov", "hapo_clip", "holder", "targeted_entropy"])
def test_passes_of_a_mini_batch_add_up_on_a_model(method, batch):
    whole, moved = stepped(method, batch, micro_tokens=100_000)
    parts, split = stepped(method, batch, micro_tokens=60)
    assert parts.metrics["cost/statistics_tokens"] > 0 or method == "holder"
    assert parts.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-4, abs=1e-5)
    assert split == pytest.approx(moved, rel=1e-3)


@pytest.mark.parametrize("packed", [False, True])
def test_hidden_states_are_those_that_enter_the_head(packed, batch, monkeypatch):
    seen = []
    real = policy_module.head_values

    def watching(model, hidden_NH, *args, **kwargs):
        seen.append(hidden_NH.detach())
        return real(model, hidden_NH, *args, **kwargs)

    monkeypatch.setattr(policy_module, "head_values", watching)
    forward = forward_rows(qwen3(seed=1), batch, packed=packed, hidden=True)
    hidden_BTH = forward.extra["hidden"]
    assert hidden_BTH.requires_grad
    assert not hidden_BTH[~batch.mask_BT].any()
    entered = torch.cat(seen)
    assert entered.shape[0] == int(batch.mask_BT.sum())
    torch.testing.assert_close(hidden_BTH[batch.mask_BT].sum(0), entered.sum(0), rtol=1e-4, atol=1e-3)
    assert not forward_rows(qwen3(seed=1), batch).extra


@pytest.fixture(scope="module")
def shipped():
    """The shipped model and its tokenizer, loaded once."""
    path = str(ROOT / "models" / "countdown")
    return load_model(path), load_tokenizer(path)


TINY = (
    "train.steps=1", "train.prompts=2", "train.mini_prompts=2", "train.group=4", "train.dynamic_sampling=false",
    "decode.max_tokens=40", "eval.before=false", "eval.after=false", "log.rollouts_every=0", "seed=3",
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_the_recipe_of_every_method_makes_a_real_step(method, shipped, tmp_path, monkeypatch):
    """Sampled, verified, credited and learned by the shipped model, with nothing supplied from outside."""
    model = copy.deepcopy(shipped[0])
    before = [p.detach().clone() for p in model.parameters()]
    models = [model]
    monkeypatch.setattr(setup, "load_model", lambda *args, **kwargs: models.pop() if models else copy.deepcopy(model))
    monkeypatch.setattr(setup, "load_tokenizer", lambda *args, **kwargs: shipped[1])
    monkeypatch.setattr(loop, "save_progress", lambda *args: None)
    recipe = load_recipe(path_of(method), TINY)
    assert plan(recipe)["note"] is None
    loop.train(recipe, run_dir=tmp_path / "run")
    (metrics,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < metrics["reward/right"] < 1, "choose a seed whose groups teach something"
    assert math.isfinite(metrics["loss"])
    assert metrics["grad_norm"] > 0
    assert any(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_hidden_states_need_the_fused_head():
    recipe = recipe_of("hidden_align")
    plain = recipe.model_copy(update={"model": recipe.model.model_copy(update={"head": "plain"})})
    chain = credit_chain(recipe)
    check_chain(recipe, chain)
    with pytest.raises(InputError, match=r"model\.head = 'fused'"):
        check_chain(plain, chain)
