"""Comparisons between runs: exams item by item, and every attacker against every defender."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sparring.data.splits import plain
from sparring.door import MANIFEST, inside, read_bytes, read_json, reading
from sparring.exam import FIELDS, Items, Trial, crossplay, outcomes, questions, rate_name
from sparring.players.player import Policy
from sparring.pulse import phase
from sparring.runs import judges, recipes
from sparring.runs.run import Run
from sparring.runs.train import Interrupted, signals
from sparring.sandbox.language import POOLED
from sparring.settings.config import RunConfig
from sparring.settings.sections import OPERATION
from sparring.stats.paired import Paired, compare
from sparring.stats.rates import Rate
from sparring.store.checkpoints import check_seeds
from sparring.store.files import dumps, sweep, write_atomic
from sparring.store.folder import RunDir, identities, read_games
from sparring.types import Player, Seed, State, Status, UsageError

EVERYTHING = frozenset(FIELDS.values())
"""The verdict fields of a judge that answers every question."""


def recorded_games(run: RunDir, number: int) -> list[tuple[str, State]]:
    """Return the set and the final state of every game of an exam: untrusted text.

    A game without a ruling is returned without one; its attack was never sent and did not work.
    """
    path = run.exam_games(number)
    if number not in run.exams() or not path.is_file():
        there = ", ".join(map(str, run.exams())) or "none"
        raise UsageError(f"{run.folder}: no exam after {number} rounds; wanted one of {there}")
    games = read_games(path, run.config.game.reply_format > 0)
    return [(name, episode.state) for name, episode in games]


def items(run: RunDir, number: int) -> Items:
    """Return the outcomes behind every rate of an exam, except those that pool several sets.

    An item's key holds its place in the set, its seed, and a digest of what was dealt: two runs'
    attackers make other attacks of the same seeds, and those are not the same items.
    """
    sets: dict[str, dict[str, State]] = defaultdict(dict)
    for name, state in recorded_games(run, number):
        texts = [move.completion.text for move in state.moves[: state.dealt]]
        dealt = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12] if texts else ""
        sets[name][f"{len(sets[name])}:{state.seed.id}:{dealt}"] = state
    exam, everything = run.exam(number), outcomes(sets, {}, EVERYTHING)
    return {name: own for name, own in everything.items() if exam and name in exam.rates}


def last_exam(run: RunDir) -> int:
    """Return the number of rounds before the run's last exam; 0 if there is none."""
    return max(run.exams(), default=0)


def compared(
    first: RunDir, second: RunDir, at: int | None, warn: Callable[[str], object] = str
) -> dict[str, Paired]:
    """Return the paired difference of two runs' exams, rate by rate.

    Both exams are those after `at` rounds, or the last of each run; pooled rates come first. Sets
    whose items differ (each run's own attacker wrote them) are left out with a warning. Raises a
    UsageError where no set is left, and where the judges differ: they could make the difference.
    """
    if judged(first.config) != judged(second.config):
        raise UsageError(
            f"compare: the judges of {first.folder} and {second.folder} differ (judge, "
            "judge_rules), so a difference could be theirs; have one judge rule on both: "
            "sparring judge score RUN --judge FILE"
        )
    a, b = (items(run, last_exam(run) if at is None else at) for run in (first, second))
    if a.keys() != b.keys():
        differ = ", ".join(sorted(a.keys() ^ b.keys()))
        raise UsageError(f"compare: the runs' exams differ; only one has {differ}")
    same = [name for name in a if a[name].keys() == b[name].keys()] or list(a)
    if others := sorted(a.keys() - set(same)):
        warn(f"left out, for the runs asked other things: {', '.join(others)}")
    own = ({name: rates[name] for name in same} for rates in (a, b))
    before, after = (_pooled(rates) | rates for rates in own)
    return {name: compare(rate_items, after[name]) for name, rate_items in before.items()}


def _pooled(rates: Items) -> Items:
    """The items of the sandbox's pooled sets, as far as an exam holds all sets of a pool.

    In the smaller world of earlier versions the first six sets were pooled.
    """
    pools: Items = {}
    for pool, sets in POOLED.items():
        for question in questions(pool, EVERYTHING):
            members = [rate_name(question.metric, name) for name in sets]
            if not rates.keys() & set(members[6:-1]):
                members = members[:6]
            if rates.keys() >= set(members):
                pairs = [pair for member in members for pair in rates[member].items()]
                pools[rate_name(question.metric, pool)] = dict(pairs)
    return pools


def judged(config: RunConfig) -> list[Any]:
    """Return the settings that decide how a reply is ruled on, without how a judge is reached."""
    entries = [judge.model_dump(mode="json", exclude=set(OPERATION)) for judge in config.judge]
    sorted_fields = [entry | {"fills": sorted(entry["fills"] or ())} for entry in entries]
    return [sorted_fields, config.judge_rules]


