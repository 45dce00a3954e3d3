"""Attackers of some runs against defenders of some runs, every cell played once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.checkpoint import check_seeds, dumps, write_atomic
from sparring.evaluation.crossplay import Seat, crossplay
from sparring.evidence.samples import judged
from sparring.recipes import known as recipe
from sparring.recipes.match import Match
from sparring.records import RunDir
from sparring.types import Player, Seed, Status, UsageError

UNASKED = {Status.SKIPPED.value, "unfilled"}
"""Causes of an unscored item that are no judge's failure: asked again, they would be the same."""
Shown = Callable[[str, str, float | None], None]
"""(attacker, defender, ASR) of a cell."""


@dataclass(frozen=True)
class Entrant:
    """The players of one run after some rounds of it."""

    name: str
    folder: Path
    match: Match

    def seat(self, player: Player) -> Seat:
        """Opens the player as it was then."""
        own = self.folder / self.match.config.owner(player)
        return lambda: self.match.seats[player].past(own)

    @property
    def digest(self) -> bytes:
        """Of the checkpoint, whose manifest holds the sha256 of every file, and how it speaks."""
        config = self.match.config
        drawn = config.sampling.temperature, config.sampling.max_completion_length
        speaks = dumps([*drawn, config.game.reply_format])
        return (self.folder / "MANIFEST.json").read_bytes() + speaks


def entrants(run: RunDir, at: Sequence[int], name: str = "") -> list[Entrant]:
    """The run's last checkpoint, or those asked for, as `name@rounds`; loads models."""
    numbers = [run.checkpoints.at(number) for number in at or (None,)]
    config = run.config
    match = recipe(config.recipe)(config)
    for number in numbers:
        check_seeds(run.checkpoints.path(number), match.seeds)
    return [
        Entrant(f"{name or run.folder.name}@{number}", run.checkpoints.path(number), match)
        for number in numbers
    ]


def cross(told: Sequence[Entrant], n: int, cache: Path, shown: Shown) -> dict[str, Any]:
    """ASR of every attacker against every defender on the first run's held-out harmful seeds.

    The clean outcome under the first run's rules and judge, never a shaped reward. A cell is kept
    in `cache` under the digests of the two players, the rules, the judge, the seeds and `n`; one
    in which the judge could not always tell is played again when it is next asked for.
    UsageError where another run was trained on those seeds.
    """
    place = told[0].match
    seeds = place.attacked()
    for entrant in told:
        _check_unseen(entrant, seeds, told[0].name)
    openings = [place.plan.game.open(seeds[k % len(seeds)]) for k in range(n)]
    common = dumps([*_rules(place), [seed.to_json() for seed in seeds], n])

    def kept(row: Entrant, column: Entrant) -> Path:
        digest = hashlib.sha256(common + row.digest + column.digest).hexdigest()
        return cache / f"{digest[:24]}.json"

    def known(path: Path) -> bool:
        if not path.is_file():
            return False
        cell = json.loads(path.read_bytes())
        return not cell["unscored"].keys() - UNASKED

    cells: dict[str, dict[str, Any]] = {}
    for row in told:
        missing = [column for column in told if not known(kept(row, column))]
        played = crossplay(
            place.plan.game,
            openings,
            {row.name: row.seat(Player.ATTACKER)},
            {str(i): column.seat(Player.DEFENDER) for i, column in enumerate(missing)},
            place.plan.judge,
            "evidence/crossplay",
        )
        for _, i, rate in played:
            cache.mkdir(parents=True, exist_ok=True)
            write_atomic(kept(row, missing[int(i)]), dumps(rate.to_json()))
            shown(row.name, missing[int(i)].name, rate.value)
        cells[row.name] = {c.name: json.loads(kept(row, c).read_bytes()) for c in told}
    return {"rows": "attacker", "columns": "defender", "n": n, "asr": cells}


def _check_unseen(entrant: Entrant, seeds: Sequence[Seed], place: str) -> None:
    learned = {seed.text for seed in entrant.match.seeds}
    seen = sum(seed.text in learned for seed in seeds)
    if seen:
        raise UsageError(
            f"crossplay: {entrant.name} was trained on {seen} of the {len(seeds)} held-out seeds "
            f"of {place}, on which all would be measured; cross runs that hold out the same (own "
            "seeds: one data.exam; sandbox: one language)"
        )


def _rules(place: Match) -> list[Any]:
    """What decides how a game goes and whether an attack worked, beside who plays it."""
    config, game = place.config, type(place.plan.game)
    rules = config.game.model_dump(include={"gate", "exchanges", "reply_format"})
    return [f"{game.__module__}.{game.__qualname__}", rules, *judged(config)]
