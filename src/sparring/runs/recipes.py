"""Runs known to work, by name: MAGIC, SSP, Self-RedTeam and their ablations."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from sparring.runs.build import assemble
from sparring.runs.parts import as_begun
from sparring.runs.run import Match
from sparring.settings.config import RunConfig, changed, from_words, load_yaml, merged, parse
from sparring.store.folder import RunDir
from sparring.types import UsageError


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


_LORA = {
    "r": 8,
    "lora_alpha": 16,
    "modules_to_save": ["embed_tokens", "lm_head"],
    "ensure_weight_tying": True,
}
"""With weights: adapters. The base never learned to emit the tags, so the output head must move."""
TWO_MODELS: Mapping[str, Any] = {
    "rounds": 160,
    "weights": "separate",
    "attacker": {"lora": _LORA},
    "defender": {"lora": _LORA},
    "sampling": {"max_completion_length": 56},
    "learner": {
        "learning_rate": {"attacker": 4e-4, "defender": 3e-4},
        "num_generations": {"attacker": 8, "defender": 4},
        "seeds_per_round": {"attacker": 32, "defender": 64},
        "optimizer": {"micro_batch_tokens": 2048},
    },
    "schedule": {"every": 10},
    "game": {"diversity": 0.5},
    "warm_up": {"learning_rate": 2e-3, "pool": "broad"},
    "memory": {"experience": {"capacity": 256}, "league": {"opponents": "uniform"}},
}
"""An attacker and a defender of full weights each, learning in turn.

The broad pool, the diversity term and the league are what held against attackers that train on
the defender (docs/results.md).
"""

ONE_MODEL: Mapping[str, Any] = {
    "rounds": 160,
    "attacker": {"lora": _LORA},
    "defender": {"lora": _LORA},
    "sampling": {"max_completion_length": 56},
    "learner": {
        "learning_rate": 3e-4,
        "num_generations": 4,
        "seeds_per_round": 32,
        "optimizer": {"micro_batch_tokens": 2048},
    },
    "game": {"diversity": 0.25},
    "warm_up": {"learning_rate": 2e-3, "steps": 375, "pool": "broad"},
    "memory": {"experience": {"capacity": 256}},
}
"""One model of full weights in both seats, learning every round."""


magic = Recipe({}, TWO_MODELS)


ssp = Recipe(
    {
        "weights": "shared",
        "schedule": {"kind": "both"},
        "game": {"payoff": "score", "helpfulness": 0.0},
        "learner": {"num_generations": 4},
        "warm_up": {"chat": 0.5},
        "memory": {"experience": {"sampler": "ucb"}},
    },
    ONE_MODEL,
)


self_redteam = Recipe(
    {
        "weights": "shared",
        "schedule": {"kind": "both"},
        "game": {
            "payoff": "self_redteam",
            "gate": False,
            "helpfulness": 0.0,
            "format": 1.0,
            "reply_format": 1.0,
        },
        "learner": {
            "num_generations": 1,
            "advantage": "role_baseline",
            "beta": 0.01,
            "learning_rate": 5e-7,
            "chat_batch": 32,
        },
        "warm_up": {"chat": 0.5},
        "data": {"as_they_stand": 0.5},
    },
    {
        **ONE_MODEL,
        "game": {"diversity": 0.0},
        "learner": {
            "learning_rate": 3e-4,
            "num_generations": 1,
            "seeds_per_round": 256,
            "chat_batch": 32,
            "optimizer": {"micro_batch_tokens": 2048},
        },
    },
)


no_game = Recipe(
    {"schedule": {"kind": "defender"}, "data": {"as_they_stand": 1.0}, "warm_up": {"steps": 0}},
    TWO_MODELS,
)


defender_only = Recipe({"schedule": {"kind": "defender"}}, TWO_MODELS)


base_attacker = Recipe({"warm_up": {"steps": 0}}, TWO_MODELS)


defender_cot = Recipe({"game": {"reply_format": 0.5}}, TWO_MODELS)


RECIPES: Mapping[str, Recipe] = {
    "magic": magic,
    "ssp": ssp,
    "self_redteam": self_redteam,
    "no_game": no_game,
    "defender_only": defender_only,
    "base_attacker": base_attacker,
    "defender_cot": defender_cot,
}

PLUGINS = "sparring.recipes"
"""The entry-point group in which other packages name their recipes; ours keep their names."""


def known(name: str) -> Recipe:
    """The recipe of that name: one of ours, or another package's (entry points of `PLUGINS`)."""
    if name in RECIPES:
        return RECIPES[name]
    found = entry_points(group=PLUGINS)
    names = [*RECIPES, *sorted(found.names - RECIPES.keys())]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
        raise UsageError(f"recipe: no recipe {name!r:.40} and no such file; {hint}")
    mine = tuple(found.select(name=name))
    if len({point.value for point in mine}) > 1:
        told = " and ".join(sorted(map(_origin, mine)))
        raise UsageError(f"recipe {name}: more than one plug-in has it: {told}; uninstall one")
    return _plugged(mine[0])


def _plugged(point: EntryPoint) -> Recipe:
    """A plug-in's recipe; whatever its code raises is told as the plug-in's."""
    try:
        told = point.load()
    except Exception as error:
        raise UsageError(
            f"recipe {point.name}: the plug-in {_origin(point)} does not load: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(told, Recipe):
        raise UsageError(
            f"recipe {point.name}: the plug-in {_origin(point)} is of type {type(told).__name__}; "
            "wanted a sparring.Recipe"
        )
    return told


def _origin(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name if point.dist else 'an unnamed package'}"


def resolve(told: Mapping[str, Any]) -> RunConfig:
    """A full configuration: what the user said, on the recipe's defaults for where it plays."""
    plain = RunConfig().model_dump(mode="json")
    config = parse(merged(plain, told))
    recipe = known(config.recipe)
    defaults = merged(plain, recipe.defaults)
    if config.in_sandbox:
        defaults = merged(defaults, recipe.sandbox)
    return parse(merged(defaults, told))


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


def check_resumable(run: RunDir, config: RunConfig) -> RunConfig:
    """Refuse settings that would make a recorded run another run.

    Returns the configuration to go on with: hub models at the commits it began with.
    """
    before = resolve(load_yaml(run.config_yaml, str(run.folder / "config.yaml")))
    config = as_begun(before, config)
    differences = changed(before, config)
    if differences:
        raise UsageError(
            f"--resume: {run.folder} was started with other settings; repeat the command it was "
            "started with, or choose another output_dir\n" + "\n".join(differences)
        )
    return config
