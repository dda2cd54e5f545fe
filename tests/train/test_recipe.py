"""Recipes: files, overrides, paths, and the sentences that explain mistakes."""

from __future__ import annotations

import inspect
import json
import math
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forkpoint.credit import LINKS, Link
from forkpoint.errors import InputError
from forkpoint.methods import METHODS, forking
from forkpoint.train.dryrun import to_toml
from forkpoint.train.recipe import credit_chain, load_recipe, parse_override, resolved
from forkpoint.train.schema import Recipe, settings

MINIMAL = """
name = "small"
[model]
path = "owner/model"
[train]
steps = 3
"""


@pytest.fixture
def write(tmp_path):
    def to(text: str, name: str = "r.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return to


def mistake(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_defaults_are_the_papers(write):
    recipe = load_recipe(write(MINIMAL))
    train = recipe.train
    assert (train.prompts, train.mini_prompts, train.lr, train.weight_decay) == (512, 32, 1e-6, 0.1)
    assert (train.grad_clip, train.warmup, train.dynamic_sampling) == (1.0, 0, True)
    assert (recipe.decode.temperature, recipe.decode.top_p, recipe.decode.top_k) == (1.0, 1.0, 0)
    assert credit_chain(recipe).describe() == forking().describe()


def test_every_field_is_documented():
    assert [name for name, info in settings().items() if not info.description and name != "credit"] == []


def test_overrides_are_toml_with_text_as_fallback(write):
    path = write(MINIMAL)
    recipe = load_recipe(
        path,
        [
            "train.lr=1e-4",
            "model.lora.rank=8",
            "decode.stop=[\"a\", 'b']",
            "model.dtype=bfloat16",
            "name=other",
        ],
    )
    assert (recipe.train.lr, recipe.model.lora.rank, recipe.decode.stop) == (1e-4, 8, ("a", "b"))
    assert (recipe.model.dtype, recipe.name) == ("bfloat16", "other")


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1", 1), ("a=1.5", 1.5), ("a=true", True), ("a=True", "True"), ("a=x=y", "x=y"), ("a=", ""),
     ("a=1\nb = 2", "1\nb = 2"), ("a=[1", "[1"), ("a={b = 1}", {"b": 1})],
)  # fmt: skip
def test_override_values(text, value):
    assert parse_override(text) == (["a"], value)


@pytest.mark.parametrize("text", ["train", "=3", "train..lr=3", ".=1"])
def test_malformed_override(text):
    with pytest.raises(InputError, match="name=value"):
        parse_override(text)


def test_override_reaches_into_a_chain(write):
    path = write(MINIMAL + '[[credit]]\nlink = "group_advantage"\n[[credit]]\nlink = "top_entropy"\nshare = 0.5\n')
    chain = credit_chain(load_recipe(path, ["credit.1.share=0.25"]))
    assert [link.name for link in chain.links] == ["group_advantage", "top_entropy"]
    assert chain.links[1].arguments["share"] == 0.25
    assert "list of 2 tables" in mistake(path, "credit.2.share=0.25")
    assert "list of 2 tables" in mistake(path, "credit.x=1")


