"""The experience pool: attacks that beat the defender, dealt again until it holds."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

from scipy.stats import beta

from sparring.arena import opening_names
from sparring.games.codec import seed_of, verdict_of
from sparring.games.game import conversation
from sparring.memory.memory import Dealt
from sparring.types import (
    Episode,
    Message,
    Metrics,
    Observation,
    Player,
    Seed,
    State,
    Turn,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An attack that beat the defender, what it saw and said then, and how it has fared since.

    `seen` is the defender's observation: the attack, after any exchanges before it.
    """

    seed: Seed
    seen: Observation
    reply: str
    ruling: Verdict
    mean: float
    visits: int = 0
    asleep: bool = False

    @property
    def key(self) -> tuple[str, Observation]:
        """Exact repeats of an attack on a seed are one entry."""
        return (self.seed.id, self.seen)

    @property
    def opening(self) -> State:
        """The state in which the defender answers this attack again."""
        state = State(self.seed)
        for message in self.seen:
            who = Player.DEFENDER if message.role == "assistant" else Player.ATTACKER
            state = state.deal(who, message.content)
        return state

    def to_json(self) -> dict[str, Any]:
        """Its fields, as `entry_of` reads them."""
        return asdict(self) | {"seed": self.seed.to_json()}


def entry_of(row: Mapping[str, Any]) -> Entry:
    """What `to_json` wrote."""
    return Entry(
        seed=seed_of(row["seed"]),
        seen=tuple(Message(**message) for message in row["seen"]),
        reply=row["reply"],
        ruling=verdict_of(row["ruling"]),
        mean=row["mean"],
        visits=row["visits"],
        asleep=row["asleep"],
    )


Held = Callable[[Seed, Verdict], float | None]
"""u: how well the defence did, 0 (beaten) to 1 (held); None where the judge could not tell."""


Sampler = Callable[[Entry, int, float], float]
"""(entry, all visits so far, a uniform number that is the entry's own) → a score; highest first."""


def uniform(entry: Entry, visits: int, u: float) -> float:
    """Every entry alike."""
    return u


def ucb(c: float) -> Sampler:
    """(1 − m) + c · sqrt(ln(1 + N) / (1 + n)): hard entries, and those seldom visited.

    UCB1 (Auer, Cesa-Bianchi & Fischer 2002) with SSP's reward, the defence's failure.
    """

    def score(entry: Entry, visits: int, u: float) -> float:
        return (1 - entry.mean) + c * math.sqrt(math.log1p(visits) / (1 + entry.visits))

    return score


