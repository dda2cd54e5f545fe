"""Methods and links are found by what they return."""

import sys

import pytest

from forkpoint import methods
from forkpoint.credit import LINKS
from forkpoint.discovery import functions_returning


def package(folder, monkeypatch, name="found_here", **files):
    place = folder / name
    place.mkdir()
    (place / "__init__.py").write_text("")
    for module, text in files.items():
        (place / f"{module}.py").write_text("from __future__ import annotations\n" + text)
    monkeypatch.syspath_prepend(folder)
    for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, loaded)
    return name, [str(place)]


def test_public_functions_of_their_own_module_with_the_annotation(tmp_path, monkeypatch):
    name, paths = package(
        tmp_path,
        monkeypatch,
        one="def a() -> Chain: ...\ndef b() -> int: ...\ndef _c() -> Chain: ...\nclass D: ...\n",
        two="from found_here.one import a\ndef e() -> Chain: ...\n",
        _three="def f() -> Chain: ...\n",
        four="def g() -> Chain: ...\n",
    )
    found = functions_returning("Chain", name, paths, skip=("four",))
    assert list(found) == ["a", "e"]
    assert found["a"].__module__ == "found_here.one"


def test_one_name_in_two_modules_is_refused(tmp_path, monkeypatch):
    name, paths = package(tmp_path, monkeypatch, one="def a() -> Chain: ...\n", two="def a() -> Chain: ...\n")
    with pytest.raises(ImportError, match=r"found_here\.one and found_here\.two both define 'a'"):
        functions_returning("Chain", name, paths)


def test_a_name_is_the_function_even_where_its_module_has_the_same():
    from forkpoint.methods import dapo

    assert dapo is methods.METHODS["dapo"]
    assert methods.dapo is dapo
    assert LINKS["clip"].__module__ == "forkpoint.credit.clip"


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'dapo'"):
        _ = methods.dapoo
