"""Recipes and judges of other packages, found by the entry points that an installer writes."""

import sys

import pytest
from tests.command import sparring_command

from sparring.runs.judges import judge_of
from sparring.runs.recipes import RECIPES, configured, known
from sparring.settings.sections import JudgeSettings
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
    """Put a package with one module and its entry point where Python looks for packages."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(package: str, code: str, points: str, group: str = "sparring.recipes") -> None:
        (tmp_path / f"{package}.py").write_text(code)
        monkeypatch.delitem(sys.modules, package, raising=False)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = (f"{point} = {package}:{point}" for point in points.split())
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))

    yield installed
    for package in ("keep_one", "keep_two", "keep_three"):
        sys.modules.pop(package, None)


def refused(name: str) -> str:
    with pytest.raises(UsageError) as error:
        known(name)
    return str(error.value)


def test_a_plug_in_is_a_recipe_with_its_own_settings(install):
    install("keep_one", GOOD, "vault")
    assert configured("vault", []).rounds == 3
    assert configured("vault", ["rounds=4"]).rounds == 4
    assert configured("vault", []).game.diversity == configured("magic", []).game.diversity > 0
    ended = sparring_command("config", "show", "vault")
    assert ended.code == 0, ended.text
    assert "recipe: vault" in ended.text
    assert "did you mean vault?" in refused("vualt")
    assert "known: magic, ssp" in refused("zzz")
    assert "ssp_hardened, vault" in refused("zzz")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_package", "does not load: ModuleNotFoundError: No module named 'no_such"),
        ("1 / 0", "does not load: ZeroDivisionError: division by zero"),
        ("moat = 5", "does not load: AttributeError: module 'keep_one' has no attribute 'vault'"),
        ("vault = 5", "is of type int; wanted a sparring.Recipe"),
    ],
)
def test_a_plug_in_that_is_broken_is_named_with_the_reason_and_disturbs_no_other(
    install, code, message
):
    install("keep_one", code, "vault")
    install("keep_two", GOOD, "moat")
    assert f"recipe vault: the plug-in keep_one:vault of keep_one {message}" in refused("vault")
    assert configured("moat", []).rounds == 3
    assert configured("magic", []).recipe == "magic"


def test_ours_keep_their_names_and_a_name_that_two_packages_give_is_refused_with_both(install):
    install("keep_one", "magic = 5", "magic")
    assert known("magic") is RECIPES["magic"]
    install("keep_two", GOOD, "vault")
    install("keep_three", GOOD, "vault")
    assert "keep_three:vault of keep_three and keep_two:vault of keep_two" in refused("vault")


JUDGE = """
from sparring import FunctionJudge, Harm, Verdict
from sparring.judges.judge import refuses


def gate(settings):
    blind = settings.settings.get("blind", False)

    def rule(state):
        refused = not blind and refuses(state.moves[-1].sent)
        return Verdict(refused=refused, reply_harm=None)

    return FunctionJudge(rule, frozenset({"refused"}), settings.settings.get("name", "gate"))


def own(settings):
    from sparring.judges.probe import KnownExchange

    class Moat(FunctionJudge):
        known = [
            KnownExchange("shut", "open", f"the moat is {side}", True, {"refused": side == "shut"})
            for side in ("shut", "open")
        ]

    word = settings.settings.get("word", "shut")
    return Moat(lambda s: Verdict(refused=word in s.moves[-1].sent), frozenset({"refused"}))


def broken(settings):
    return settings.settings["height"]


def other(settings):
    return 5
"""


def plugged(kind, **settings):
    return judge_of([JudgeSettings(kind=kind, settings=settings)], {}, "salt")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("gate", {}, None),
        ("gate", {"name": "portcullis"}, None),
        ("gate", {"blind": True}, "gate fails its start-up questions.*refused is right on 0 of"),
        ("own", {}, None),
        ("own", {"word": "moat"}, "fails its start-up questions"),
        (
            "broken",
            {},
            "judge.kind: the plug-in keep_one:broken makes no judge: KeyError: 'height'",
        ),
        ("other", {}, "judge.kind: the plug-in keep_one:other makes no judge: AttributeError"),
        ("gaet", {}, "judge.kind: there is no judge 'gaet'; did you mean gate?"),
        ("keyword", {"height": 3}, "judge.settings: goes with a plug-in's kind, not keyword"),
    ],
)
def test_a_plug_in_judge_takes_settings_and_has_to_pass_its_known_answers(
    install, kind, settings, message
):
    install("keep_one", JUDGE, "gate own broken other", "sparring.judges")
    if message is None:
        assert plugged(kind, **settings).name == settings.get("name", plugged(kind).name)
        return
    with pytest.raises(UsageError, match=message):
        plugged(kind, **settings)
