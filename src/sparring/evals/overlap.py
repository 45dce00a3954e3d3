"""Which prompts of an evaluation the tested models were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparring.data.overlap import counted, described, overlap
from sparring.data.readers import read
from sparring.evals.folder import Overlap
from sparring.evals.models import ModelSettings
from sparring.runs.sources import training_seeds
from sparring.store.folder import RunDir
from sparring.types import Seed, State, UsageError


def training_overlap(
    sets: Mapping[str, Sequence[State]], models: ModelSettings
) -> tuple[Overlap | None, list[str]]:
    """Compare the prompts of all sets with the training seeds of the models; notes are for people.

    Training seeds are those of `models.trained_on` and of the runs in whose folders models and
    adapters lie, if their files can still be read. None where no training seed is known.
    """
    trained_on: dict[str, Sequence[Seed]] = {file: read(file).seeds for file in models.trained_on}
    notes = []
    for run in filter(None, dict.fromkeys(map(_run_around, (*models.models, *models.adapters)))):
        try:
            trained_on[str(run)] = training_seeds(RunDir.open(run).config)
        except UsageError as error:
            why = f"the training seeds of {run} cannot be read again ({error})"
            notes.append(f"overlap: {why}; name their files with --trained-on")
    seeds = [seed for own in trained_on.values() for seed in own]
    if not seeds:
        return None, notes
    kinds = {name: overlap([state.seed for state in sets[name]], seeds) for name in sets}
    notes += [f"overlap: {name}: {described(counted(kinds[name]))}" for name in sets]
    return Overlap(list(trained_on), len(seeds), kinds), notes


def _run_around(model: str) -> Path | None:
    """The folder of the run in whose checkpoints or exports a model's folder lies."""
    around = list(Path(model).parents)[:3] if Path(model).is_dir() else ()
    runs = (folder for folder in around if (folder / "config.yaml").is_file())
    return next((folder for folder in runs if (folder / "run.json").is_file()), None)
