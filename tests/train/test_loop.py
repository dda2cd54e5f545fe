"""Whole runs: what they leave behind, kill and resume, refusals."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forkpoint.errors import InputError, TrainingError
from forkpoint.train.loop import train
from forkpoint.train.recipe import load_recipe
from tiny import save

RECIPE = """
name = "toy"
seed = 3
[model]
path = "{model}"
device = "cpu"
threads = 1
[task]
name = "data"
train = "{data}"
heldout = "{heldout}"
verifier = "exact"
extraction = "number"
[prompt]
template = "none"
[decode]
max_tokens = 12
[train]
steps = 4
prompts = 4
group = 6
mini_prompts = 2
micro_tokens = 60
lr = 1e-3
dynamic_sampling = false
[eval]
every = 2
problems = 4
samples = 2
[checkpoint]
every = 1
keep = 2
[credit]
method = "{method}"
"""


def write(folder: Path, method: str = "forking", **changes) -> Path:
    save(folder / "model")
    rows = [{"question": f"{i} + 1 =", "answer": str(i + 1)} for i in range(9)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows[:6])))
    (folder / "heldout.jsonl").write_text("\n".join(map(json.dumps, rows[6:])))
    text = RECIPE.format(
        model=folder / "model", data=folder / "train.jsonl", heldout=folder / "heldout.jsonl", method=method
    )
    (folder / "toy.toml").write_text(text)
    return folder / "toy.toml"


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    newest = sorted((run_dir / "checkpoints").glob("step-*"))[-1]
    return load_file(newest / "model.safetensors") | {
        f"trainer/{name}": value for name, value in load_file(newest / "trainer.safetensors").items()
    }


def logged(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_files(tmp_path):
    result = train(load_recipe(write(tmp_path)), run_dir=tmp_path / "run")
    assert result.steps == 4
    assert result.before is not None
    assert result.after is not None
    assert result.after["step"] == 4
    names = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*.parquet")}
    assert names == {f"rollouts/step-{k:05d}.parquet" for k in (1, 2, 3, 4)} | {
        f"evals/step-{k:05d}.parquet" for k in (0, 2, 4)
    }
    rows = logged(tmp_path / "run")
    assert [row["step"] for row in rows if "reward/mean" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [0, 2, 4]
    for row in rows:
        if "reward/mean" in row:
            assert row["credit/share"] == pytest.approx(0.2, abs=0.02)
            assert row["cost/statistics_tokens"] > 0
            assert {"time/decode", "time/verify", "time/update", "entropy/mean", "grad_norm"} <= set(row)
    about = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert [link["link"] for link in about["chain"]][-1] == "top_entropy"
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step-00003", "step-00004"]


def test_rollout_files_say_which_tokens_learned(tmp_path):
    import pyarrow.parquet as pq

    train(load_recipe(write(tmp_path), ["train.steps=1"]), run_dir=tmp_path / "run")
    rows = pq.read_table(tmp_path / "run" / "rollouts" / "step-00001.parquet").to_pylist()
    assert len(rows) == 24
    kept = sum(sum(row["kept"]) for row in rows)
    total = sum(len(row["ids"]) for row in rows)
    # Two updates, each with exactly ceil(0.2 n) tokens.
    assert total / 5 <= kept <= total / 5 + 2
    for row in rows:
        assert len(row["ids"]) == len(row["tokens"]) == len(row["logp"]) == len(row["entropy"]) == len(row["kept"])
        assert all(k or c == 0 for k, c in zip(row["kept"], row["credit"], strict=True))


def test_two_runs_of_one_recipe_are_the_same_run(tmp_path):
    recipe = load_recipe(write(tmp_path))
    train(recipe, run_dir=tmp_path / "a")
    train(recipe, run_dir=tmp_path / "b")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    train(load_recipe(tmp_path / "toy.toml", ["seed=4"]), run_dir=tmp_path / "c")
    c = weights(tmp_path / "c")
    assert any(not torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_cut_short_and_resumed_ends_with_the_same_weights(tmp_path, stop):
    path = write(tmp_path)
    train(load_recipe(path), run_dir=tmp_path / "whole")
    train(load_recipe(path, [f"train.steps={stop}"]), run_dir=tmp_path / "cut")
    train(load_recipe(path), run_dir=tmp_path / "cut", resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from forkpoint.train.loop import train
    from forkpoint.train.recipe import load_recipe
    train(load_recipe(sys.argv[1]), run_dir=Path(sys.argv[2]), resume=True)
    """
)


