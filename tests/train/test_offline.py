"""Training on recorded answers: the step it makes, batches, resume, and mistakes."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from test_loop import logged, weights, write
from typer.testing import CliRunner

from forkpoint import cli
from forkpoint.errors import InputError
from forkpoint.model import load_model
from forkpoint.train import gather
from forkpoint.train.loop import train
from forkpoint.train.offline import Offline, check_same, completed, load_offline, offline_batch
from forkpoint.train.policy import forward_rows
from forkpoint.train.recipe import load_recipe
from forkpoint.train.setup import column_context, load_policy, make_task

SMALL = ["train.prompts=2", "train.mini_prompts=2", "eval.before=false", "eval.after=false", "eval.every=0"]
GROUPS = [
    {"prompt": "1 + 1 =", "completions": ["2", "yes 3 a"], "rewards": [1, 0]},
    {"prompt": "2 + 2 =", "completions": ["4 b", "5", "c c"], "rewards": [1, 0, 0]},
    {"prompt": "3 + 3 =", "completions": ["6", "7 d"], "rewards": [1, 0]},
]
CONTRAST = 'credit={method="reasonmaxxer", threshold=0.1}'


def jsonl(folder, rows=GROUPS, name="answers.jsonl"):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def loaded(folder, *overrides, rows=GROUPS):
    recipe = load_recipe(write(folder), [*SMALL, *overrides])
    policy = load_policy(recipe)
    return load_offline(jsonl(folder, rows), recipe, policy, make_task(recipe).judge), recipe, policy


def test_an_offline_step_is_the_step_that_the_run_made_of_its_own_answers(tmp_path):
    path = write(tmp_path)
    once = ["train.steps=1", "train.mini_prompts=4", "train.micro_tokens=10000", "credit.method=dapo", *SMALL[2:]]
    train(load_recipe(path, once), run_dir=tmp_path / "sampled")
    train(load_recipe(path, once), run_dir=tmp_path / "offline", offline=tmp_path / "sampled")
    one, two = weights(tmp_path / "sampled"), weights(tmp_path / "offline")
    start = load_model(tmp_path / "model").state_dict()
    assert any(not torch.equal(one[name], start[name]) for name in start if name in one)
    # AdamW's first step is a sign, which rounding can turn where a gradient is 0; its first moment is the gradient.
    moments = [name for name in one if name.endswith("exp_avg")]
    assert moments
    for name in moments:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-6)
    about = json.loads((tmp_path / "offline" / "recipe.json").read_text())["recipe"]["offline"]
    assert (about["answers"], about["problems"]) == (24, 4)


def test_contrast_raises_right_answers_and_lowers_wrong_ones(tmp_path, capsys):
    recipe = load_recipe(write(tmp_path), [*SMALL, "train.steps=20", "train.lr=1e-2", "train.warmup=2", CONTRAST])
    data = jsonl(tmp_path)
    train(recipe, run_dir=tmp_path / "run", offline=data)
    rollouts = loaded(tmp_path)[0].rollouts
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    after = forward_rows(load_model(newest), rollouts).logp_BT.detach()
    decides_BT = rollouts.mask_BT & (rollouts.entropy_BT > 0.1)
    moved_B = torch.where(decides_BT, after - rollouts.logp_BT, 0.0).sum(1)
    right_B = rollouts.reward_B > 0
    assert bool((moved_B[right_B] > 0).all())
    assert bool((moved_B[~right_B] < 0).all())
    losses = [row["loss"] for row in logged(tmp_path / "run")]
    assert losses[-1] < losses[0]
    said = capsys.readouterr().out
    assert "7 answers to 3 problems" in said
    assert "log-probs and entropies that were not recorded are those of the model the run starts from" in said


@pytest.mark.parametrize("method", [CONTRAST, "credit.method=forking"])
def test_a_run_cut_short_and_resumed_ends_with_the_same_weights(tmp_path, method):
    path, data = write(tmp_path), jsonl(tmp_path)
    options = [*SMALL, method]
    train(load_recipe(path, [*options, "train.steps=5"]), run_dir=tmp_path / "whole", offline=data)
    train(load_recipe(path, [*options, "train.steps=2"]), run_dir=tmp_path / "cut", offline=data)
    train(load_recipe(path, [*options, "train.steps=5"]), run_dir=tmp_path / "cut", offline=data, resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert [row["step"] for row in logged(tmp_path / "cut")] == [1, 2, 3, 4, 5]


def test_a_run_is_resumed_with_the_answers_it_began_with(tmp_path):
    path, data = write(tmp_path), jsonl(tmp_path)
    options = [*SMALL, CONTRAST, "train.steps=1"]
    train(load_recipe(path, options), run_dir=tmp_path / "run", offline=data)
    recipe = load_recipe(path, [*options[:-1], "train.steps=2"])
    for other in (None, jsonl(tmp_path, GROUPS[:2], "fewer.jsonl")):
        with pytest.raises(InputError, match=r"learned from the answers of .*answers\.jsonl, and this command gives"):
            train(recipe, run_dir=tmp_path / "run", offline=other, resume=True)
    check_same(tmp_path / "nowhere", None)


def test_every_pass_reads_every_group_once_and_no_batch_one_twice(tmp_path):
    rows = [{**GROUPS[k % 3], "prompt_id": f"p{k}"} for k in range(7)]
    offline, recipe, policy = loaded(tmp_path, rows=rows)
    seen = [
        [p.id for p in offline_batch(offline, recipe, step, policy.device).rollouts.prompts] for step in range(1, 9)
    ]
    for passed in (seen[:3], seen[3:6]):
        assert len({name for batch in passed for name in batch}) == 6
    assert seen[:3] != seen[3:6]
    again = offline_batch(offline, recipe, 5, policy.device)
    assert [p.id for p in again.rollouts.prompts] == seen[4]
    assert again.metrics["offline/passes"] == pytest.approx(4 / 3)
    assert "reward/right" not in again.metrics
    rollouts = again.rollouts
    texts = {row["prompt_id"]: row["completions"] for row in rows}
    for row in range(rollouts.rows):
        prompt = rollouts.prompts[int(rollouts.group_B[row])]
        assert rollouts.text[row] == texts[prompt.id][int(rollouts.sample_B[row])]


def test_what_was_not_recorded_is_the_models(tmp_path):
    offline, _, policy = loaded(tmp_path)
    rollouts = offline.rollouts
    words = policy.tokenizer
    for row in range(rollouts.rows):
        prompt = words(rollouts.prompts[int(rollouts.group_B[row])].text)["input_ids"]
        ids = [*words(rollouts.text[row])["input_ids"], words.eos_token_id]
        assert rollouts.ids_BT[row][rollouts.mask_BT[row]].tolist() == ids
        logits = policy.model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].detach()
        logp = logits.log_softmax(-1)
        size = len(ids)
        torch.testing.assert_close(rollouts.logp_BT[row, :size], logp.gather(1, torch.tensor(ids)[:, None])[:, 0])
        torch.testing.assert_close(rollouts.entropy_BT[row, :size], -(logp.exp() * logp).sum(1))
    assert rollouts.entropy_kind == "rescored"


def test_recorded_values_stay_and_bounds_do_not(tmp_path):
    offline, _, policy = loaded(tmp_path)
    true = offline.rollouts
    moved = dataclasses.replace(true, logp_BT=true.logp_BT - 0.25, entropy_BT=true.entropy_BT / 2)
    whole, told = completed(dataclasses.replace(moved, entropy_kind="exact"), policy, temperature=1.0)
    assert torch.equal(whole.logp_BT, moved.logp_BT)
    assert torch.equal(whole.entropy_BT, moved.entropy_BT)
    assert told.startswith("recorded log-probs differ from that model's by 0.25 nats a token (7 answers compared")
    whole, _ = completed(dataclasses.replace(moved, entropy_kind="lower-bound"), policy, temperature=1.0)
    torch.testing.assert_close(whole.entropy_BT, true.entropy_BT)
    assert torch.equal(whole.logp_BT, moved.logp_BT)
    gaps = moved.logp_BT.clone()
    gaps[1, 0] = math.nan
    whole, told = completed(dataclasses.replace(moved, logp_BT=gaps, entropy_kind="exact"), policy, temperature=1.0)
    torch.testing.assert_close(whole.logp_BT[1, 0], true.logp_BT[1, 0])
    assert float(whole.logp_BT[1, 1]) == float(moved.logp_BT[1, 1])
    assert told.startswith("log-probs that were not recorded")


def test_columns_of_every_batch_are_those_of_the_weights_that_the_run_starts_from(tmp_path):
    recipe = load_recipe(write(tmp_path), SMALL)
    policy = load_policy(recipe)
    offline = load_offline(
        jsonl(tmp_path), recipe, policy, make_task(recipe).judge,
        columns=column_context(recipe, policy), needs={"collision", "reward"},
    )  # fmt: skip
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(2.0)
    batch = offline_batch(offline, recipe, 1, policy.device).rollouts
    start = load_model(tmp_path / "model")
    words = policy.tokenizer
    for row in range(batch.rows):
        prompt = words(batch.prompts[int(batch.group_B[row])].text)["input_ids"]
        ids = batch.ids_BT[row][batch.mask_BT[row]].tolist()
        p = start(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].softmax(-1).detach()
        torch.testing.assert_close(batch.extra["collision"][row, : len(ids)], p.square().sum(-1))
    assert set(batch.extra) == {"collision"}


def test_columns_reach_the_chain_of_a_run(tmp_path, monkeypatch):
    """The second step's batch carries what the first weights said, not what the weights of the moment say."""
    seen = []

    def watching(offline, recipe, step, device):
        batch = offline_batch(offline, recipe, step, device)
        seen.append(batch.rollouts.extra["proxy_logp"])
        return batch

    monkeypatch.setattr(gather, "offline_batch", watching)
    options = [*SMALL, "train.steps=2", "credit.method=lp_reg"]
    train(load_recipe(write(tmp_path), options), run_dir=tmp_path / "run", offline=jsonl(tmp_path))
    assert len(seen) == 2
    assert all(part.shape[1] > 1 for part in seen)


