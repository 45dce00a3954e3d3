"""Runs known to work; each is a function from a configuration to a match."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.config import changed, from_words, load_yaml, merged, parse
from sparring.recipes.magic import SANDBOX_DEFAULTS, magic
from sparring.recipes.recipe import Match, Recipe
from sparring.records import RunDir
from sparring.settings import RunConfig
from sparring.types import UsageError

RECIPES: Mapping[str, tuple[Recipe, Mapping[str, Any]]] = {"magic": (magic, SANDBOX_DEFAULTS)}
"""By name: the recipe, and what it needs in the sandbox instead of the defaults."""

__all__ = [
    "RECIPES",
    "Match",
    "Recipe",
    "check_resumable",
    "configured",
    "known",
    "magic",
    "resolve",
]


def known(name: str) -> Callable[[RunConfig], Match]:
    """The recipe of that name."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(RECIPES)}"
        raise UsageError(f"recipe: no recipe {name!r:.40} and no such file; {hint}")
    return RECIPES[name][0]


def resolve(told: Mapping[str, Any]) -> RunConfig:
    """A full configuration: what the user said, on the sandbox's defaults if it plays there."""
    defaults = RunConfig().model_dump(mode="json")
    config = parse(merged(defaults, told))
    known(config.recipe)
    if not config.in_sandbox:
        return config
    return parse(merged(merged(defaults, RECIPES[config.recipe][1]), told))


def configured(what: str, words: Sequence[str]) -> RunConfig:
    """The configuration of a recipe's name or a YAML file: default < file < command line."""
    if what.startswith("-"):
        raise UsageError(f"{what}: name the recipe or the YAML file first, then what differs")
    path = Path(what)
    told: Any = {"recipe": what}
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8: {error}") from None
        told = load_yaml(text, str(path)) or {}
        if not isinstance(told, dict):
            raise UsageError(f"{path}: wanted keys and values")
    return resolve(merged(told, from_words(words)))


def check_resumable(run: RunDir, config: RunConfig) -> None:
    """Refuse settings that would make a recorded run another run."""
    before = resolve(load_yaml(run.config_yaml, str(run.folder / "config.yaml")))
    differences = changed(before, config)
    if differences:
        raise UsageError(
            f"--resume: {run.folder} was started with other settings; repeat the command it was "
            "started with, or choose another output_dir\n" + "\n".join(differences)
        )
