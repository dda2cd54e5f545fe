"""vLLM as a source of answers, against the stand-in of `vllm_double`, never against vLLM itself."""

from __future__ import annotations

import json
import sys

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import tiny
import vllm_double
from forkpoint.cli import app
from forkpoint.errors import InputError
from forkpoint.evaluate.benchmark import Drawing
from forkpoint.evaluate.sources import LocalSettings, open_local, requests
from forkpoint.evaluate.with_vllm import open_with_vllm
from forkpoint.rollouts import Prompt

PROMPTS = tuple(Prompt(id=name, text=text) for name, text in (("a", "1 + 2 ="), ("b", "1 + 2 + 3 =")))
PLAIN = Drawing(samples=3, temperature=1.0, top_p=1.0, max_tokens=5)
HOW = LocalSettings(template="none", slots=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("model")))


def answers(opened, drawing):
    wanted = requests(PROMPTS, drawing.samples, 3, set())
    return {(request.prompt.id, request.sample): drawn for request, drawn in opened(drawing).answer(wanted)}


def test_answers_with_log_probs_and_lower_bounds(folder, monkeypatch):
    vllm_double.install(monkeypatch)
    source = open_with_vllm(folder, [(PROMPTS, PLAIN)], HOW)
    found = answers(source, PLAIN)
    assert len(found) == 6
    assert found == answers(source, PLAIN), "every draw is a function of its request"
    model, tokenizer = tiny.qwen3(), tiny.tokenizer()
    for (name, _), drawn in found.items():
        text = {prompt.id: prompt.text for prompt in PROMPTS}[name]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + list(drawn.ids)])).logits[0, len(ids) - 1 : -1]
        logp_TV = logits.double().log_softmax(-1)
        expected = logp_TV.gather(1, torch.tensor(drawn.ids)[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(drawn.logp).double(), expected, atol=2e-5, rtol=0)
        exact = -(logp_TV.exp() * logp_TV).sum(-1)
        assert (torch.tensor(drawn.entropy).double() <= exact + 1e-4).all()
        assert (drawn.entropy_kind, drawn.length, len(drawn.tokens)) == ("lower-bound", len(drawn.ids), len(drawn.ids))
    arguments = vllm_double.LLM.latest.arguments
    assert arguments["max_model_len"] == max(len(tokenizer(p.text)["input_ids"]) for p in PROMPTS) + 5
    assert (arguments["logprobs_mode"], arguments["max_num_seqs"]) == ("raw_logprobs", 2)
    assert vllm_double.LLM.latest.autocast, "it answered, with weights that nobody sent"
    described = source(PLAIN)
    assert (described.engine, described.dtype, described.template) == ("vllm", "float32", "none")
    assert described.name == open_local(folder, HOW)(PLAIN).name


def test_where_vllm_cannot_tell_log_probs_none_are_written(folder, monkeypatch):
    vllm_double.install(monkeypatch)
    cut = Drawing(samples=3, temperature=0.6, top_p=0.9, max_tokens=5)
    found = answers(open_with_vllm(folder, [(PROMPTS, cut)], HOW), cut)
    assert {(one.logp, one.entropy, one.entropy_kind) for one in found.values()} == {(None, None, None)}
    assert vllm_double.LLM.latest.arguments["max_logprobs"] == 1
    # One cut drawing among several: one engine serves all, so none is measured.
    both = open_with_vllm(folder, [(PROMPTS, PLAIN), (PROMPTS, cut)], HOW)
    assert {one.logp for one in answers(both, PLAIN).values()} == {None}
    with pytest.raises(InputError, match="temperature is 3"):
        open_with_vllm(folder, [(PROMPTS, Drawing.model_construct(**{**cut.model_dump(), "temperature": 3.0}))], HOW)


def test_what_cannot_be_opened(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match="needs vLLM, which cannot be imported here"):
        open_with_vllm(folder, [(PROMPTS, PLAIN)], HOW)
    vllm_double.install(monkeypatch, device_type="cuda")
    with pytest.raises(InputError, match="this vLLM runs on cuda"):
        open_with_vllm(folder, [(PROMPTS, PLAIN)], LocalSettings(device="cpu"))
    with pytest.raises(InputError, match="answers may have 256: lower --max-tokens"):
        open_with_vllm(folder, [(PROMPTS, Drawing(max_tokens=256))], HOW)
    with pytest.raises(InputError, match="longer than"):
        open_with_vllm(folder, [([Prompt(id="x", text="1 " * 300)], PLAIN)], HOW)


def test_on_the_command_line(folder, monkeypatch, tmp_path):
    vllm_double.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    rows = [{"question": prompt.text, "answer": "3", "id": prompt.id} for prompt in PROMPTS]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["eval", folder, "--data", "mine.jsonl", "--id", "id", "--samples", "2", "--place", "none"]
    common += ["--max-tokens", "4", "--template", "none", "--out", "out", "--json"]
    done = CliRunner().invoke(app, [*common, "--engine", "vllm", "--temperature", "1", "--top-p", "1"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)
    assert found["answers"] == 4
    assert json.loads((tmp_path / "out/mine/spec.json").read_text())["engine"] == "vllm"
    assert set(pq.read_table(tmp_path / "out/mine.parquet")["entropy_kind"].to_pylist()) == {"lower-bound"}
    other = CliRunner().invoke(app, [*common, "--temperature", "1", "--top-p", "1"])
    assert other.exit_code == 2
    assert 'engine: "vllm" against "forkpoint"' in other.stderr
