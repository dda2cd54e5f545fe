"""A supervised run by file: run directory, resume, and its mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from forkpoint.errors import InputError
from forkpoint.train.coldstart import ColdStart, cold_start


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    words = {word: index for index, word in enumerate(["<pad>", "<end>", *"abcdef"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=8, eos_token_id=1, pad_token_id=0, **sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(tmp_path) -> str:
    path = tmp_path / "data.jsonl"
    rows = [
        {"prompt": "a b", "response": "c d"},
        {"prompt": "b c", "response": "d e f"},
        {"prompt": "c", "response": "d"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def settings(model: str, data: str, **other) -> ColdStart:
    return ColdStart(
        **{
            "model": model,
            "data": data,
            "steps": 6,
            "rows": 2,
            "lr": 1e-2,
            "every": 2,
            "device": "cpu",
            "threads": 1,
        }
        | other
    )


def test_it_learns_and_leaves_a_run(model, data, tmp_path, capsys):
    last = cold_start(settings(model, data, steps=30), run_dir=tmp_path / "run")
    assert last == tmp_path / "run/checkpoints/step-00030"
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert rows[-1]["loss"] < 0.3 * rows[0]["loss"]
    assert json.loads((tmp_path / "run/recipe.json").read_text())["recipe"]["sft"]["steps"] == 30


class Stopped(Exception):
    pass


def test_a_run_cut_short_ends_with_the_same_weights(model, data, tmp_path, monkeypatch, capsys):
    whole = cold_start(settings(model, data), run_dir=tmp_path / "whole")
    from forkpoint.train import coldstart

    def stop_at_five(run_dir, metrics, append=coldstart.append_metrics):
        if metrics["step"] == 5:
            raise Stopped
        append(run_dir, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(coldstart, "append_metrics", stop_at_five)
        with pytest.raises(Stopped):
            cold_start(settings(model, data), run_dir=tmp_path / "cut")
    resumed = cold_start(settings(model, data), run_dir=tmp_path / "cut", resume=True)
    assert resumed.name == whole.name == "step-00006"
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_resuming_with_other_settings_is_refused(model, data, tmp_path, capsys):
    cold_start(settings(model, data, steps=2), run_dir=tmp_path / "run")
    with pytest.raises(InputError, match="other settings or data"):
        cold_start(settings(model, data, steps=2, lr=2e-2), run_dir=tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="already holds a run"):
        cold_start(settings(model, data, steps=2), run_dir=tmp_path / "run")


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("rows", 0), ("lr", 0.0), ("every", -1)])
def test_settings_are_checked(model, data, name, value):
    with pytest.raises(InputError, match=name):
        settings(model, data, **{name: value})


def test_bad_data_is_told_before_anything_is_written(model, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(InputError, match="line 2"):
        cold_start(settings(model, str(tmp_path / "bad.jsonl")), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_head_that_is_not_understood_is_refused_with_a_remedy_that_works(model, data, tmp_path, monkeypatch):
    fused = json.loads(
        (cold_start(settings(model, data), run_dir=tmp_path / "fused").parents[1] / "metrics.jsonl").open().readline()
    )
    monkeypatch.setattr("forkpoint.model.head_logits", lambda model, hidden: hidden @ torch.ones(16, 8))
    with pytest.raises(InputError, match="--head plain"):
        cold_start(settings(model, data), run_dir=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    last = cold_start(settings(model, data, head="plain"), run_dir=tmp_path / "plain")
    first = json.loads((last.parents[1] / "metrics.jsonl").open().readline())
    assert first["loss"] == pytest.approx(fused["loss"], rel=1e-5)
    with pytest.raises(InputError, match="head 'fast' is none of fused, plain"):
        settings(model, data, head="fast")


def test_a_selection_is_part_of_the_run(model, data, tmp_path, capsys):
    chosen = {"select": "forking", "share": 0.5, "rest": 0.1, "leave_out": (7,)}
    last = cold_start(settings(model, data, steps=4, **chosen), run_dir=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    plain = cold_start(settings(model, data, steps=4), run_dir=tmp_path / "plain")
    assert any(not torch.equal(x, weights(plain)[name]) for name, x in weights(last).items())
    assert all(row["tokens/learned"] > 0 for row in rows)
    with pytest.raises(InputError, match="other settings"):
        cold_start(settings(model, data, steps=4, **chosen | {"share": 0.4}), run_dir=tmp_path / "run", resume=True)
    again = cold_start(settings(model, data, steps=4, **chosen), run_dir=tmp_path / "run", resume=True)
    assert again == last
