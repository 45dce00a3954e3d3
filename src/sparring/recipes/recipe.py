"""A recipe: a run known to work, as the settings that make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparring.recipes.assembly import assemble
from sparring.recipes.match import Match
from sparring.settings import RunConfig


@dataclass(frozen=True)
class Recipe:
    """What differs from the defaults, and from those in the sandbox.

    Calling it builds the match that a full configuration (`resolve`) describes, which loads
    models. A recipe of another game brings its own `build`.
    """

    defaults: Mapping[str, Any]
    sandbox: Mapping[str, Any]
    build: Callable[[RunConfig], Match] = assemble

    def __call__(self, config: RunConfig) -> Match:
        return self.build(config)