def test_answers_without_a_reward_are_judged(tmp_path):
    rows = [
        {"prompt": f"{i} + 1 =", "answer": str(i + 1), "completions": [str(i + 1), "9 9", "so 0"]} for i in range(3)
    ]
    offline, _, _ = loaded(tmp_path, rows=rows)
    assert offline.rollouts.reward_B.tolist() == [1, 0, 0] * 3
    assert [str(v) for v in offline.rollouts.verdicts] == ["right", "wrong", "wrong"] * 3


def test_groups_without_contrast_are_left_out_unless_asked_for(tmp_path):
    same = {"prompt": "4 + 4 =", "completions": ["8", "8 a"], "rewards": [1, 1]}
    offline, _, _ = loaded(tmp_path, "train.dynamic_sampling=true", rows=[*GROUPS, same])
    assert len(offline.rollouts.prompts) == 3
    assert "1 more left out because their answers all earn the same" in offline.note
    offline, _, _ = loaded(tmp_path, "train.dynamic_sampling=false", rows=[*GROUPS, same])
    assert len(offline.rollouts.prompts) == 4
    with pytest.raises(InputError, match="no contrast to learn from: record several"):
        loaded(tmp_path, "train.dynamic_sampling=true", rows=[same])


def test_too_few_problems_are_told_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match=r"train\.prompts = 4, and .* has 3 problems to learn from .*: lower"):
        loaded(tmp_path, "train.prompts=4")
    with pytest.raises(InputError, match=r"every prompt is longer than prompt\.max_tokens"):
        loaded(tmp_path, "prompt.max_tokens=2", "prompt.overlong=drop")