@pytest.mark.parametrize("moment", ["metrics", "saving"])
def test_sigkill_at_a_bad_moment_and_resume(tmp_path, moment):
    """The process is killed as it logs step 3, or in the middle of saving checkpoint 3; then it is resumed."""
    path = write(tmp_path)
    train(load_recipe(path), run_dir=tmp_path / "whole")
    sign = {
        "metrics": "'\"step\": 3' in open(log).read()",
        "saving": "os.path.exists(os.path.join(run, 'checkpoints', '.tmp-step-00003'))",
    }[moment]
    killer = textwrap.dedent(
        f"""
        import os, signal, sys, threading, time
        run = sys.argv[2]; log = os.path.join(run, "metrics.jsonl")
        def watch():
            while True:
                if os.path.exists(log) and ({sign}):
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.0005)
        threading.Thread(target=watch, daemon=True).start()
        """
    )
    command = [sys.executable, "-c", killer + SCRIPT, str(path), str(tmp_path / "killed")]
    died = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (tmp_path / "killed" / "checkpoints" / "step-00004").exists()
    train(load_recipe(path), run_dir=tmp_path / "killed", resume=True)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    steps = [row["step"] for row in logged(tmp_path / "killed") if "reward/mean" in row]
    assert steps == [1, 2, 3, 4]


@pytest.mark.slow
def test_sigkill_at_random_moments(tmp_path):
    """Killed again and again after random times, the run still ends with the weights of one left alone."""
    path = write(tmp_path)
    train(load_recipe(path), run_dir=tmp_path / "whole")
    command = [sys.executable, "-c", SCRIPT, str(path), str(tmp_path / "killed")]
    finished = tmp_path / "killed" / "checkpoints" / "step-00004"
    kills = 0
    for round_ in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        began = time.monotonic()
        limit = 3.0 + 0.37 * round_
        while process.poll() is None and time.monotonic() - began < limit:
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        assert process.returncode in (0, -signal.SIGKILL), process.stderr.read().decode()
        if process.returncode == 0 and finished.exists():
            break
    assert kills >= 2
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "gspo", "cispo", "entropy_bonus"])
def test_the_methods_of_every_denominator_and_ratio_train(tmp_path, method):
    train(
        load_recipe(write(tmp_path, method), ["train.steps=1", "eval.before=false", "eval.after=false"]),
        run_dir=tmp_path / "run",
    )
    row = logged(tmp_path / "run")[-1]
    assert row["loss"] == row["loss"]
    assert row["grad_norm"] > 0
    assert row["credit/share"] == 1.0


@pytest.mark.parametrize("extra", [[], ["reference.path={model}"], ["model.lora.rank=2"]])
def test_kl_to_a_reference(tmp_path, extra):
    path = write(tmp_path, "grpo")
    extra = [text.format(model=tmp_path / "model") for text in extra]
    common = ["train.steps=2", "eval.before=false", "eval.after=false", *extra]
    train(load_recipe(path, common), run_dir=tmp_path / "free")
    train(load_recipe(path, [*common, "credit.kl_coefficient=5.0"]), run_dir=tmp_path / "held")
    free, held = logged(tmp_path / "free")[-1], logged(tmp_path / "held")[-1]
    assert held["time/score"] > 0
    assert free["time/score"] == 0
    # The first update starts at the reference, where the KL has no gradient; the second does not.
    assert logged(tmp_path / "free")[0]["loss"] != held["loss"]
    assert free["loss"] != held["loss"]


def test_lora_trains_the_adapters_alone_and_resumes(tmp_path):
    path = write(tmp_path)
    # Dropout is the one draw that torch makes: it too must be the same after a resume.
    lora = ["model.lora.rank=2", "model.lora.dropout=0.2"]
    train(load_recipe(path, lora), run_dir=tmp_path / "whole")
    train(load_recipe(path, [*lora, "train.steps=2"]), run_dir=tmp_path / "cut")
    train(load_recipe(path, lora), run_dir=tmp_path / "cut", resume=True)
    whole, cut = (
        load_file(tmp_path / name / "checkpoints" / "step-00004" / "adapter_model.safetensors")
        for name in ("whole", "cut")
    )
    assert whole.keys() == cut.keys()
    assert all("lora" in name for name in whole)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert any(value.abs().max() > 0 for name, value in whole.items() if "lora_B" in name)


def test_bfloat16_products_keep_float32_weights(tmp_path):
    train(load_recipe(write(tmp_path), ["model.dtype=bfloat16", "train.steps=1"]), run_dir=tmp_path / "run")
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "run").values())


def test_an_existing_run_is_not_overwritten(tmp_path):
    recipe = load_recipe(write(tmp_path), ["train.steps=1"])
    train(recipe, run_dir=tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="--resume"):
        train(recipe, run_dir=tmp_path / "run")
    train(recipe, run_dir=tmp_path / "run", fresh=True)
    assert (tmp_path / "run.1" / "metrics.jsonl").read_bytes() == before


def test_resuming_with_another_method_is_refused(tmp_path):
    path = write(tmp_path)
    train(load_recipe(path, ["train.steps=1"]), run_dir=tmp_path / "run")
    with pytest.raises(InputError, match="another credit chain"):
        train(load_recipe(path, ["credit.method=dapo"]), run_dir=tmp_path / "run", resume=True)


