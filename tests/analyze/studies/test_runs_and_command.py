"""The commands end to end: on a run of the shipped model, on models with problems, and on every wrong argument."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from stories import golden, save_stories
from typer.testing import CliRunner

from forkpoint.analyze.studies.asked import Asked, Changes, studied
from forkpoint.analyze.studies.runs import moments, subject_of_run
from forkpoint.analyze.studies.subject import written
from forkpoint.analyze.traces.sampling import ids_of
from forkpoint.analyze.traces.scoring import score_tokens
from forkpoint.cli import app
from forkpoint.errors import InputError
from forkpoint.model import load_model
from forkpoint.tasks.countdown import countdown_task
from forkpoint.train.loop import train
from forkpoint.train.recipe import load_recipe
from tiny import save

ROOT = Path(__file__).resolve().parents[3]
COUNTDOWN = ROOT / "models/countdown"
SHORT = (
    "train.steps=3", "train.prompts=4", "train.mini_prompts=2", "train.group=4", "train.dynamic_sampling=false",
    "train.lr=1e-3", "eval.every=0", "eval.before=false", "eval.after=false", "eval.problems=6", "eval.samples=2",
    "checkpoint.every=1", "checkpoint.keep=3", "decode.max_tokens=40",
)  # fmt: skip


def trained(folder, *more):
    path = folder / "run"
    train(load_recipe(ROOT / "recipes/demo.toml", [*SHORT, *more]), run_dir=path, resume=False, fresh=False)
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("studied"))


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    rows = [{"question": prompt.text, "answer": prompt.answer} for prompt in countdown_task(heldout=6).heldout]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["analyze", *map(str, arguments)])


def test_the_subject_of_a_run_is_its_newest_checkpoint(run_dir):
    found = subject_of_run(run_dir)
    newest = load_model(run_dir / "checkpoints/step-00003")
    for ours, theirs in zip(found.model.state_dict().values(), newest.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert (len(found.prompts), found.group, found.sampling.max_tokens) == (6, 2, 40)
    assert [prompt.id for prompt in found.prompts] == [prompt.id for prompt in countdown_task(heldout=6).heldout]
    changed = subject_of_run(run_dir, problems=300, group=3, max_tokens=9, temperature=0.5)
    assert (len(changed.prompts), changed.group) == (300, 3)
    assert (changed.sampling.max_tokens, changed.sampling.temperature) == (9, 0.5)


@pytest.mark.parametrize("lora", [False, True])
def test_moments_are_the_models_of_a_runs_history(run_dir, tmp_path, lora):
    if lora:
        pytest.importorskip("peft")
        run_dir = trained(tmp_path, "model.lora.rank=2", "train.lr=1e-2")
    one = subject_of_run(run_dir)
    prompts, answers = ids_of(written(one))
    found = {}
    for moment in moments(run_dir, one):
        model = moment.load()
        assert (model is one.model) == (moment.step > 0)
        found[moment.step] = score_tokens(model, prompts, answers, top=0).entropy_N
    assert sorted(found) == [0, 1, 2, 3]
    assert (np.abs(np.diff(np.stack(list(found.values())), axis=0)).max(1) > 1e-4).all()
    base = score_tokens(load_model(COUNTDOWN), prompts, answers, top=0).entropy_N
    np.testing.assert_allclose(found[0], base, atol=1e-5)
    if not lora:
        middle = score_tokens(load_model(run_dir / "checkpoints/step-00002"), prompts, answers, top=0).entropy_N
        np.testing.assert_allclose(found[2], middle, atol=1e-5)


def test_every_study_of_a_run(run_dir, tmp_path):
    page = tmp_path / "page.html"
    found = run(run_dir, "--checkpoints", "--temperatures", "0.5", "--divergence", 3, "--forced", 2, "--share", 0.25,
                "--out", page, "--json")  # fmt: skip
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said["studied"] == {
        "model": "run, step-00003", "problems": 6, "answers_each": 2, "seed": 0, "max_tokens": 40, "temperature": 1.0,
        "top_p": 1.0, "top_k": 0, "notes": [],
    }  # fmt: skip
    studies = said["studies"]
    assert list(studies) == ["temperatures", "divergence", "forced", "checkpoints"]
    overlap = studies["checkpoints"]["overlap"]
    assert [row["step"] for row in overlap["rows"]] == [0, 1, 2, 3]
    assert overlap["share"] == 0.25
    assert overlap["rows"][3]["final"]["value"] == 1.0
    assert len(studies["checkpoints"]["change"]["change"]["value"]) == 20
    assert {rate["place"] for rate in studies["divergence"]["rates"]} == {"fork", "near", "random"}
    assert studies["divergence"]["answers"] == 3
    assert [point["temperature"] for point in studies["temperatures"]["curves"]["fork"]] == [0.5, 1.0]
    text = page.read_text()
    for title in ("Accuracy against decoding temperature", "Does the final answer change", "Entropy area score",
                  "Entropy change by base-entropy percentile", "most uncertain positions over training"):  # fmt: skip
        assert title in text
    assert found.stderr.count("reading") == 4


def test_damaged_and_missing_checkpoints_are_named_and_the_rest_comes_out(run_dir, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(run_dir, broken)
    weights = broken / "checkpoints/step-00003/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9] + b"123456789")
    shutil.rmtree(broken / "checkpoints/step-00002")
    found = run(broken, "--checkpoints", "--out", tmp_path / "page.html")
    assert found.exit_code == 0, found.output
    assert "step-00002." in found.output
    assert "step-00003 is corrupt: model.safetensors" in found.output
    assert "with the base at step 1" in found.output
    assert "step-00003 is damaged, so the model is that of step-00001." in (tmp_path / "page.html").read_text()

    # Without a first model to compare with, the other study still comes out.
    recipe = json.loads((broken / "recipe.json").read_text())
    recipe["recipe"]["model"]["path"] = str(tmp_path / "gone")
    (broken / "recipe.json").write_text(json.dumps(recipe))
    one, other = studied(str(broken), Asked(checkpoints=True, divergence=2), Changes()).studies
    assert "Final answer changed, at a fork" in one.lines[0]
    assert "Not made: comparing takes two models of the run and 1 can be read" in other.panels[0].absent


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "recipe.json").unlink(), "cannot say what its model and task are: recipe.json is missing"),
        (lambda run: (run / "recipe.json").write_text('{"recipe": {"name": "x"}}'), "model"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "holds no checkpoint"),
        (lambda run: [(f / "trainer.json").unlink() for f in (run / "checkpoints").iterdir()], "of the 3 checkpoints"),
    ],
)
def test_runs_that_cannot_be_studied(run_dir, tmp_path, damage, said):
    broken = tmp_path / "run"
    shutil.copytree(run_dir, broken)
    damage(broken)
    with pytest.raises(InputError, match=said):
        subject_of_run(broken)


def test_a_run_keeps_its_figures_when_its_trace_is_saved(run_dir, tmp_path):
    plain, kept = tmp_path / "plain.html", tmp_path / "kept.html"
    for words in (("--out", plain), ("--out", kept, "--save", tmp_path / "trace.parquet")):
        found = run(run_dir, "--min-count", 1, *words)
        assert found.exit_code == 0, found.output
    assert "Entropy percentiles over training" in plain.read_text()
    assert "Entropy percentiles over training" in kept.read_text()


def test_a_model_with_problems(problems, tmp_path):
    page = tmp_path / "page.html"
    found = run(COUNTDOWN, "--prompts", problems, "--template", "none", "--verifier", "countdown", "--group", 2,
                "--max-tokens", 40, "--temperatures", "0,1", "--divergence", 2, "--problems", 4, "--min-count", 1,
                "--out", page, "--json")  # fmt: skip
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said["Responses"].startswith("8 ")
    assert said["Right"].endswith("of 8 judged answers")
    assert list(said["studies"]) == ["temperatures", "divergence"]
    assert "attention entropy" in page.read_text()
    assert "gradient norm" in page.read_text()


def test_a_story_written_anew(tmp_path):
    golden()
    model, file = save_stories(tmp_path / "stories"), tmp_path / "q.jsonl"
    file.write_text(json.dumps({"question": "Once upon a time"}))
    changes = Changes(group=3, max_tokens=12, template="none")
    found = studied(str(model), Asked(divergence=3, forced=2), changes, prompts=file, extraction="whole")
    divergence, forced = found.studies
    assert divergence.numbers["answers"] == 3
    assert forced.numbers["area_bits"]["all"]["value"] > 0
    assert "No answer has reasoning before its final answer." in forced.panels[1].caption
    (batch,) = found.traces
    assert batch.completion[0].strip()
    found.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{run} --temperatures -1,1", "--temperatures has -1: each is a number >= 0"),
        ("{run} --temperatures inf", "--temperatures has inf"),
        ("{run} --temperatures 0.5;1", "--temperatures has '0.5;1': give numbers with commas"),
        ("{run} --temperatures 1", "needs one besides 1"),
        ("{run} --checkpoints --share 0", "--share is 0.0 and must be a number in (0, 1]"),
        ("{run} --checkpoints --share 1.5", "--share is 1.5"),
        ("{run} --divergence 0", "--divergence is 0 and must be 1 answer or more"),
        ("{run} --forced -2", "--forced is -2"),
        ("{run} --divergence 2 --temperature 0", "needs answers drawn above 0"),
        ("{run} --divergence 2 --group 0", "--group is 0 and must be 1 or more"),
        ("{run}/rollouts/step-00001.parquet --checkpoints", "is no run directory: name a run"),
        ("{run}/nothing --forced 2", "does not exist: name a run that `forkpoint train` wrote, or a model with --pro"),
        ("{model} --prompts {problems} --checkpoints", "--checkpoints compares the checkpoints of a run"),
        ("{model} --prompts {bare} --temperatures 0.5", "--temperatures needs reference answers to judge by"),
        ("{model} --prompts {other} --temperatures 0.5", "has no field 'question'"),
        ("{model} --prompts {empty} --divergence 2", "holds no problem: it is empty"),
        ("{model} --prompts {problems} --divergence 2 --verifier maths", "unknown verifier 'maths': did you mean"),
        ("{model} --prompts {problems} --divergence 2 --extraction boxd", "unknown answer extraction 'boxd'"),
        (
            "{run} --divergence 2 --verifier math",
            "--verifier math goes with --prompts: a run is verified as",
        ),
        ("{run} --extraction boxed", "--extraction boxed is for the studies: ask for one"),
        ("{run} --score-with {tiny}", "the tokenizer is not the trace's"),
    ],
)
def test_mistakes_end_in_one_sentence(run_dir, problems, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare.jsonl").write_text('{"question": "1 + 1 ="}')
    (tmp_path / "other.jsonl").write_text('{"text": "1 + 1 ="}')
    (tmp_path / "empty.jsonl").write_text("")
    names = {name: f"{name}.jsonl" for name in ("bare", "other", "empty")}
    tiny = save(tmp_path / "tiny") if "{tiny}" in arguments else ""
    words = [
        word.format(run=run_dir, model=COUNTDOWN, problems=problems, tiny=tiny, **names) for word in arguments.split()
    ]
    found = run(*words)
    assert found.exit_code == 2, found.output
    assert said in found.output
    assert len(found.output.strip().splitlines()) == 1
