"""One update of a real model by every method, and refusals of what the engine does not record."""

from __future__ import annotations

import dataclasses
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
from forkpoint.rollouts import Forward, Prompt, blank_credit
from forkpoint.train import policy as policy_module
from forkpoint.train.policy import forward_rows
from forkpoint.train.recipe import credit_chain, load_recipe
from forkpoint.train.setup import RECORDED, check_chain
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


def recipe_of(method):
    places = [ROOT / "recipes" / folder / f"{method}.toml" for folder in ("methods", "countdown")]
    return load_recipe(next(place for place in places if place.exists()))


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


UNMET = {name: sorted(METHODS_NEEDS - RECORDED) for name in METHODS
         if (METHODS_NEEDS := credit_chain(recipe_of(name)).needs) - RECORDED}  # fmt: skip


@pytest.mark.parametrize("method", UNMET)
def test_what_the_engine_does_not_record_is_refused_by_name_before_the_run(method):
    recipe = recipe_of(method)
    with pytest.raises(InputError, match=f"needs '({'|'.join(UNMET[method])})'.*does not record"):
        check_chain(recipe, credit_chain(recipe))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in UNMET])
def test_what_the_engine_records_is_accepted(method):
    recipe = recipe_of(method)
    check_chain(recipe, credit_chain(recipe))


def test_hidden_states_need_the_fused_head():
    recipe = recipe_of("hidden_align")
    plain = recipe.model_copy(update={"model": recipe.model.model_copy(update={"head": "plain"})})
    links = [link for link in credit_chain(recipe).links if "anchor" not in link.needs]
    chain = dataclasses.replace(credit_chain(recipe), links=tuple(links))
    check_chain(plain, chain)
    needy = dataclasses.replace(links[0], needs=frozenset({"forward_hidden"}))
    with pytest.raises(InputError, match=r"model\.head = 'fused'"):
        check_chain(plain, dataclasses.replace(chain, links=(needy,)))
