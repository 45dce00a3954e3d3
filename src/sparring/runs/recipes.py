"""Runs known to work, by name: MAGIC, SSP, Self-RedTeam and their ablations; ours and plug-ins'."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import yaml

from sparring import packaged
from sparring.games.payoffs import Payoff
from sparring.judges.judge import Judge
from sparring.runs.build import build
from sparring.runs.models import as_begun
from sparring.runs.run import Objects, Run
from sparring.settings import config as configuration
from sparring.settings.config import RunConfig, merged, overlaid, parse
from sparring.store.folder import RunDir
from sparring.types import Player, Seed, State, UsageError, Verdict, near


@dataclass(frozen=True)
class Recipe:
    """Where a recipe differs from the general defaults, and where the sandbox differs from it.

    A recipe of another game brings its own `build`, which makes a run of a full configuration.
    """

    defaults: Mapping[str, Any]
    sandbox: Mapping[str, Any]
    build: Callable[..., Run] = build
    name: str = ""

    def __call__(
        self,
        model: Any = None,
        attacker: Any = None,
        *,
        defender: Any = None,
        seeds: str | Path | Sequence[Seed] | None = None,
        judge: str | Judge | Callable[[State], Verdict] | None = None,
        payoff: Payoff | Callable[[Seed, Verdict], float] | None = None,
        **settings: Any,
    ) -> Run:
        """Build a run of this recipe, which loads its models.

        `model` is the defender's; it, `attacker` (by default the same) and `defender` are paths,
        hub names or a loaded model with its tokenizer, `(model, tokenizer)`, or a section of a
        configuration, such as `{"warm_start": "pool.jsonl"}`; without a model the sandbox's plays.
        `seeds` are a file or a list. `settings` are the sections of a configuration, such as
        `rounds=20, game={"gate": False}`.
        """
        if model is not None and defender is not None:
            if isinstance(model, Mapping) or not isinstance(defender, Mapping):
                raise UsageError(
                    "defender: wanted its model once, beside a section of its settings"
                )
            defender = {"model_name_or_path": model, **defender}
        objects, tree = Objects.of(
            model if defender is None else defender, attacker, seeds, judge, payoff
        )
        config = resolve(merged(merged({"recipe": self.name}, tree), settings), self)
        return self.build(config, objects) if objects else self.build(config)


TABLES: Mapping[str, Any] = packaged.table("runs/recipes.yaml")
"""What each recipe plays: with own models, in the paper with its source, and in the sandbox."""

PRESETS: Any = packaged.table("runs/presets.yaml")
"""What fits which model on which card."""


def _column(name: str, table: str) -> dict[str, Any]:
    """Return the first column of a recipe's table, which is what is played, as a tree."""
    return overlaid({}, {key: row[0] for key, row in TABLES[name][table].items()})


RECIPES: Mapping[str, Recipe] = {
    name: Recipe(_column(name, "own"), _column(name, "sandbox"), name=name) for name in TABLES
}
magic, ssp = RECIPES["magic"], RECIPES["ssp"]
PLUGINS = "sparring.recipes"
"""The entry-point group in which other packages name their recipes; ours keep their names."""


def known(name: str) -> Recipe:
    """The recipe of that name: one of ours, or another package's (entry points of `PLUGINS`)."""
    if name in RECIPES:
        return RECIPES[name]
    points = entry_points(group=PLUGINS)
    names = [*RECIPES, *sorted(points.names - RECIPES.keys())]
    if name not in names:
        raise UsageError(f"recipe: no recipe {name!r:.40} and no such file; {near(name, names)}")
    matching = tuple(points.select(name=name))
    if len({point.value for point in matching}) > 1:
        plugins = " and ".join(sorted(map(_origin, matching)))
        raise UsageError(f"recipe {name}: more than one plug-in has it: {plugins}; uninstall one")
    return _plugged(matching[0])


def _plugged(point: EntryPoint) -> Recipe:
    """Return a plug-in's recipe; UsageError names the plug-in, whatever its code raises."""
    plugin = f"recipe {point.name}: the plug-in {_origin(point)}"
    try:
        recipe = point.load()
    except Exception as error:
        raise UsageError(f"{plugin} does not load: {type(error).__name__}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise UsageError(f"{plugin} is of type {type(recipe).__name__}; wanted a sparring.Recipe")
    return replace(recipe, name=point.name)


def _origin(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name if point.dist else 'an unnamed package'}"


def resolve(tree: Mapping[str, Any], recipe: Recipe | None = None) -> RunConfig:
    """Return a full configuration: the user's settings on the recipe's defaults for its place.

    A `recipe` that a program has made itself need not be known by its name.
    """
    place = parse({key: tree[key] for key in ("recipe", "data") if key in tree})
    recipe = recipe or known(place.recipe)
    defaults = merged(RunConfig().model_dump(mode="json"), recipe.defaults)
    if place.in_sandbox:
        defaults = merged(defaults, recipe.sandbox)
    return parse(merged(defaults, tree))


def preset(recipe: str, model: str, gib: float) -> str:
    """Return the YAML of a recipe for a known model on a card of `gib` GiB; 0 is none.

    UsageError names the models that are known, or the cards that there are presets for.
    """
    if model not in (models := PRESETS["models"]):
        raise UsageError(f"--for: no preset {model!r:.40}; {near(model, models)}")
    name, cards = models[model]["name"], models[model]["cards"]
    fitting = [size for size in cards if size == gib or 0 < size <= gib]
    if not fitting:
        raise UsageError(f"--gpu: {gib:g} GiB; {model} has presets for {[*cards]} (0: no GPU)")
    more = {**PRESETS["recipes"].get(recipe, {}), **cards[max(fitting)]}
    players = {f"{player}.model_name_or_path": name for player in Player}
    values = {"recipe": known(recipe).name, **players, **PRESETS["common"], **more}
    head: str = PRESETS["head"].format(recipe=recipe, model=name, gib=max(fitting))
    return head + yaml.safe_dump(overlaid({}, values), sort_keys=False)


def configured(recipe_or_file: str, words: Sequence[str]) -> RunConfig:
    """The configuration of a recipe's name or a YAML file: default < file < command line."""
    if recipe_or_file.startswith("-"):
        raise UsageError(
            f"{recipe_or_file}: name the recipe or the YAML file first, then what differs"
        )
    tree: Any = {"recipe": recipe_or_file}
    if recipe_or_file.endswith((".yaml", ".yml")):
        tree = configuration.read_yaml(Path(recipe_or_file)) or {}
        if not isinstance(tree, dict):
            raise UsageError(f"{recipe_or_file}: wanted keys and values")
    return resolve(merged(tree, configuration.from_words(words)))


def check_resumable(folder: RunDir, config: RunConfig) -> RunConfig:
    """Refuse settings that would make a recorded run another run.

    Returns the configuration to go on with: hub models at the commits it began with. `rounds` may
    grow, and the run plays on.
    """
    folder.check_models()
    before = folder.config
    config = as_begun(before, config)
    longer = before.model_copy(update={"rounds": max(before.rounds, config.rounds)})
    differences = configuration.changed(longer, config)
    if differences:
        raise UsageError(
            f"--resume: {folder.folder} was started with other settings; repeat the command it was "
            "started with, or choose another output_dir\n" + "\n".join(differences)
        )
    return config
