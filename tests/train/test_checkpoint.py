"""Checkpoints: bit for bit, safe against kill, disk-full and damage."""

import errno
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
from safetensors.torch import save_file
from torch import nn

from forkpoint.errors import InputError, TrainingError
from forkpoint.train import checkpoint as module
from forkpoint.train.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    restore_model,
    restore_optimizer,
    save_checkpoint,
)


class Tiny(nn.Module):
    """Two layers with a tied weight, and `save_pretrained` as Hugging Face models have it."""

    def __init__(self, width=6, dtype=torch.float32):
        super().__init__()
        self.embed = nn.Embedding(11, width, dtype=dtype)
        self.mix = nn.Linear(width, width, dtype=dtype)
        self.head = nn.Linear(width, 11, bias=False, dtype=dtype)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.mix(self.embed(ids))))

    def save_pretrained(self, folder):
        kept = {k: v for k, v in self.state_dict().items() if k != "head.weight"}
        save_file(kept, Path(folder) / "model.safetensors")


def make(seed=0, dtype=torch.float32, amsgrad=False, **shape):
    torch.manual_seed(seed)
    model = Tiny(dtype=dtype, **shape)
    decay, plain = [model.embed.weight, model.mix.weight], [model.mix.bias]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=1e-2, amsgrad=amsgrad)


def train(model, optimizer, steps, first):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(11, (4, 5), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1).float(), ids.flatten())
        loss.backward()
        optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
        optimizer.step()


def save(run, step, model=None, optimizer=None, keep=5, state=None, tensors=None):
    if model is None:
        model, optimizer = make()
    return save_checkpoint(
        run, step, model=model, tokenizer=None, optimizer=optimizer,
        state=state or {}, tensors=tensors or {}, keep=keep,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_three_steps_save_three_steps_equals_restore_and_three_steps(tmp_path, dtype, amsgrad):
    model, optimizer = make(0, dtype, amsgrad)
    train(model, optimizer, 3, 0)
    save(tmp_path, 3, model, optimizer)
    train(model, optimizer, 3, 3)
    other, other_optimizer = make(1, dtype, amsgrad)
    checkpoint = load_checkpoint(latest_checkpoint(tmp_path))
    restore_model(other, checkpoint)
    restore_optimizer(other_optimizer, other, checkpoint)
    assert other_optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 / 3, abs=0)
    assert other_optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    train(other, other_optimizer, 3, 3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert other.head.weight is other.embed.weight
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        for field, value in optimizer.state[mine].items():
            found = other_optimizer.state[theirs][field]
            assert torch.equal(value, found)
            assert value.dtype == found.dtype, field


def test_without_the_optimizer_state_the_result_differs(tmp_path):
    model, optimizer = make()
    train(model, optimizer, 3, 0)
    save(tmp_path, 3, model, optimizer)
    train(model, optimizer, 1, 3)
    other, other_optimizer = make(1)
    restore_model(other, load_checkpoint(latest_checkpoint(tmp_path)))
    train(other, other_optimizer, 1, 3)
    assert not torch.equal(model.mix.weight, other.mix.weight)


def test_state_and_tensors_come_back_as_they_were(tmp_path):
    state = {
        "position": 2**70,
        "nested": {"a": [1, 2.5, None, "x"]},
        "counts": {2: 1, 10: 2},
        "inf": float("inf"),
    }
    tensors = {"chain/0/mean": torch.tensor(0.1, dtype=torch.float64), "rng": torch.get_rng_state()}
    tensors["view"] = torch.arange(6).view(2, 3).T
    save(tmp_path, 1, state=state, tensors=tensors)
    found = load_checkpoint(latest_checkpoint(tmp_path))
    assert found.step == 1
    assert found.state == {**state, "counts": {"2": 1, "10": 2}}
    assert set(found.tensors) == set(tensors)
    assert all(torch.equal(found.tensors[k], v) and found.tensors[k].dtype == v.dtype for k, v in tensors.items())


def test_optimizer_state_that_is_no_tensor_comes_back(tmp_path):
    model, _ = make()
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.01)
    train(model, optimizer, 1, 0)
    optimizer.state[model.mix.bias]["note"] = 7
    save(tmp_path, 1, model, optimizer)
    other, _ = make(1)
    other_optimizer = torch.optim.Rprop(other.parameters(), lr=0.5)
    checkpoint = load_checkpoint(latest_checkpoint(tmp_path))
    restore_optimizer(other_optimizer, other, checkpoint)
    assert other_optimizer.state[other.mix.bias]["note"] == 7
    assert torch.equal(other_optimizer.state[other.mix.bias]["step_size"], optimizer.state[model.mix.bias]["step_size"])


