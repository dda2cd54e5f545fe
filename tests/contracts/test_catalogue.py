"""What every method that ships must have beside its function."""

from __future__ import annotations

from pathlib import Path

import pytest
from method_table import ROWS

from forkpoint.catalogue import pages
from forkpoint.credit import LINKS
from forkpoint.methods import METHODS, describe, describe_method
from forkpoint.train.recipe import credit_chain, load_recipe
from method_kit import collected

ROOT = Path(__file__).resolve().parents[2]
EVERY_METHOD = pytest.mark.parametrize("name", METHODS)


@EVERY_METHOD
def test_a_method_has_a_row_in_the_contracts(name):
    assert name in {entry.method for entry in ROWS.values()}


@EVERY_METHOD
def test_a_method_has_a_case_worked_out_by_hand(name):
    assert name in {case.split()[0] for case in collected("CASES")}


@EVERY_METHOD
def test_a_method_has_a_recipe_that_builds_it(name):
    places = [ROOT / "recipes" / folder / f"{name}.toml" for folder in ("methods", "countdown")]
    found = [place for place in places if place.exists()]
    assert found, f"write {places[0]}"
    recipe = load_recipe(found[0])
    assert recipe.credit.method == name
    assert credit_chain(recipe).links


@EVERY_METHOD
def test_a_docstring_says_what_the_catalogue_needs(name):
    row = describe_method(name, METHODS[name])
    for part in ("summary", "equation", "paper", "source", "reduces"):
        assert row[part], f"{name}: its docstring lacks {part}"
    assert row["confidence"].split()[0] in ("verified", "inspired")
    for argument in (*row["arguments"], *row["required"]):
        assert f"    {argument}: " in METHODS[name].__doc__, f"{name}: {argument} is not among its Args"


@EVERY_METHOD
def test_every_link_of_a_method_says_its_stage(name):
    row = describe_method(name, METHODS[name])
    assert "credit" not in row["stage"].split(", ")


def test_pages_are_those_of_the_docstrings():
    """`python -m forkpoint.catalogue` writes them."""
    folder = ROOT / "docs" / "methods"
    written = {path.name: path.read_text() for path in folder.glob("*.md")}
    expected = pages([row for row in describe() if row["name"] in METHODS])
    assert sorted(written) == sorted(expected)
    stale = [name for name, text in expected.items() if written[name] != text]
    assert not stale, f"run `python -m forkpoint.catalogue docs/methods`: {stale} differ"


def test_links_are_found_by_their_name():
    assert {"clip", "kl", "top_entropy", "snapshot"} <= set(LINKS)
    assert not {"masked", "scheduled"} & set(LINKS)
