"""Merging checkpoints on disk: what is written, what is refused, and how much is held."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from forkpoint.errors import InputError, TrainingError
from forkpoint.merge import checkpoints, tensors
from forkpoint.merge.checkpoints import merge
from forkpoint.merge.fusion import fuse, importance, row_divergence, threshold
from forkpoint.seeds import generator


@pytest.fixture
def folders(tmp_path):
    return [tiny.save(tmp_path / name, seed=seed) for seed, name in enumerate(("base", "math", "science"))]


def weights(folder):
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def change(folder, **edits):
    file = folder / "model.safetensors"
    held = load_file(file)
    for name, edit in edits.items():
        held[name] = edit(held[name])
    save_file({k: v for k, v in held.items() if v is not None}, file, metadata={"format": "pt"})


def test_every_tensor_is_the_fusion_of_its_two(folders, tmp_path):
    base, other, _ = folders
    report = merge([other, base], base, tmp_path / "out")
    merged, one, two = weights(tmp_path / "out"), weights(other), weights(base)
    assert merged.keys() == two.keys() == report["tensors"].keys()
    for name, value in merged.items():
        assert torch.equal(value, fuse(one[name], two[name])), name
        taken = int((value != two[name]).sum())
        assert report["tensors"][name]["from"] == [taken, value.numel() - taken]
    assert any(0 < row["from"][0] < sum(row["from"]) for row in report["tensors"].values())
    assert [row["path"] for row in report["checkpoints"]] == [str(other), str(base)]
    assert report["checkpoints"][0]["tokenizer_compared"] == "tokenizer.json"
    assert json.loads((tmp_path / "out/merge.json").read_text()) == report


def test_the_result_loads_as_a_model_with_the_bases_tokenizer(folders, tmp_path):
    from forkpoint.model import load_model
    from forkpoint.tasks.prompts import load_tokenizer

    merge([folders[1]], folders[0], tmp_path / "out", shard_bytes=20_000)
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 1
    model, tokenizer = load_model(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    held = weights(tmp_path / "out")
    assert torch.equal(model.state_dict()["model.norm.weight"], held["model.norm.weight"])
    assert tokenizer("1 +")["input_ids"] == load_tokenizer(folders[0])("1 +")["input_ids"]
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_three_checkpoints_are_two_merges_one_after_the_other(folders, tmp_path):
    base, one, two = folders
    report = merge([one, two], base, tmp_path / "both")
    merge([one], two, tmp_path / "middle")
    merge([tmp_path / "middle"], base, tmp_path / "then")
    both, then = weights(tmp_path / "both"), weights(tmp_path / "then")
    held = [weights(folder) for folder in (one, two, base)]
    for name, value in both.items():
        assert torch.equal(value, then[name])
        for number, of in enumerate(held):
            assert report["tensors"][name]["from"][number] <= int((value == of[name]).sum())
    totals = torch.tensor([row["from"] for row in report["tensors"].values()]).sum(0)
    assert (totals > 0).all()


def test_shards_of_the_input_do_not_matter(folders, tmp_path):
    base, other, _ = folders
    held = weights(other)
    names = list(held)
    for part, own in enumerate((names[::2], names[1::2])):
        save_file({name: held[name] for name in own}, other / f"model-0000{part + 1}-of-00002.safetensors")
    with pytest.raises(InputError, match="twice, in model-00001-of-00002"):
        merge([other], base, tmp_path / "twice")
    (other / "model.safetensors").unlink()
    merge([other], base, tmp_path / "out")
    two = weights(base)
    assert all(torch.equal(v, fuse(held[n], two[n])) for n, v in weights(tmp_path / "out").items())


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes or is given."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in (*args, *(out if isinstance(out, tuple) else (out,))):
            if isinstance(value, torch.Tensor):
                self.numbers = max(self.numbers, value.numel())
        return out


def test_blocks_change_nothing_and_no_tensor_is_held_whole(folders, tmp_path, monkeypatch):
    base, other, _ = folders
    merge([other], base, tmp_path / "whole")
    largest = max(value.numel() for value in weights(base).values())
    width = max(value.shape[-1] for value in weights(base).values())
    monkeypatch.setattr(checkpoints, "BLOCK", 2 * width)
    read = []
    plain = tensors.read_rows
    monkeypatch.setattr(
        checkpoints, "read_rows", lambda *args: read.append((args[3] - args[2]) * args[1].columns) or plain(*args)
    )
    with Largest() as seen:
        merge([other], base, tmp_path / "blocks")
    assert 0 < seen.numbers <= 4 * 2 * width < largest  # as bytes, a block of float32 is four times as long
    assert max(read) <= 2 * width
    whole, blocks = weights(tmp_path / "whole"), weights(tmp_path / "blocks")
    assert all(torch.equal(value, blocks[name]) for name, value in whole.items())


def test_large_tensors_take_their_threshold_from_a_seeded_sample(folders, tmp_path, monkeypatch):
    base, other, _ = folders
    exact = merge([other], base, tmp_path / "exact")["tensors"]
    monkeypatch.setattr(checkpoints, "SAMPLE", 400)
    monkeypatch.setattr(checkpoints, "BLOCK", 64)
    found = [merge([other], base, tmp_path / str(i), seed=seed)["tensors"] for i, seed in enumerate((5, 5, 6))]
    assert found[0] == found[1]
    large = [name for name in exact if sum(exact[name]["from"]) > 400]
    assert large
    assert {name for name, row in found[0].items() if row["sampled"]} == set(large)
    for name in large:
        assert found[0][name]["thresholds"] != found[2][name]["thresholds"]
        one, two = (weights(folder)[name] for folder in (other, base))
        values = importance(one, two, row_divergence(one, two)).flatten().numpy()
        picks = generator(5, "merge", 1, name).integers(0, values.size, 400)
        assert found[0][name]["thresholds"] == pytest.approx([threshold(values[picks])], rel=1e-12)
    small = next(name for name in exact if name not in large)
    assert found[0][small] == exact[small]


def test_whole_numbers_are_copied_from_the_base(folders, tmp_path):
    base, other, _ = folders
    for number, folder in enumerate((base, other)):
        held = load_file(folder / "model.safetensors") | {"steps": torch.tensor([7 + number])}
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    report = merge([other], base, tmp_path / "out")
    assert report["tensors"]["steps"] == {"copied": True}
    assert weights(tmp_path / "out")["steps"].tolist() == [7]


def test_bfloat16_checkpoints(folders, tmp_path):
    base, other, _ = folders
    for folder in (base, other):
        change(folder, **dict.fromkeys(weights(folder), torch.Tensor.bfloat16))
    merge([other], base, tmp_path / "out")
    one, two = weights(other), weights(base)
    assert all(torch.equal(v, fuse(one[n], two[n])) for n, v in weights(tmp_path / "out").items())


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({NORM: lambda value: value[:-1]}, rf"tensor '{NORM}' has shape \[31\] of F32 there and shape \[32\] of F32"),
        ({NORM: torch.Tensor.bfloat16}, "of BF16 there"),
        ({NORM: lambda value: None}, f"has no tensor '{NORM}'"),
        ({NORM: lambda value: value * float("nan")}, f"tensor '{NORM}' holds weights that are not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folders, tmp_path, edits, said):
    change(folders[1], **edits)
    with pytest.raises(InputError, match=said):
        merge([folders[1]], folders[0], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "math", "science"]


def test_a_tensor_only_one_has(folders, tmp_path):
    held = load_file(folders[1] / "model.safetensors") | {"extra": torch.zeros(2)}
    save_file(held, folders[1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="base has no tensor 'extra'"):
        merge([folders[1]], folders[0], tmp_path / "out")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: t["model"]["vocab"].update({"yes": t["model"]["vocab"]["no"]}), "'yes' is 20 here and is 21 there"),
        (lambda t: t["model"]["vocab"].pop("yes"), "'yes' is 20 here and does not exist there"),
        (lambda t: t["model"]["vocab"].update(maybe=99), "'maybe' exists there and not here"),
    ],
)
def test_tokenizers_that_differ_are_named(folders, tmp_path, edit, said):
    file = folders[1] / "tokenizer.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        merge([folders[1]], folders[0], tmp_path / "out")


def test_configurations(folders, tmp_path):
    file = folders[1] / "config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"rope_theta": 5}))
    report = merge([folders[1]], folders[0], tmp_path / "out")
    assert report["checkpoints"][0]["config_differences"]["rope_theta"][1] == 5
    file.write_text(json.dumps(content | {"model_type": "llama"}))
    with pytest.raises(InputError, match="of different kinds, llama and qwen3"):
        merge([folders[1]], folders[0], tmp_path / "again")


def test_folders_that_cannot_be_merged(folders, tmp_path):
    base, other, _ = folders
    with pytest.raises(InputError, match="already exists"):
        merge([other], base, other)
    for models in ([base], [], [other, other]):
        with pytest.raises(InputError, match="at least one other checkpoint"):
            merge(models, base, tmp_path / "out")
    with pytest.raises(InputError, match="there is no checkpoint folder org/name"):
        merge(["org/name"], base, tmp_path / "out")
    (other / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(InputError, match="is damaged"):
        merge([other], base, tmp_path / "out")
    (other / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no weights"):
        merge([other], base, tmp_path / "out")


def test_a_full_disk_leaves_nothing_behind(folders, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_copy_settings", full)
    with pytest.raises(TrainingError, match="the disk is full"):
        merge([folders[1]], folders[0], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "math", "science"]


def test_a_run_stands_for_its_newest_checkpoint(folders, tmp_path):
    from forkpoint.train.checkpoint import save_checkpoint

    model = tiny.qwen3(seed=1)
    for step in (1, 2):
        save_checkpoint(
            tmp_path / "run", step, model=model, tokenizer=tiny.tokenizer(),
            optimizer=torch.optim.SGD(model.parameters()), state={}, tensors={}, keep=2,
        )  # fmt: skip
    report = merge([folders[0]], tmp_path / "run", tmp_path / "out")
    assert report["checkpoints"][1]["path"].endswith("step-00002")
    assert (tmp_path / "out/tokenizer.json").is_file()
    assert not (tmp_path / "out/trainer.json").exists()
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="has no checkpoint yet"):
        merge([tmp_path / "empty"], folders[0], tmp_path / "other")