def test_only_the_last_are_kept_and_never_less_than_the_newest(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00002", "step-00003"]
    save(tmp_path, 4, keep=1)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00004"]


def test_the_same_step_can_be_saved_again(tmp_path):
    save(tmp_path, 3, state={"n": 1})
    path = save(tmp_path, 3, state={"n": 2})
    assert load_checkpoint(path).state == {"n": 2}
    assert os.listdir(tmp_path / "checkpoints") == ["step-00003"]


def test_one_moved_aside_by_a_killed_process_is_found_and_comes_back(tmp_path):
    path = save(tmp_path, 3, state={"n": 1})
    path.rename(path.with_name(".old-step-00003"))
    assert load_checkpoint(latest_checkpoint(tmp_path)).state == {"n": 1}
    save(tmp_path, 4)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00003", "step-00004"]


def test_no_checkpoint_is_none(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints" / ".tmp-step-00001").mkdir(parents=True)
    assert latest_checkpoint(tmp_path) is None


# Damage


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flipped weight": (lambda p: flip(p / "model.safetensors"), "model.safetensors differs from its sha256"),
    "flipped optimiser": (lambda p: flip(p / "trainer.safetensors"), "trainer.safetensors differs"),
    "truncated": (lambda p: os.truncate(p / "model.safetensors", 100), "has 100 of"),
    "missing": (lambda p: (p / "model.safetensors").unlink(), "model.safetensors is missing"),
    "garbled": (lambda p: (p / "trainer.json").write_text("{oops"), "not readable JSON"),
    "empty": (lambda p: (p / "trainer.json").write_text(""), "not readable JSON"),
    "binary": (lambda p: (p / "trainer.json").write_bytes(b"\xff\xfe"), "not readable JSON"),
    "deep": (lambda p: (p / "trainer.json").write_text("[" * 200_000), "not readable JSON"),
    "foreign": (lambda p: (p / "trainer.json").unlink(), "no trainer.json"),
    "other schema": (lambda p: (p / "trainer.json").write_text('{"schema": 99}'), "says 99"),
    "a list": (lambda p: (p / "trainer.json").write_text("[]"), "says None"),
    "edited": (
        lambda p: (p / "trainer.json").write_text((p / "trainer.json").read_text().replace('"step": 2', '"step": 9')),
        "altered",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_newest_checkpoint_is_named_and_the_older_offered(tmp_path, name):
    damage, expected = DAMAGE[name]
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    damage(newest)
    with pytest.raises(InputError, match=r"step-00002.*delete .* resume from step-00001") as error:
        latest_checkpoint(tmp_path)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="step-00002"):
        load_checkpoint(newest)


def test_an_older_checkpoint_that_is_damaged_too_is_not_offered(tmp_path):
    flip(save(tmp_path, 1) / "model.safetensors")
    flip(save(tmp_path, 2) / "model.safetensors")
    with pytest.raises(InputError, match="no older checkpoint is intact"):
        latest_checkpoint(tmp_path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no checkpoint at"):
        load_checkpoint(tmp_path / "step-00001")


def test_other_shapes_names_and_dtypes_are_refused_before_anything_is_copied(tmp_path):
    checkpoint = load_checkpoint(save(tmp_path, 1))
    wide, _ = make(1, width=8)
    before = {k: v.clone() for k, v in wide.state_dict().items()}
    with pytest.raises(InputError, match=r"another model: '\S+' has shape .* here"):
        restore_model(wide, checkpoint)
    assert all(torch.equal(v, wide.state_dict()[k]) for k, v in before.items())
    with pytest.raises(InputError, match="bfloat16"):
        restore_model(make(1, dtype=torch.bfloat16)[0], checkpoint)
    extra, _ = make()
    extra.more = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"no parameter 'more.weight'"):
        restore_model(extra, checkpoint)
    less = nn.Module()
    less.embed = nn.Embedding(11, 6)
    with pytest.raises(InputError, match=r"the model has no parameter 'mix"):
        restore_model(less, checkpoint)


def test_another_optimizer_is_refused(tmp_path):
    checkpoint = load_checkpoint(save(tmp_path, 1))
    model, optimizer = make()
    with pytest.raises(InputError, match=r"AdamW over 3 parameters; here SGD over 3"):
        restore_optimizer(torch.optim.SGD(model.parameters(), lr=1.0), model, checkpoint)
    with pytest.raises(InputError, match=r"here AdamW over 1"):
        restore_optimizer(torch.optim.AdamW([model.mix.bias]), model, checkpoint)
    restore_optimizer(optimizer, model, checkpoint)


# Disk full


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError('Error while serializing: I/O error: Os { code: 28, message: "…" }'),
    Exception("write failed (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["os", "safetensors", "tokenizers"])
def test_a_full_disk_leaves_the_older_checkpoint_and_no_half_one(tmp_path, monkeypatch, error):
    save(tmp_path, 1)
    before = contents(tmp_path)

    def write(*args):
        raise error

    monkeypatch.setattr(module, "_write_trainer", write)
    with pytest.raises(TrainingError, match="disk is full") as told:
        save(tmp_path, 2)
    assert str(tmp_path / "checkpoints") in str(told.value)
    assert "step-00001" in str(told.value)
    assert "\n" not in str(told.value)
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path / "checkpoints") == ["step-00001"]
    latest_checkpoint(tmp_path)


def test_another_error_is_not_hidden_and_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_write_trainer", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path, 2)
    assert os.listdir(tmp_path / "checkpoints") == []


@pytest.mark.parametrize("free", [0, 1, 2], ids=["model", "trainer", "manifest"])
def test_a_real_full_disk(tmp_path, free):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tiny file system cannot be mounted here")
    try:
        save(disk, 1)
        left = os.statvfs(disk).f_bavail - free
        (disk / "filler").write_bytes(b"x" * 4096 * left)
        before = contents(disk)
        with pytest.raises(TrainingError, match=r"disk is full.*step-00001 and everything"):
            save(disk, 2)
        assert contents(disk) == before
        latest_checkpoint(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(TrainingError, match=r"checkpoint step-00001 could not be written to .*checkpoints"):
        save(tmp_path, 1)


# Kill

SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from test_checkpoint import make, save, train
from forkpoint.train import checkpoint, manifest

run, where = sys.argv[1:]
model, optimizer = make()
save(run, 1, model, optimizer)

def stop(*args, **kwargs):
    print("here", flush=True)
    time.sleep(60)

if where == "model written":
    checkpoint._write_trainer = stop
elif where == "before the rename":
    manifest.os.replace = stop
elif where == "before the old ones go":
    checkpoint.shutil.rmtree = stop
else:
    print("here", flush=True)
for step in range(2, 10_000):
    train(model, optimizer, 1, step)
    save(run, step, model, optimizer, keep=1)
"""


@pytest.mark.parametrize(
    ("where", "expected"),
    [("model written", {1}), ("before the rename", {1}), ("before the old ones go", {2}), ("anywhere", None)],
)
def test_a_killed_process_leaves_a_valid_checkpoint(tmp_path, where, expected):
    script = textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), where], stdout=subprocess.PIPE, env=os.environ
    )
    try:
        assert process.stdout.readline() == b"here\n"
        time.sleep(0.0 if expected else 0.7)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    checkpoint = load_checkpoint(latest_checkpoint(tmp_path))
    assert checkpoint.step in (expected or range(1, 10_000))
    model, optimizer = make(1)
    restore_model(model, checkpoint)
    restore_optimizer(optimizer, model, checkpoint)
    reference, reference_optimizer = make()
    train(reference, reference_optimizer, checkpoint.step - 1, 2)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in reference.state_dict().items())
    save(tmp_path, checkpoint.step + 1, model, optimizer, keep=1)
    assert os.listdir(tmp_path / "checkpoints") == [f"step-{checkpoint.step + 1:05d}"]


# Hugging Face


def qwen(seed, **changes):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, dtype="bfloat16", **changes,
    )  # fmt: skip
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config).to(torch.bfloat16)


def test_a_hugging_face_model_with_tied_embeddings_in_bf16(tmp_path):
    from transformers import AutoModelForCausalLM

    model = qwen(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    path = save(tmp_path, 1, model, optimizer)
    assert not list(path.rglob("*.bin")) + list(path.rglob("*.pt"))
    other = qwen(1)
    restore_model(other, load_checkpoint(path))
    by_the_library = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
        assert torch.equal(value, by_the_library.state_dict()[name]), name
    assert other.lm_head.weight is other.model.embed_tokens.weight


def test_a_peft_adapter_alone_is_saved(tmp_path):
    peft = pytest.importorskip("peft")

    def wrap(seed):
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        base = qwen(0)
        torch.manual_seed(seed)
        model = peft.get_peft_model(base, config)
        for name, value in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(value)
        return model

    model, other = wrap(1), wrap(2)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    path = save(tmp_path, 1, model, optimizer)
    assert (path / "adapter_model.safetensors").is_file()
    assert not (path / "model.safetensors").exists()
    restore_model(other, load_checkpoint(path))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    again = peft.PeftModel.from_pretrained(qwen(0), path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_the_manifest_is_plain_json(tmp_path):
    content = json.loads((save(tmp_path, 7) / "trainer.json").read_text())
    assert content["schema"] == 1
    assert content["step"] == 7
    assert set(content["files"]) == {"model.safetensors", "trainer.safetensors"}
    assert content["optimizer"]["groups"][0]["names"] == ["embed.weight", "mix.weight"]
