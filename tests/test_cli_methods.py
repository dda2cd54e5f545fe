"""`forkpoint methods`: list, show and plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forkpoint import cli
from forkpoint.cli_methods import parsed, rocks_text
from forkpoint.errors import InputError
from forkpoint.methods import METHODS, method_chain
from forkpoint.train.offline_rocks import Rock
from forkpoint.train.recipe import credit_chain, load_recipe
from tiny import WORDS, save

sys.path.insert(0, str(Path(__file__).parent / "analyze"))
from synthetic_run import write_synthetic_run


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_list_is_what_the_command_alone_prints():
    assert run("methods", "list").stdout == run("methods").stdout
    assert json.loads(run("methods", "list", "--json").stdout) == json.loads(run("methods", "--json").stdout)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_shown(name):
    done = run("methods", "show", name)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(name)
    assert "Confidence: " in done.stdout
    assert "group_advantage" in done.stdout or "Chain" in done.stdout


def test_show_prints_defaults_and_the_chain_with_what_is_given():
    text = run("methods", "show", "forking:share=0.1").stdout
    assert "  share = 0.2" in text
    assert "top_entropy(share=0.1, source='current', scope='mini'" in text
    assert "[update, mini]" in text
    text = run("methods", "show", "delta").stdout
    assert "temperature  (no default: the source gives none)" in text
    assert "Chain with temperature=1.0:" in text
    assert "Chain:" in run("methods", "show", "delta:temperature=2").stdout
    row = json.loads(run("methods", "show", "grpo", "--json").stdout)
    assert row["name"] == "grpo"
    assert [link["link"] for link in row["chain"]] == [link.name for link in method_chain("grpo").links]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "forkin"), "did you mean 'forking'"),
        (("show", "forking:shar=1"), "no argument 'shar'"),
        (("show", "forking:share"), "'share' in 'forking:share' is no argument"),
        (("show", "forking:share=abc"), "share = 'abc': must be a valid number"),
        (("show", "forking:share=2"), "share is 2"),
        (("plot", "dapo"), "name the run"),
        (("plot", "delta", "--run", "x"), "delta has no default for temperature: write delta:temperature=…"),
        (("plot", "shear:width=9", "--run", "x"), "write shear:width=9,epsilon=…"),
        (("plot", "dapo", "dapo", "--run", "x"), "stands there twice"),
        (("plot", "gspoo", "--run", "x"), "did you mean 'gspo'"),
        (("plot", "dapo", "--run", "nowhere"), "nowhere is not a directory"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments, message):
    done = run("methods", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_arguments_after_the_colon():
    assert parsed("dapo") == ("dapo", {})
    assert parsed("rock_tokens:ids=[1, 2],denominator=all") == ("rock_tokens", {"ids": [1, 2], "denominator": "all"})
    assert parsed("x:a=1,b=0.5,c=true,d='q'") == ("x", {"a": 1, "b": 0.5, "c": True, "d": "q"})
    with pytest.raises(InputError, match="is no argument"):
        parsed("x:=3")


def test_plot_writes_a_page(tmp_path):
    folder = write_synthetic_run(tmp_path / "r", steps=1, length=12)
    out = tmp_path / "compared.html"
    done = run("methods", "plot", "forking:share=0.1", "dapo", "--run", folder, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"page  {out}\n"
    assert "forking:share=0.1 and dapo" in out.read_text("utf-8")


@pytest.fixture
def models(tmp_path):
    """A student, a teacher of its family, and answers of the student."""
    save(tmp_path / "student")
    save(tmp_path / "teacher", seed=1)
    rows = [{"prompt": f"{k} +", "completions": [f"{k} a b", "a a"], "rewards": [1, 0]} for k in range(4)]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def find(models, *more):
    return run(
        "methods", "rocks", models / "answers.jsonl", "--student", models / "student", "--teacher", models / "teacher",
        "--out", models / "rocks.json", "--threads", 1, *more,
    )  # fmt: skip


def test_rocks_go_from_answers_to_the_mask_of_both_trainings(models):
    done = find(models, "--count", 2, "--skip", 1)
    assert done.exit_code == 0, done.stderr
    ids = json.loads((models / "rocks.json").read_text())
    assert len(ids) == 2
    assert "2 ids: " in done.stdout
    assert f"ids  {models / 'rocks.json'}" in done.stdout
    found = json.loads(find(models, "--count", 2, "--skip", 1, "--json").stdout)
    assert [rock["id"] for rock in found["rocks"]] == ids
    assert 0 < found["share_of_tokens"] < 1
    assert 0 < found["share_of_kl"] < 1

    (models / "data.jsonl").write_text(json.dumps({"prompt": "1 +", "response": "1 a b"}))
    learn = ("sft", models / "data.jsonl", "--model", models / "student", "--steps", 1, "--rows", 1, "--runs", models)
    done = run(*learn, "--leave-out", models / "rocks.json")
    assert done.exit_code == 0, done.stderr
    line = json.loads((models / "sft" / "metrics.jsonl").read_text())
    tokens = [WORDS.index(word) for word in ("1", "a", "b", "<end>")]
    assert line["tokens/learned"] == sum(token not in ids for token in tokens)

    recipe = Path(__file__).parents[1] / "recipes" / "methods" / "rock_tokens.toml"
    loaded = load_recipe(recipe, [f"credit.ids={(models / 'rocks.json').read_text()}"])
    assert credit_chain(loaded).links[-1].arguments["ids"] == sorted(ids)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--head", "fuse"), "--head 'fuse' is neither"),
        (("--count", 0), "count is 0 and skip is 5"),
        (("--temperature", 0), "temperature is 0.0"),
        (("--student", "x", "--student", "y"), "3 students and 1 sets of answers"),
    ],
)
def test_mistakes_with_rocks_are_told_in_one_sentence(models, more, message):
    done = find(models, *more)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (models / "rocks.json").exists()


def test_token_texts_of_a_model_cannot_hide_or_break_a_line():
    rock = Rock(id=7, frequency=3, mean=0.5, score=1.5)
    assert rocks_text([(rock, "a\n\u202eb")])[1].endswith("'a\\n⟨U+202E⟩b'")
