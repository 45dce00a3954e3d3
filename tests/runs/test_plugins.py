"""Recipes of other packages, found by their entry points as an installer would write them."""

import sys

import pytest
from tests.command import sparring_command

from sparring.runs.recipes import RECIPES, configured, known
from sparring.types import UsageError

GOOD = """
from dataclasses import replace

from sparring.runs.recipes import Recipe, magic

vault = Recipe({**magic.defaults, "rounds": 7}, {**magic.sandbox, "rounds": 3})
moat = vault
number = 5
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package with one module and its entry points where Python looks for packages."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(package: str, code: str, *points: str) -> None:
        (tmp_path / f"{package}.py").write_text(code)
        monkeypatch.delitem(sys.modules, package, raising=False)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{point.split(':')[1]} = {point}" for point in points]
        (info / "entry_points.txt").write_text("\n".join(["[sparring.recipes]", *lines]) + "\n")

    yield installed
    for package in ("keep_one", "keep_two"):
        sys.modules.pop(package, None)


def refused(name: str) -> str:
    with pytest.raises(UsageError) as told:
        known(name)
    return str(told.value)


def test_a_plug_in_is_a_recipe_with_its_own_settings(install):
    install("keep_one", GOOD, "keep_one:vault")
    assert configured("vault", []).rounds == 3
    assert configured("vault", ["rounds=4"]).rounds == 4
    assert configured("vault", []).game.diversity == configured("magic", []).game.diversity > 0


def test_the_command_line_knows_a_plug_in(install):
    install("keep_one", GOOD, "keep_one:vault")
    told = sparring_command("config", "show", "vault")
    assert told.code == 0, told.text
    assert "recipe: vault" in told.text
    assert "rounds: 3" in told.text


def test_a_misspelt_name_is_told_the_plug_in_it_was_meant_for(install):
    install("keep_one", GOOD, "keep_one:vault")
    assert "did you mean vault?" in refused("vualt")
    assert "known: magic, ssp" in refused("zzz")
    assert "defender_cot, vault" in refused("zzz")


def test_ours_keep_their_names(install):
    install("keep_one", "magic = 5", "keep_one:magic")
    assert known("magic") is RECIPES["magic"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_package", "No module named 'no_such_package'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("moat = 5", "has no attribute 'vault'"),
    ],
)
def test_a_plug_in_that_does_not_load_is_named_with_the_reason(install, code, why):
    install("keep_one", code, "keep_one:vault")
    told = refused("vault")
    assert "recipe vault: the plug-in keep_one:vault of keep_one does not load" in told
    assert why in told


def test_a_plug_in_that_is_no_recipe_is_named_with_what_it_is(install):
    install("keep_one", GOOD, "keep_one:number")
    told = refused("number")
    assert "the plug-in keep_one:number of keep_one is of type int" in told
    assert "wanted a sparring.Recipe" in told


def test_a_broken_plug_in_disturbs_no_other_recipe(install):
    install("keep_one", "1 / 0", "keep_one:vault")
    install("keep_two", GOOD, "keep_two:moat")
    assert configured("moat", []).rounds == 3
    assert configured("magic", []).recipe == "magic"


def test_a_name_that_two_packages_give_is_refused_with_both(install):
    install("keep_one", GOOD, "keep_one:vault")
    install("keep_two", GOOD, "keep_two:vault")
    told = refused("vault")
    assert "keep_one:vault of keep_one and keep_two:vault of keep_two" in told
