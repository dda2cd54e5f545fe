"""Runs with `decode.engine = "vllm"`: weights that follow the policy, entropies that say what they are.

Run against the stand-in of `vllm_double`, never against vLLM itself.
"""

import dataclasses
import json
import math

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import vllm_double
from forkpoint import cli
from forkpoint.analyze.rundata import read_run
from forkpoint.credit import chain, group_advantage, top_entropy
from forkpoint.credit.link import credit_of
from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import Engine, sample_rollouts
from forkpoint.decode.vllm import open_vllm
from forkpoint.errors import InputError
from forkpoint.rollouts import Prompt
from forkpoint.train.loop import train
from forkpoint.train.measure import evaluate_model
from forkpoint.train.recipe import load_recipe
from forkpoint.train.rescore import passes, rescored
from tiny import qwen3, save, tokenizer

RECIPE = """
name = "toy"
seed = 3
[model]
path = "{folder}/model"
device = "cpu"
threads = 1
[task]
name = "data"
train = "{folder}/train.jsonl"
heldout = "{folder}/heldout.jsonl"
verifier = "exact"
extraction = "number"
[prompt]
template = "none"
max_tokens = 40
[decode]
max_tokens = 10
[train]
steps = 2
prompts = 4
group = 4
mini_prompts = 2
lr = 3e-2
dynamic_sampling = false
[eval]
every = 0
problems = 3
samples = 2
[checkpoint]
every = 1
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    vllm_double.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model")
    rows = [{"question": f"{i} + 1 =", "answer": str(i + 1)} for i in range(9)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows[:6])))
    (tmp_path / "heldout.jsonl").write_text("\n".join(map(json.dumps, rows[6:])))
    (tmp_path / "toy.toml").write_text(RECIPE.format(folder=tmp_path))
    return tmp_path / "toy.toml"


def logged(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def kinds(run_dir):
    return {kind for path in run_dir.rglob("*.parquet") for kind in pq.read_table(path)["entropy_kind"].to_pylist()}


def test_the_command_reaches_vllm_and_its_weights_follow_the_policy(recipe, tmp_path):
    done = CliRunner().invoke(cli.app, ["train", str(recipe), "decode.engine=vllm"])
    assert done.exit_code == 0, done.output
    run_dir = tmp_path / "runs" / "toy"
    steps = [row for row in logged(run_dir) if "reward/mean" in row]
    assert len(steps) == 2
    for row in steps:
        # Stale weights would be far from the policy's after an update at this learning rate.
        assert 0 <= row["decode/mismatch"] < 1e-5
        assert row["entropy/mean"] > 0
        assert row["time/refresh"] > 0
        assert row["time/rescore"] > 0
        assert "entropy_lower_bound/mean" not in row
    assert kinds(run_dir) == {"rescored"}
    assert all(row["eval/entropy"] > 0 for row in logged(run_dir) if "eval/accuracy" in row)
    llm = vllm_double.LLM.latest
    assert llm.arguments["max_model_len"] == 50
    assert llm.arguments["logprobs_mode"] == "raw_logprobs"
    table = pq.read_table(run_dir / "rollouts" / "step-00002.parquet")
    assert set(table["version"].to_pylist()) == {2}
    # The evaluation after the last step looked at the last weights.
    last = load_file(run_dir / "checkpoints" / "step-00002" / "model.safetensors")
    assert all(torch.equal(last[name], weight) for name, weight in llm.model.named_parameters())


def test_weights_that_are_not_sent_show(recipe, monkeypatch):
    real = open_vllm

    def forgetful(*args, **kwargs):
        engine = real(*args, **kwargs)
        calls = []
        return dataclasses.replace(engine, refresh=lambda model: calls or calls.append(engine.refresh(model)))

    monkeypatch.setattr("forkpoint.decode.vllm.open_vllm", forgetful)
    run_dir = recipe.parent / "stale"
    train(load_recipe(recipe, ["decode.engine=vllm", "eval.before=false", "eval.after=false"]), run_dir=run_dir)
    first, second = [row["decode/mismatch"] for row in logged(run_dir)]
    assert first < 1e-5
    assert second > 1e-2


def test_a_resumed_run_sends_the_weights_it_loads(recipe, tmp_path):
    settings = ["decode.engine=vllm", "eval.before=false"]
    train(load_recipe(recipe, settings), run_dir=tmp_path / "whole")
    train(load_recipe(recipe, [*settings, "train.steps=1"]), run_dir=tmp_path / "parts")
    train(load_recipe(recipe, settings), run_dir=tmp_path / "parts", resume=True)
    files = [pq.read_table(tmp_path / name / "rollouts" / "step-00002.parquet") for name in ("whole", "parts")]
    assert files[0].equals(files[1])


def test_adapters_reach_vllm_merged(recipe, tmp_path):
    settings = ["decode.engine=vllm", "model.lora.rank=4", "eval.before=false", "eval.after=false"]
    train(load_recipe(recipe, settings), run_dir=tmp_path / "lora")
    assert [row["decode/mismatch"] < 1e-5 for row in logged(tmp_path / "lora")] == [True, True]


def test_bounds_go_by_another_name_everywhere(recipe, tmp_path):
    settings = ["decode.engine=vllm", "decode.rescore=false", "decode.top_logprobs=4", "credit.method=grpo"]
    train(load_recipe(recipe, settings), run_dir=tmp_path / "bounds")
    for row in logged(tmp_path / "bounds"):
        assert not any(name.startswith("entropy/") or name in ("eval/entropy", "decode/mismatch") for name in row)
        assert row.get("entropy_lower_bound/mean", row.get("eval/entropy_lower_bound")) > 0
        assert math.isnan(row["credit/threshold"] or math.nan) if "reward/mean" in row else True
    assert kinds(tmp_path / "bounds") == {"lower-bound"}
    assert any("Entropies here are lower bounds" in note for note in read_run(tmp_path / "bounds").notes)


def test_a_chain_that_reads_behaviour_entropies_refuses_bounds_before_the_run(recipe, tmp_path):
    settings = ["decode.engine=vllm", "decode.rescore=false", "credit.source=behaviour"]
    (tmp_path / "toy.toml").write_text(recipe.read_text() + '\n[credit]\nmethod = "forking"\n')
    with pytest.raises(InputError, match=r"of which vLLM only gives lower bounds: set decode.rescore = true"):
        train(load_recipe(recipe, settings), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    done = train(load_recipe(recipe, [*settings, "decode.rescore=true", "train.steps=1"]), run_dir=tmp_path / "run")
    assert done.steps == 1


def test_evaluation_alone_uses_vllm_too(recipe):
    settings = ["decode.engine=vllm", "eval.temperature=0.5"]
    ours, theirs = evaluate_model(load_recipe(recipe, settings[1:])), evaluate_model(load_recipe(recipe, settings))
    assert vllm_double.LLM.latest.arguments["logprobs_mode"] == "processed_logprobs"
    assert ours.rollouts.entropy_kind == "exact"
    assert theirs.rollouts.entropy_kind == "rescored"
    assert theirs.metrics()["eval/problems"] == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["decode.stop=['=']"], "decode.stop is not available with decode.engine = 'vllm'"),
        (["decode.temperature=0.7", "eval.top_p=0.7"], "only where every temperature (of [decode] and [eval])"),
        (["decode.vllm_memory=0.99"], "change decode.vllm_memory"),
    ],
)
def test_a_wrong_combination_is_one_sentence(recipe, tmp_path, settings, said):
    done = CliRunner().invoke(cli.app, ["train", str(recipe), "decode.engine=vllm", *settings])
    assert isinstance(done.exception, InputError) or done.exit_code == 2
    assert said in (str(done.exception) + done.output)
    assert not (tmp_path / "runs").exists()


def test_a_cpu_run_with_a_cuda_build_is_one_sentence(recipe, monkeypatch):
    vllm_double.install(monkeypatch, device_type="cuda")
    with pytest.raises(InputError, match="the policy is on cpu and this vLLM runs on cuda"):
        train(load_recipe(recipe, ["decode.engine=vllm"]), run_dir=recipe.parent / "run")


# Rescoring


@pytest.fixture
def pair():
    """Return the same answers with exact entropies and with bounds."""
    prompts = [Prompt(id=f"p{i}", text="x") for i in range(2)]
    sampling = Sampling(max_tokens=9, stop_ids=(1,), temperature=0.8)
    given = {"group": 4, "stream": (0, "train")}
    exact = sample_rollouts(qwen3(), tokenizer(), prompts, [[3, 4], [5, 6, 7]], sampling, **given)
    bounds = dataclasses.replace(exact, entropy_BT=exact.entropy_BT * 0.5, entropy_kind="lower-bound")
    return exact, bounds


@pytest.mark.parametrize("pass_tokens", [16384, 20, 1])
def test_rescoring_gives_the_entropies_and_keeps_the_log_probs(pair, monkeypatch, pass_tokens):
    monkeypatch.setattr("forkpoint.train.rescore.PASS_TOKENS", pass_tokens)
    exact, bounds = pair
    model = qwen3().train()
    found, gap = rescored(model, bounds, temperature=0.8)
    assert found.entropy_kind == "rescored"
    torch.testing.assert_close(found.entropy_BT, exact.entropy_BT, atol=1e-5, rtol=0)
    assert found.logp_BT is bounds.logp_BT
    assert gap < 1e-5
    assert model.training
    assert not found.entropy_BT.requires_grad
    assert rescored(qwen3(seed=1), bounds, temperature=0.8)[1] > 0.1


def test_a_pass_holds_what_fits():
    assert passes([16384, 1, 16383, 2]) == [[0], [1, 2], [3]]
    assert passes([20000, 20000]) == [[0], [1]]


def test_links_on_behaviour_entropies_refuse_bounds(pair):
    exact, bounds = pair
    right = torch.arange(exact.rows) % 2
    told = {"reward_B": right.float(), "judged_B": torch.ones(exact.rows, dtype=torch.bool)}
    links = chain(group_advantage(), top_entropy(source="behaviour", share=0.3))
    assert credit_of(links, dataclasses.replace(exact, **told)).keep_BT.any()
    with pytest.raises(
        InputError, match=r"link 'top_entropy' reads behaviour entropies and these are only lower bounds"
    ):
        credit_of(links, dataclasses.replace(bounds, **told))


def test_the_embedded_engine_has_nothing_to_refresh(recipe, tmp_path):
    train(load_recipe(recipe, ["train.steps=1"]), run_dir=tmp_path / "plain")
    assert kinds(tmp_path / "plain") == {"exact"}
    assert not any("time/refresh" in row or "decode/mismatch" in row for row in logged(tmp_path / "plain"))
    assert Engine(decode=len).refresh is None