NOT_ASKED = {Status.SKIPPED.value, "unfilled"}
"""Causes of an unscored item that are no judge's failure: played again, they would be the same."""


@dataclass(frozen=True)
class Entrant:
    """The players of one run after some rounds of it."""

    name: str
    number: int
    folder: Path
    run: Run

    def policy(self, player: Player) -> Policy:
        """Return the player as it was then."""
        return self.run.trainers[player].at(self.number)

    @cached_property
    def digest(self) -> bytes:
        """The checkpoint's manifest and the models under it, by sha256, and how it samples."""
        config = self.run.config
        sampling = config.sampling.temperature, config.sampling.max_completion_length
        settings = dumps([*sampling, config.game.reply_format, identities(config)])
        return read_bytes(self.folder / MANIFEST) + settings


def entrants(
    run: RunDir, at: Sequence[int], name: str = "", trust_endpoints: bool = False
) -> list[Entrant]:
    """Load the run's checkpoints after `at` rounds, or its last one, as `name@rounds`.

    UsageError where the run's configuration names endpoints or secrets, unless they are trusted,
    and where a model is another one now; CorruptError names a damaged file.
    """
    config, checkpoints = run.config, run.checkpoints
    judges.check_endpoints(config, run.folder, trust_endpoints)
    judges.greet(judges.judges_of(config))
    folders = {n: run.checkpoint(n) for n in map(checkpoints.at, at or (None,))}
    loaded = recipes.known(config.recipe).build(config)
    loaded.recorded_in(checkpoints.path)
    for folder in folders.values():
        check_seeds(folder, loaded.seeds)
    name = name or run.folder.name
    return [Entrant(f"{name}@{n}", n, folder, loaded) for n, folder in folders.items()]


def cross(entrants: Sequence[Entrant], n: int, cache: Path) -> dict[str, Any]:
    """Return the ASR of every attacker against every defender on the first run's held-out seeds.

    The clean outcome under the first run's rules and judge, never a shaped reward. A cell is kept
    in `cache` under the digests of the two players, the rules, the judge, the seeds and `n`; one
    with failed verdicts is played again when it is needed next. UsageError where another run was
    trained on those seeds; Interrupted after the cell in which a signal came.
    """
    place = entrants[0].run
    seeds = place.attacked()
    for entrant in entrants:
        _check_unseen(entrant, seeds, entrants[0].name)
    openings = [place.plan.game.open(seed) for seed in islice(cycle(seeds), n)]
    common = dumps([*_rules(place), [seed.to_json() for seed in seeds], n])
    sweep(inside(cache.parent, cache.name), "*.json")
    paths: dict[tuple[str, str], Path] = {}
    for row, column in product(entrants, repeat=2):
        digest = hashlib.sha256(common + row.digest + column.digest).hexdigest()[:24]
        paths[row.name, column.name] = cache / f"{digest}.json"
    whole = {cell for cell, path in paths.items() if _whole(path)}
    played = crossplay(
        Trial(place.plan.game, place.plan.judge, openings, "evidence/crossplay"),
        {entrant.name: entrant.policy(Player.ATTACKER) for entrant in entrants},
        {entrant.name: entrant.policy(Player.DEFENDER) for entrant in entrants},
        skip=whole,
    )
    with signals("") as received:
        for done, (attacker, defender, rate) in enumerate(played, len(whole) + 1):
            cache.mkdir(parents=True, exist_ok=True)
            write_atomic(paths[attacker, defender], dumps(rate.to_json()))
            phase("cross-play", done, len(paths), f"{attacker} against {defender}: {rate}")
            if received:
                raise Interrupted(received[0], "")
    cells: dict[str, dict[str, Any]] = defaultdict(dict)
    for (attacker, defender), path in paths.items():
        cells[attacker][defender] = read_json(path)
    return {"rows": "attacker", "columns": "defender", "n": n, "asr": cells}


def _whole(cell: Path) -> bool:
    """Whether a cell was played, and no verdict of it failed."""
    if not cell.is_file():
        return False
    with reading(cell):
        rate = TypeAdapter(Rate).validate_python(read_json(cell))
    return not rate.unscored.keys() - NOT_ASKED


def _check_unseen(entrant: Entrant, seeds: Sequence[Seed], place: str) -> None:
    texts = {plain(seed.text) for seed in entrant.run.seeds}
    if learned := sum(plain(seed.text) in texts for seed in seeds):
        raise UsageError(
            f"crossplay: {entrant.name} was trained on {learned} of the "
            f"{len(seeds)} held-out seeds of {place}, which are the test set; cross only runs with "
            "the same held-out seeds: the same data.exam file, or the same sandbox language"
        )


def _rules(place: Run) -> list[Any]:
    """What decides how a game goes and whether an attack worked, beside who plays it."""
    rules = place.config.game.model_dump(include={"gate", "exchanges", "reply_format"})
    game = type(place.plan.game)
    return [f"{game.__module__}.{game.__qualname__}", rules, *judged(place.config)]