def test_a_resumed_run_names_the_settings_that_changed(tmp_path, capsys):
    path = write(tmp_path)
    train(load_recipe(path, ["train.steps=1"]), run_dir=tmp_path / "run")
    capsys.readouterr()
    train(load_recipe(path, ["train.steps=1"]), run_dir=tmp_path / "run", resume=True)
    assert "another setting" not in capsys.readouterr().out
    train(load_recipe(path, ["train.steps=2", "train.lr=0.25"]), run_dir=tmp_path / "run", resume=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if "another setting" in line]
    assert [line.partition(": ")[2].split(":")[0] for line in lines] == ["train.lr", "train.steps"]
    assert lines[0].endswith("-> 0.25")
    assert lines[1].endswith("1 -> 2")
    (tmp_path / "run" / "recipe.json").write_text("[]")
    train(load_recipe(path, ["train.steps=3"]), run_dir=tmp_path / "run", resume=True)


def test_a_tokenizer_without_end_token_is_refused(tmp_path):
    path = write(tmp_path)
    save(tmp_path / "model", eos=False, eos_token_id=None)
    with pytest.raises(InputError, match="no end token"):
        train(load_recipe(path), run_dir=tmp_path / "run")


def test_damaged_weights_end_in_one_sentence_and_what_was_written_stays(tmp_path):
    from safetensors.torch import save_file

    path = write(tmp_path)
    file = tmp_path / "model" / "model.safetensors"
    damaged = load_file(file)
    damaged["model.norm.weight"][0] = float("nan")
    save_file(damaged, file, metadata={"format": "pt"})
    with pytest.raises(
        TrainingError, match=r"step 1: .*problem '.*', sample \d \(row \d+\), answer token 0.*step 0 is intact"
    ):
        train(load_recipe(path, ["eval.before=false"]), run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "recipe.json").is_file()


def test_a_bad_update_keeps_the_batch_and_the_checkpoint(tmp_path, monkeypatch):
    import forkpoint.train.loop as module

    real = module.learn

    def broken(*args, step, **kwargs):
        if step == 2:
            raise TrainingError("the logits are not finite for problem 'x'")
        return real(*args, step=step, **kwargs)

    monkeypatch.setattr(module, "learn", broken)
    with pytest.raises(TrainingError, match=r"step 2: the logits .*rollouts/step-00002.parquet .*checkpoint is intact"):
        train(load_recipe(write(tmp_path)), run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "rollouts" / "step-00002.parquet").is_file()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00001"]
    assert [row["step"] for row in logged(tmp_path / "run") if "reward/mean" in row] == [1]


def test_a_mistake_in_the_recipe_does_not_move_an_old_run_aside(tmp_path):
    path = write(tmp_path)
    train(load_recipe(path, ["train.steps=1"]), run_dir=tmp_path / "run")
    save(tmp_path / "model", eos=False, eos_token_id=None)
    with pytest.raises(InputError, match="no end token"):
        train(load_recipe(path), run_dir=tmp_path / "run", fresh=True)
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
    assert not (tmp_path / "run.1").exists()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_the_first_update_sees_the_policy_that_sampled(tmp_path, temperature):
    """Ratio 1 at every temperature and cut: both sides measure softmax(logits / temperature) in full."""
    sampling = [f"decode.temperature={temperature}", "decode.top_p=0.9", "decode.top_k=8", 'decode.stop=["yes"]']
    one_update = ["train.steps=1", "train.mini_prompts=4", "eval.before=false", "eval.after=false"]
    train(load_recipe(write(tmp_path), [*sampling, *one_update]), run_dir=tmp_path / "run")
    row = logged(tmp_path / "run")[-1]
    assert row["kl/behaviour"] < 1e-9
    assert row["ratio/clipped"] == 0
    import pyarrow.parquet as pq

    answers = pq.read_table(tmp_path / "run" / "rollouts" / "step-00001.parquet").to_pylist()
    ended = [row for row in answers if row["finish"] == "stop"]
    assert ended
    assert all(row["tokens"][-1].strip() in ("yes", "<end>") for row in ended)
    assert all("yes" not in "".join(row["tokens"][:-1]) for row in answers)


def test_overlong_answers_are_punished_in_a_run(tmp_path):
    quick = ["train.steps=1", "eval.before=false", "eval.after=false", "reward.overlong_buffer=8"]
    train(load_recipe(write(tmp_path), quick), run_dir=tmp_path / "run")
    row = logged(tmp_path / "run")[-1]
    assert -1 <= row["reward/overlong"] < 0
    assert row["reward/mean"] == pytest.approx(row["reward/answer"] + row["reward/overlong"], abs=1e-6)