def thompson(entry: Entry, visits: int, u: float) -> float:
    """A draw of the failure rate from Beta(1 + (n + 1)(1 − m), 1 + (n + 1)m), by inversion."""
    weight = entry.visits + 1
    return float(beta.ppf(u, 1 + weight * (1 - entry.mean), 1 + weight * entry.mean))


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits of a pool. `replay_share` is of the defender's groups, `reexamine` of the replays.

    With `reflect` the larger half of a replay group answers the bare prompt (`bare`), and only
    that half tells how well the defence does.
    """

    capacity: int = 10_000
    replay_share: float = 0.25
    reexamine: float = 0.1
    admit_below: float = 0.5
    retire_at: float = 0.9
    retire_after: int = 2
    reflect: bool = False


def bare(width: int) -> int:
    """How many of a replay group of `width` answer without a hint when the others reflect."""
    return width - width // 2


@dataclass
class ExperiencePool:
    """Failures to revisit; a `Memory`.

    Admitted: a group of replies to one attack whose mean u is below `admit_below`. Visited: m ←
    (m + u)/2, n ← n + 1. Retired when m >= `retire_at` after `retire_after` visits: it sleeps,
    and only the share `reexamine` of replays wakes sleepers to look; one that fails again is
    admitted again. When full, the entry with the highest m leaves.
    """

    held: Held
    sampler: Sampler
    rules: Rules
    rng_seed: str
    entries: dict[tuple[str, Observation], Entry] = field(default_factory=dict)
    visits: int = 0
    dealt: dict[int, Entry] = field(default_factory=dict)
    """This round's replays by the number of their opening; empty between rounds."""
    named: dict[str, Entry] = field(default_factory=dict)
    """The same by their names in the arena's addresses."""

    def deal(self, number: int, turn: Turn, openings: Sequence[State]) -> Dealt:
        """Replace up to `replay_share` of the defender's groups, within each seed label.

        An opening that the attacker would answer `width` times makes way for as many replays, so
        the groups of each label stay as many as were planned.
        """
        width = turn.widths.get(Player.ATTACKER, 1)
        sizes = [1 if state.dealt else width for state in openings]
        self.dealt, self.named = {}, {}
        if Player.DEFENDER not in turn.learns:
            return openings, ()
        gone: set[int] = set()
        replays: list[Entry] = []
        for harmful in (True, False):
            mine = [i for i, state in enumerate(openings) if state.seed.harmful == harmful]
            wanted = math.floor(self.rules.replay_share * sum(sizes[i] for i in mine))
            block = max((sizes[i] for i in mine), default=1)
            drawn = self.draw(harmful, wanted, f"{self.rng_seed}/{number}/{harmful}", block)
            taken = 0
            for i in reversed(mine):
                if taken + sizes[i] <= len(drawn):
                    gone.add(i)
                    taken += sizes[i]
            replays += drawn[:taken]
        kept = [state for i, state in enumerate(openings) if i not in gone]
        again = [entry.opening for entry in replays]
        self.dealt = dict(enumerate(replays, len(kept)))
        self.named = dict(zip(opening_names([*kept, *again])[len(kept) :], replays, strict=True))
        return kept, again

    def draw(self, harmful: bool, wanted: int, address: str, block: int = 1) -> list[Entry]:
        """At most `wanted` entries of a label: awake ones by score, then sleepers by chance.

        An opening makes way for `block` groups or stays. So sleepers come in whole openings, and
        more seldom, and where the awake fill their last opening only in part; if they are too few
        the awake ones fill it again, from the highest score on.
        """

        def own(entry: Entry) -> float:
            return random.Random(f"{address}/{entry.key!r}").random()

        mine = [entry for entry in self.entries.values() if entry.seed.harmful == harmful]
        chance = random.Random(f"{address}/reexamine").random()
        asleep = sorted((e for e in mine if e.asleep and self.rules.reexamine), key=own)
        share = block * math.floor(self.rules.reexamine * wanted / block + chance)
        looked_at = min(share, len(asleep), wanted)
        scored = [(self.sampler(e, self.visits, own(e)), own(e), e) for e in mine if not e.asleep]
        scored.sort(key=lambda told: told[:2], reverse=True)
        awake = [entry for *_, entry in scored[: wanted - looked_at]]
        looked_at += min(-len(awake) % block, wanted - looked_at - len(awake))
        drawn = [*awake, *asleep[:looked_at]]
        left = min(-len(drawn) % block, wanted - len(drawn)) if awake else 0
        return [*drawn, *itertools.islice(itertools.cycle(awake), left)]

    def add(self, number: int, episodes: Sequence[Episode]) -> Metrics:
        """Admit what beat the defender, and mark how the replays went."""
        admitted, replayed = 0, list[float]()
        groups = _groups(episodes)
        for opening, whole, passed in groups:
            group = self._unaided(whole) if opening in self.dealt else whole
            scored = [(u, i) for i, e in enumerate(group) if (u := self._value(e)) is not None]
            if not scored:
                continue
            told = [self.held(group[0].state.seed, ruling) for ruling in passed]
            u = fmean([*(u for u, _ in scored), *(u for u in told if u is not None)])
            failure = _entry(group[min(scored)[1]], u)
            if opening in self.dealt:
                self._visit(self.dealt[opening].key, failure)
                replayed.append(u)
            elif u < self.rules.admit_below:
                admitted += self._admit(failure)
        self._evict()
        metrics = self._counts() | {
            "replay/admitted": float(admitted),
            "replay/share": sum(told[0] in self.dealt for told in groups) / max(1, len(groups)),
        }
        self.dealt, self.named = {}, {}
        return metrics | ({"replay/held": fmean(replayed)} if replayed else {})

    def _unaided(self, group: list[Episode]) -> list[Episode]:
        """Those of a replay group that were shown no hint."""
        told = bare(len(group)) if self.rules.reflect else len(group)
        return [episode for episode in group if episode.state.path[-1] < told]

    def _value(self, episode: Episode) -> float | None:
        """u; None too where the game teaches the defender nothing: unscored, or masked."""
        if not episode.returns or Player.DEFENDER not in episode.returns:
            return None
        return self.held(episode.state.seed, episode.state.verdict)

    def _counts(self) -> Metrics:
        asleep = sum(entry.asleep for entry in self.entries.values())
        return {
            "replay/size": len(self.entries) - asleep,
            "replay/asleep": asleep,
            "replay/visits": self.visits,
        }

    def _visit(self, key: tuple[str, Observation], told: Entry) -> None:
        before = self.entries[key]
        self.visits += 1
        if before.asleep and told.mean < self.rules.admit_below:
            self.entries[key] = told
            return
        mean, visits = (before.mean + told.mean) / 2, before.visits + 1
        retired = mean >= self.rules.retire_at and visits >= self.rules.retire_after
        asleep = before.asleep or retired
        self.entries[key] = replace(before, mean=mean, visits=visits, asleep=asleep)

    def _admit(self, entry: Entry) -> bool:
        """A known attack stays as it is, unless it was asleep: then it is admitted again."""
        known = self.entries.get(entry.key)
        if known and not known.asleep:
            return False
        self.entries[entry.key] = entry
        return True

    def _evict(self) -> None:
        over = len(self.entries) - self.rules.capacity
        order = sorted(self.entries.values(), key=lambda entry: -entry.mean)
        for entry in order[: max(0, over)]:
            del self.entries[entry.key]

    def state(self) -> dict[str, Any]:
        """The entries in order of admission, and all visits so far."""
        return {"visits": self.visits, "entries": [e.to_json() for e in self.entries.values()]}

    def load(self, told: Mapping[str, Any]) -> None:
        """Take up exactly where `state()` was taken, after a trip through JSON."""
        found = [entry_of(row) for row in told["entries"]]
        self.entries, self.visits = {entry.key: entry for entry in found}, told["visits"]


