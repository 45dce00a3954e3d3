"""Attackers of some runs against defenders of some runs; what an exam recorded, item by item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.exam import QUESTIONS, crossplay, outcome
from sparring.players.player import Policy
from sparring.runs.recipes import known as recipe
from sparring.runs.run import Match
from sparring.sandbox.language import POOLED
from sparring.settings.config import RunConfig
from sparring.settings.sections import OPERATION
from sparring.stats.paired import Paired, compare
from sparring.stats.rates import Outcome
from sparring.store.checkpoints import check_seeds
from sparring.store.files import dumps, write_atomic
from sparring.store.folder import RunDir, read_games
from sparring.types import Player, Seed, State, Status, UsageError

Items = dict[str, dict[str, Outcome]]
"""Outcomes by `metric/set`, and in a set by the item's key."""


def items(run: RunDir, number: int) -> Items:
    """What every rate of the exam after `number` rounds rests on, but for sets that pool others.

    An item's key is its place in the set, its seed, and a digest of what was dealt, if anything.
    """
    games, results = played(run, number), run.exam(number)
    asked = results.rates if results else {}
    found: Items = {}
    for name, state in games:
        kind, _, family = name.partition("/")
        for metric, question in QUESTIONS.get(kind, {}).items():
            if f"{metric}/{family}" in asked:
                inside = found.setdefault(f"{metric}/{family}", {})
                inside[f"{len(inside)}:{state.seed.id}{_dealt(state)}"] = outcome(state, question)
    return found


def _dealt(state: State) -> str:
    """Two runs' attackers make other attacks of the same seeds; those are not the same items."""
    texts = [move.completion.text for move in state.moves[: state.dealt]]
    return f":{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]}" if texts else ""


def played(run: RunDir, number: int) -> list[tuple[str, State]]:
    """The set and final state of every game of the exam after `number` rounds: untrusted text."""
    path = run.exam_games(number)
    if number not in run.exams() or not path.is_file():
        sat = ", ".join(map(str, run.exams())) or "none"
        raise UsageError(f"{run.folder}: no exam after {number} rounds; wanted one of {sat}")
    return list(read_games(path, run.config.game.reply_format > 0))


def compared(
    first: RunDir, second: RunDir, at: int | None, warn: Callable[[str], object] = str
) -> dict[str, Paired]:
    """The paired difference of two runs' exams, set by set.

    What pools others comes first. Both after `at` rounds, or each after its last exam. Sets with
    other items (each run's own attacker made them) are left out with a warning; UsageError where
    that leaves none, and for runs with other judges, whose difference could be theirs.
    """
    if judged(first.config) != judged(second.config):
        raise UsageError(
            f"compare: the judges of {first.folder} and {second.folder} differ (judge, "
            "judge_rules), so a difference could be theirs; have one judge rule on both: "
            "sparring judge score RUN --judge FILE"
        )
    a, b = (items(run, _last(run) if at is None else at) for run in (first, second))
    if a.keys() != b.keys():
        differ = ", ".join(sorted(a.keys() ^ b.keys()))
        raise UsageError(f"compare: the runs sat different exams; only one has {differ}")
    same = [name for name in a if a[name].keys() == b[name].keys()]
    others = sorted(a.keys() - set(same))
    if same and others:
        warn(f"left out, for the runs asked other things: {', '.join(others)}")
    paired = [{name: found[name] for name in same or a} for found in (a, b)]
    one, other = (_pooled(found) | found for found in paired)
    return {name: compare(one[name], other[name]) for name in one}


def _pooled(found: Items) -> Items:
    """The items of what an exam of the sandbox pools, where every set of it is there."""
    pools = {
        f"{metric}/{name.split('/', 1)[1]}": [f"{metric}/{one.split('/', 1)[1]}" for one in sets]
        for name, sets in POOLED.items()
        for metric in QUESTIONS[name.split("/", 1)[0]]
    }
    return {
        name: {f"{one}/{key}": told for one in sets for key, told in found[one].items()}
        for name, sets in pools.items()
        if found.keys() >= set(sets)
    }


def judged(config: RunConfig) -> list[Any]:
    """What decides how a reply is ruled on; not how the judge is reached."""
    judges = [told.model_dump(mode="json", exclude=set(OPERATION)) for told in config.judge]
    for judge in judges:
        judge["fills"] = sorted(judge["fills"] or ())
    return [judges, config.judge_rules]


def _last(run: RunDir) -> int:
    sat = run.exams()
    return sat[-1] if sat else 0


UNASKED = {Status.SKIPPED.value, "unfilled"}
"""Causes of an unscored item that are no judge's failure: asked again, they would be the same."""
Shown = Callable[[str, str, float | None], None]
"""(attacker, defender, ASR) of a cell."""


@dataclass(frozen=True)
class Entrant:
    """The players of one run after some rounds of it."""

    name: str
    number: int
    folder: Path
    match: Match

    def policy(self, player: Player) -> Policy:
        """The player as it was then."""
        return self.match.trainers[player].at(self.number)

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
    match.recorded_in(run.checkpoints.path)
    for number in numbers:
        check_seeds(run.checkpoints.path(number), match.seeds)
    return [
        Entrant(f"{name or run.folder.name}@{number}", number, run.checkpoints.path(number), match)
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
            {row.name: row.policy(Player.ATTACKER)},
            {str(i): column.policy(Player.DEFENDER) for i, column in enumerate(missing)},
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