def test_override_through_a_value(write):
    assert "name is a value" in mistake(write(MINIMAL), "name.first=x")


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("train.prompt=3", "'train.prompts'"),
        ("train.learning_rate=3", "'train.lr'"),
        ("decode.max_new_tokens=3", "'decode.max_tokens'"),
        ("lr=3", "'train.lr'"),
        ("trian.lr=3", "'train'"),
        ("model.lora.rnk=8", "'model.lora.rank'"),
        ("train.temperature=1", "'decode.temperature' or 'eval.temperature'"),
        ("reward.zzzz=1", "[reward] has overlong_buffer, overlong_factor"),
    ],
)
def test_unknown_setting_names_the_nearest(write, override, nearest):
    message = mistake(write(MINIMAL), override)
    assert nearest in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("credit.method=grop", "unknown method 'grop' in [credit]: did you mean 'grpo'?"),
        (
            'credit={method="forking", shar=0.1}',
            "method 'forking' has no argument 'shar': did you mean 'share'?",
        ),
        ('credit={method="forking", share="hi"}', "method 'forking': share = 'hi': must be a valid number"),
        ('credit={method="forking", share=2}', "share"),
        ('credit={method="forking", scope="minni"}', "did you mean 'mini'?"),
        ('credit={method="forking", preset="papr"}', "did you mean 'paper'?"),
        ('credit=[{link="clp"}]', "unknown link 'clp' in [credit]: did you mean 'clip'?"),
        ('credit=[{link="clip", lo=0.1}]', "link 'clip' has no argument 'lo': did you mean 'low'?"),
        ('credit=[{link="sequence_ratio", lo=0.1}]', "it takes none"),
        ('credit=[{link="snapshot"}]', "link 'snapshot' needs the argument 'name'"),
        ("credit=[]", "empty list"),
        ("credit={}", "must name a method"),
        ("credit=[{}]", "must name a method"),
        ("credit=3", "credit must be a table"),
    ],
)
def test_mistakes_in_credit(write, override, said):
    assert said in mistake(write(MINIMAL), override)


def test_credit_uses_the_functions_it_is_given(write):
    path = write(MINIMAL + '[[credit]]\nlink = "fake"\nx = 2.5\n')
    seen = []

    def fake(*, x: float = 1.0) -> Link:
        seen.append(x)
        return Link(name="fake", arguments={"x": x})

    assert credit_chain(load_recipe(path, links={"fake": fake}), links={"fake": fake}).links[0].arguments == {"x": 2.5}
    assert set(seen) == {2.5}


def test_swapping_the_method_is_explicit(write):
    bare = write(MINIMAL + '[credit]\nmethod = "forking"\n', "bare.toml")
    assert credit_chain(load_recipe(bare, ["credit.method=grpo"])).describe() == METHODS["grpo"]().describe()
    full = write(MINIMAL + '[credit]\nmethod = "forking"\nshare = 0.1\n', "full.toml")
    message = mistake(full, "credit.method=dapo")
    assert "'forking'" in message
    assert "'dapo'" in message
    assert "share" in message
    # What the message recommends works.
    remedy = re.search(r"credit='(.*?)'", message)[1]
    assert load_recipe(full, [f"credit={remedy}"]).credit.method == "dapo"
    assert load_recipe(full, ["credit.method=forking"]).credit.arguments == {"share": 0.1}
    listed = write(MINIMAL + '[[credit]]\nlink = "clip"\n', "list.toml")
    assert "chain of links" in mistake(listed, "credit.method=grpo")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.prompts=33", "not a multiple of train.mini_prompts"),
        ("train.prompts=16", "more than train.prompts"),
        ("train.group=1", "train.dynamic_sampling = false"),
        ("reward.overlong_buffer=1024", "smaller than decode.max_tokens = 1024"),
        ("prompt.template=hello", "{question}"),
        ("decode.temperature=0", "greater than 0"),
        ("decode.temperature=inf", "finite"),
        ("train.lr=nan", "finite"),
        ("train.steps=1.5", "train.steps = 1.5: must be a valid integer"),
        ("train.steps=true", "must be a valid integer"),
        ("train.betas=[0.9, 1.0]", "two numbers in [0, 1)"),
        ("train.betas=[0.9]", "too few values"),
        ("model.dtype=bf16", "did you mean 'bfloat16'?"),
        ("model.lora.targets=q_proj", "neither 'all-linear' nor a list"),
        ("model=x", "model must be a table"),
        ("task.name=data", "task.train must name"),
        ("task.train=data", "draws its own problems"),
        ("name=a/b", "names a folder"),
        ("seed=-1", "seed = -1"),
    ],
)
def test_values_are_checked_in_sentences(write, override, said):
    assert said in mistake(write(MINIMAL), override)