def test_answers_sampled_in_another_way_are_refused(tmp_path):
    path = write(tmp_path)
    train(load_recipe(path, [*SMALL, "train.steps=1", "decode.temperature=0.5"]), run_dir=tmp_path / "cold")
    with pytest.raises(InputError, match=r"sampled with decode\.temperature = 0\.5, and the recipe has 1\.0.*add"):
        train(load_recipe(path, SMALL), run_dir=tmp_path / "run", offline=tmp_path / "cold")
    assert not (tmp_path / "run").exists()


def test_the_command_says_what_it_reads_and_refuses_contradictions(tmp_path):
    path, data = write(tmp_path), jsonl(tmp_path)
    call = ["train", str(path), *SMALL, CONTRAST, "train.steps=1", "--runs", str(tmp_path), "--offline", str(data)]
    done = CliRunner().invoke(cli.app, call)
    assert done.exit_code == 0, done.stderr
    assert "offline: 7 answers to 3 problems" in done.stdout
    assert (tmp_path / "toy" / "report.html").is_file()
    done = CliRunner().invoke(cli.app, [*call, "--dry-run"])
    assert done.exit_code == 2
    assert "give one" in done.stderr
    done = CliRunner().invoke(cli.app, [*call[:-1], str(tmp_path / "nowhere"), "--fresh"])
    assert done.exit_code == 2
    assert "nowhere does not exist: name a run directory" in done.stderr
    assert not (tmp_path / "toy.1").exists()
    assert isinstance(loaded(tmp_path)[0], Offline)
