"""Numbers of a recipe's chain that move while the run goes on."""

from __future__ import annotations

import pytest

from forkpoint.errors import InputError
from forkpoint.train.recipe import credit_chain, load_recipe, resolved

MINIMAL = """
name = "moving"
[model]
path = "owner/model"
[train]
steps = 2
"""


@pytest.fixture
def write(tmp_path):
    def put(credit):
        path = tmp_path / "recipe.toml"
        path.write_text(MINIMAL + credit)
        return path

    return put


def test_a_link_and_a_method_may_hold_a_schedule(write):
    moving = 'share = {schedule = "linear", start = 1.0, stop = 0.2, steps = 100}\n'
    for credit in (
        '[credit]\nmethod = "forking"\n',
        '[[credit]]\nlink = "group_advantage"\n[[credit]]\nlink = "top_entropy"\n',
    ):
        recipe = load_recipe(write(credit + moving))
        link = credit_chain(recipe).links[-1]
        assert (link.name, link.arguments["share"]) == ("scheduled(top_entropy)", "schedule")
        assert link.init() == {"calls": 0, "inner": {}}
        assert "linear" in str(resolved(recipe)["credit"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('{schedule = "linera", start = 1.0, stop = 0.2, steps = 100}', "did you mean 'linear'"),
        ('{schedule = "linear", start = 1.0, steps = 100}', "needs stop"),
        ('{schedule = "linear", start = 1.0, stop = 1.5, steps = 100}', "share is 1."),
        ('{schedule = "linear", start = 1.0, stop = "low", steps = 100}', "stop is 'low'"),
        ("{start = 1.0}", "share = {'start': 1.0}"),
    ],
)
def test_mistakes_are_named(write, table, message):
    with pytest.raises(InputError) as error:
        load_recipe(write(f'[credit]\nmethod = "forking"\nshare = {table}\n'))
    assert message in str(error.value)


def test_what_is_no_number_cannot_move(write):
    with pytest.raises(InputError, match="preset"):
        load_recipe(
            write('[credit]\nmethod = "forking"\npreset = {schedule = "linear", start = 1.0, stop = 0.2, steps = 9}\n')
        )