def test_group_of_one_and_a_group_link(write):
    message = mistake(write(MINIMAL), "train.group=1", "train.dynamic_sampling=false")
    assert message == "link 'group_advantage' compares the answers to one prompt: train.group must be at least 2"
    recipe = load_recipe(
        write(MINIMAL), ["train.group=1", "train.dynamic_sampling=false", "credit.method=reinforce_pp"]
    )
    assert recipe.train.group == 1


def test_several_mistakes_are_told_at_once_and_not_all(write):
    wrong = ["train.lr=-1", "train.steps=a", "zz=1", "decode.top_p=0", "seed=x", "name=4", "eval.every=-1"]
    lines = mistake(write(MINIMAL), *wrong).split("\n")
    assert lines[-1] == "… and 2 more"
    assert len(lines) == 6


def test_missing_settings(write):
    path = write('name = "x"\n[model]\npath = "a/b"\n')
    assert "train is missing" in mistake(path)
    assert "train.steps is missing" in mistake(path, "train.lr=1")


def test_toml_errors_name_file_and_line(write):
    path = write('name = "x"\n[model\npath = 1\n')
    message = mistake(path)
    assert str(path) in message
    assert "line 2" in message
    assert "the last line" in mistake(write('name = "x', "open.toml"))


def test_files_that_are_no_recipes(tmp_path, write):
    write(MINIMAL, "demo.toml")
    assert "did you mean 'demo.toml'?" in mistake(tmp_path / "dmo.toml")
    assert "directory" in mistake(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    assert "UTF-8" in mistake(tmp_path / "latin.toml")


def test_paths_are_found_here_and_beside_the_recipes_repository(tmp_path, write, monkeypatch):
    here, repository = tmp_path / "here", tmp_path / "repository"
    (repository / "recipes").mkdir(parents=True)
    (repository / "pyproject.toml").touch()
    (repository / "models" / "m").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    path = repository / "recipes" / "r.toml"
    path.write_text(MINIMAL)
    assert load_recipe(path, ["model.path=models/m"]).model.path == str(repository / "models" / "m")
    (here / "models" / "m").mkdir(parents=True)
    assert load_recipe(path, ["model.path=models/m"]).model.path == str(here / "models" / "m")
    for missing in ("./nope", "models/nope", "a/b/c"):
        message = mistake(path, f"model.path={missing}")
        assert str((here / missing).resolve()) in message
        assert str((repository / missing).resolve()) in message
    assert load_recipe(path, ["model.path=Qwen/Qwen3-0.6B"]).model.path == "Qwen/Qwen3-0.6B"
    assert "task.train" in mistake(path, "task.name=data", "task.train=nope.jsonl")


def test_resolved_is_json_and_loads_again(write):
    path = write(MINIMAL + '[model.lora]\ntargets = ["q_proj"]\n[[credit]]\nlink = "clip"\nlow = 0.1\n')
    recipe = load_recipe(path)
    table = json.loads(json.dumps(resolved(recipe)))
    assert Recipe.model_validate(table) == recipe
    assert load_recipe(write(to_toml(resolved(recipe)), "again.toml")) == recipe


@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(
    st.text("abc", min_size=1),
    st.recursive(
        st.text() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    ),
    max_size=4,
))  # fmt: skip
def test_toml_written_is_toml_read(table):
    back = tomllib.loads(to_toml({"table": table, "rows": [table]}))
    assert back.get("table", {}) == table
    assert back["rows"] == [table]


def test_recipes_are_frozen(write):
    recipe = load_recipe(write(MINIMAL))
    with pytest.raises(Exception, match="frozen"):
        recipe.train.lr = 1.0


def test_settings_cover_the_schema():
    names = list(settings())
    assert len(names) == len(set(names)) > 60
    assert not [name for name in names if name.split(".")[0] not in Recipe.model_fields]


@pytest.mark.parametrize("function", [*METHODS.values(), *LINKS.values()], ids=lambda f: f.__name__)
def test_methods_and_links_take_keywords_alone(function):
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    # `snapshot(name)` is the one link with a required argument; a recipe passes it by keyword all the same.
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_infinity_survives():
    assert math.isinf(tomllib.loads(to_toml({"x": math.inf}))["x"])