def _groups(episodes: Sequence[Episode]) -> list[tuple[int, list[Episode], list[Verdict]]]:
    """(opening, games that a reply to one attack ended, rulings on the replies that ended none).

    In the order they were played. In a game of several exchanges a reply that held lets the
    attacker try again; left out, one failure among many would be the whole group.
    """
    ended: dict[tuple[int, tuple[int, ...]], list[Episode]] = defaultdict(list)
    passed: dict[tuple[int, tuple[int, ...]], dict[int, Verdict]] = defaultdict(dict)
    for episode in episodes:
        state, over = episode.state, len(episode.state.moves)
        if over > state.dealt and state.moves[-1].player is Player.DEFENDER:
            ended[episode.opening, state.path[:-1]].append(episode)
        for ply, ruling in ((n - 1, ruling) for n, ruling in state.rulings if n < over):
            asked = ruling.on_topic is not False  # what only prepares an attack decides nothing
            if state.moves[ply].player is Player.DEFENDER and asked:
                passed[episode.opening, state.path[:ply]][state.path[ply]] = ruling
    return [(key[0], group, list(passed[key].values())) for key, group in ended.items()]


def _entry(episode: Episode, mean: float) -> Entry:
    state = episode.state
    *seen, reply = conversation(state) or ()
    return Entry(state.seed, tuple(seen), reply.content, state.verdict, mean)
