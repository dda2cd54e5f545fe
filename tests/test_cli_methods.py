"""`forkpoint methods`: list, show and plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forkpoint import cli
from forkpoint.cli_methods import parsed
from forkpoint.errors import InputError
from forkpoint.methods import METHODS, method_chain

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
        (("plot", "dapo"), "name the run"),
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
