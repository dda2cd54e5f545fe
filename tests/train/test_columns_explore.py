"""Rows sampled again at another temperature: what they record, whom they leave alone, and runs that resume."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from test_loop import logged, weights, write

from forkpoint.credit import chain, group_advantage, init
from forkpoint.credit.control import temperature_control
from forkpoint.credit.schedules import scheduled_chain
from forkpoint.decode.decoder import Sampling
from forkpoint.errors import InputError
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.tasks.task import Task
from forkpoint.train.collect import CollectSettings, collect
from forkpoint.train.columns_explore import asked_temperature, explored, own_rows
from forkpoint.train.loop import train
from forkpoint.train.policy import forward_rows
from forkpoint.train.recipe import load_recipe
from tiny import qwen3, tokenizer

WORDS = tokenizer()
MODEL = qwen3()
SAMPLING = Sampling(max_tokens=8, stop_ids=(1,), slots=64, temperature=0.9)
SETTINGS = CollectSettings(prompts=5, group=4, dynamic_sampling=False, overlong_buffer=3, seed=7)


def odd_length(prompts, texts):
    right = [len(text.split()) % 2 for text in texts]
    return [Judgement(verdict=Verdict.RIGHT if r else Verdict.WRONG, reward=float(r)) for r in right]


@pytest.fixture(scope="module")
def batch():
    task = Task(
        name="toy", train_prompt=lambda seed, at: Prompt(id=f"p{at}", text=" ".join(str(at + 10))), heldout=(),
        judge=odd_length,
    )  # fmt: skip
    return collect(
        MODEL, WORDS, task, lambda prompts: [WORDS(p.text)["input_ids"] for p in prompts], SAMPLING, SETTINGS,
        step=1, position=0, version=0,
    ).rollouts  # fmt: skip


def more(batch, **changes):
    arguments = {"share": 0.4, "temperature": 1.5, "step": 1, "version": 0} | changes
    return explored(MODEL, WORDS, odd_length, batch, SAMPLING, SETTINGS, **arguments)


def test_the_first_problems_are_sampled_again_behind_the_own_rows(batch):
    found, metrics = more(batch)
    assert found.rows == 20 + 8
    assert found.extra["explore"].tolist() == [False] * 20 + [True] * 8
    assert own_rows(found).tolist() == list(range(20))
    assert found.prompts == batch.prompts
    assert found.group_B[20:].tolist() == [0] * 4 + [1] * 4
    assert found.sample_B[20:].tolist() == [4, 5, 6, 7] * 2
    own = found.select(own_rows(found))
    for name in ("ids_BT", "logp_BT", "entropy_BT", "reward_B", "group_B", "prompt_BS"):
        assert torch.equal(getattr(own, name), getattr(batch, name))
    assert set(found.text[20:]) != set(found.text[:8])
    assert found.entropy_kind == batch.entropy_kind
    right = [len(text.split()) % 2 for text in found.text]
    assert metrics["explore/right"] == sum(right[20:]) / 8
    assert metrics["explore/temperature"] == 1.5
    assert metrics["tokens/explored"] == int(found.mask_BT[20:].sum())
    # Extra rows are judged and punished for their length as the others are.
    length_B = found.mask_BT.sum(1)
    expected_B = torch.tensor(right).float() - ((length_B - 5).clamp(min=0) / 3)
    torch.testing.assert_close(found.reward_B, expected_B)


@pytest.mark.parametrize(("share", "problems"), [(0.01, 1), (0.59, 2), (0.6, 3), (1.0, 5)])
def test_the_share_is_of_problems_and_at_least_one(share, problems, batch):
    assert more(batch, share=share)[0].rows == 20 + 4 * problems


def test_extra_rows_record_the_policy_at_its_own_temperature(batch):
    found, _ = more(batch, temperature=1.5)
    rows = torch.arange(20, 28)
    extra = found.select(rows)
    with torch.no_grad():
        own, hot = (forward_rows(MODEL, extra, temperature=t) for t in (0.9, 1.5))
    torch.testing.assert_close(extra.logp_BT, own.logp_BT)
    torch.testing.assert_close(extra.entropy_BT, own.entropy_BT)
    assert (own.logp_BT - hot.logp_BT).abs().max() > 0.01


def test_the_temperature_is_that_of_the_draws(batch):
    cold = more(batch, temperature=0.01, share=1.0)[0]
    extra = cold.select(torch.arange(20, cold.rows))
    greedy = [extra.ids_BT[extra.group_B == g].unique(dim=0).shape[0] for g in range(5)]
    assert greedy == [1] * 5


def test_draws_are_keyed_by_seed_and_step(batch):
    first, again, later = more(batch)[0], more(batch)[0], more(batch, step=2)[0]
    assert torch.equal(first.ids_BT, again.ids_BT)
    assert first.text[20:] != later.text[20:]


def test_parts_of_the_reward_are_those_of_the_batch(batch):
    def named(prompts, texts):
        return [dataclasses.replace(j, parts={"style": j.reward}) for j in odd_length(prompts, texts)]

    found, _ = explored(
        MODEL, WORDS, named, batch, SAMPLING, SETTINGS, share=0.2, temperature=1.5, step=1, version=0
    )  # fmt: skip
    assert set(found.reward_parts) == {"answer", "overlong"}
    assert not found.reward_parts["answer"][20:].any()


def test_the_chain_says_the_temperature():
    plain = chain(group_advantage(), temperature_control(high=1.3, low=0.7))
    states = init(plain)
    assert asked_temperature(plain, states) == 1.3
    states[1] = {**states[1], "temperature": 0.7}
    assert asked_temperature(plain, states) == 0.7
    moving = chain(scheduled_chain(temperature_control, target=lambda calls: 0.5 + calls), group_advantage())
    assert asked_temperature(moving, init(moving)) == 1.2


AEPO = "credit={method='aepo', target=1.6, high=1.4, low=0.5, measure='entropy'}"


def test_a_run_cut_short_and_resumed_ends_with_the_same_weights(tmp_path):
    path = write(tmp_path)
    train(load_recipe(path, [AEPO]), run_dir=tmp_path / "whole")
    train(load_recipe(path, [AEPO, "train.steps=2"]), run_dir=tmp_path / "cut")
    train(load_recipe(path, [AEPO]), run_dir=tmp_path / "cut", resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    a, b = ([r for r in logged(tmp_path / name) if "loss" in r] for name in ("whole", "cut"))
    assert [r["explore/temperature"] for r in a] == [r["explore/temperature"] for r in b]
    # The first batch asks for the high temperature; later ones follow the entropy that the one before had.
    asked = [r["explore/temperature"] for r in a]
    measured = [r["control/entropy"] for r in a]
    assert set(asked) == {1.4, 0.5}
    assert asked == [1.4, *(1.4 if h <= 1.6 else 0.5 for h in measured[:-1])]


def test_extra_rows_are_left_out_of_what_the_run_says_of_its_policy(tmp_path):
    path = write(tmp_path)
    steps = ["train.steps=1", "eval.before=false", "eval.after=false"]
    share = ["columns.explore_share=1.0"]
    train(load_recipe(path, [AEPO, *steps, *share]), run_dir=tmp_path / "more")
    train(load_recipe(path, ["credit.method=grpo", *steps]), run_dir=tmp_path / "plain")
    extra, plain = (logged(tmp_path / name)[0] for name in ("more", "plain"))
    for name in ("reward/mean", "length/mean", "entropy/mean", "entropy/p80", "entropy/positive", "tokens/decoded"):
        assert extra[name] == plain[name]
    assert extra["tokens/response"] == plain["tokens/response"] + extra["tokens/explored"]
    assert "tokens/explored" not in plain


def test_extra_rows_have_a_rollout_file_of_their_own(tmp_path):
    import pyarrow.parquet as pq

    train(load_recipe(write(tmp_path), [AEPO, "train.steps=2", "eval.before=false"]), run_dir=tmp_path / "run")
    own, extra = (
        pq.read_table(tmp_path / "run" / folder / "step-00001.parquet") for folder in ("rollouts", "explored")
    )
    assert (own.num_rows, extra.num_rows) == (24, 6)
    assert own["extra.explore"].to_pylist() == [False] * 24
    assert extra["extra.explore"].to_pylist() == [True] * 6
    assert extra["sample"].to_pylist() == list(range(6, 12))
    (tmp_path / "run" / "checkpoints" / "step-00002").rename(tmp_path / "gone")
    train(load_recipe(tmp_path / "toy.toml", [AEPO, "train.steps=1"]), run_dir=tmp_path / "run", resume=True)
    for folder in ("rollouts", "explored"):
        assert [path.name for path in (tmp_path / "run" / folder).iterdir()] == ["step-00001.parquet"]


def test_nothing_says_the_temperature_or_nothing_can_be_sampled_again(tmp_path):
    path = write(tmp_path)
    lonely = load_recipe(path, ["credit=[{link='explored_advantage'}, {link='clip'}]"])
    with pytest.raises(InputError, match=r"needs 'explore'.*add 'temperature_control'"):
        train(lonely, run_dir=tmp_path / "run")
    with pytest.raises(InputError, match=r"needs 'explore'.*leave out --offline"):
        train(load_recipe(path, [AEPO]), run_dir=tmp_path / "run", offline=Path("nowhere"))
    assert not (tmp_path / "run").exists()


def test_the_share_has_a_range(tmp_path):
    with pytest.raises(InputError, match=r"columns\.explore_share = 0\.0"):
        load_recipe(write(tmp_path), ["columns.explore_share=0.0"])


def test_the_recipe_json_has_the_share(tmp_path):
    train(load_recipe(write(tmp_path), [AEPO, "train.steps=1", "eval.before=false"]), run_dir=tmp_path / "run")
    about = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert about["recipe"]["columns"]["explore_share"] == 0.25
