"""Runs known to work; each is a function from a configuration to a match."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from sparring.config import RunConfig, merged, parse
from sparring.recipes.magic import SANDBOX_DEFAULTS, magic
from sparring.recipes.recipe import Match, Recipe
from sparring.types import UsageError

RECIPES: Mapping[str, tuple[Recipe, Mapping[str, Any]]] = {"magic": (magic, SANDBOX_DEFAULTS)}
"""By name: the recipe, and what it needs in the sandbox instead of the defaults."""

__all__ = ["RECIPES", "Match", "Recipe", "known", "magic", "resolve"]


def known(name: str) -> Callable[[RunConfig], Match]:
    """The recipe of that name."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(RECIPES)}"
        raise UsageError(f"recipe: no recipe {name!r:.40} and no such file; {hint}")
    return RECIPES[name][0]


def resolve(told: Mapping[str, Any]) -> RunConfig:
    """A full configuration: what the user said, on the sandbox's defaults if it plays there."""
    config = parse(told)
    known(config.recipe)
    if not config.in_sandbox:
        return config
    return parse(merged(RECIPES[config.recipe][1], told))
