"""The experience pool: attacks that beat the defender are dealt again until it holds.

The pool of SSP (arXiv:2601.10589), whose limits `PoolLimits` sets. An entry is an attack with the
reply that it won against; u is how well the defence did in a group of replies, 0 (beaten) to 1
(held).

| event | condition | effect |
|---|---|---|
| admitted | a fresh attack with mean u < `admit_below` | m = u, n = 0 |
| visited | its replays of one round were ruled on | m ← (m + u) / 2, n ← n + 1 |
| retired | m ≥ `retire_at` and n ≥ `retire_after` | sleeps; only re-examined |
| woken | retired, and beats the defender again | m = u, n = 0 |
| evicted | more than `capacity` entries | the highest m leaves |

UCB score = (1 − m) + c · sqrt(ln(1 + N) / (1 + n)), with N the visits of all entries.
"""

import heapq
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
from sparring.memory.memory import Memory, OpeningsAndReplays
from sparring.types import Episode, Message, Metrics, Player, Seed, State, Turn, Verdict

Key = tuple[str, tuple[Message, ...]]
"""What makes two attacks the same entry: the seed's id, and what the defender saw."""
Defence = Callable[[Seed, Verdict], float | None]
"""u: how well the defence did, 0 (beaten) to 1 (held); None where the judge could not rule."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An attack that beat the defender, with the reply and the ruling, and its replays so far.

    `seen` is what was sent to the defender: the attack, after any exchanges before it. `mean` is
    m and `visits` is n of the table above; a retired entry is `asleep`.
    """

    seed: Seed
    seen: tuple[Message, ...]
    reply: str
    ruling: Verdict
    mean: float
    visits: int = 0
    asleep: bool = False

    @property
    def key(self) -> Key:
        return (self.seed.id, self.seen)

    @property
    def opening(self) -> State:
        """The state in which the defender answers this attack again."""
        state = State(self.seed)
        for message in self.seen:
            player = Player.DEFENDER if message.role == "assistant" else Player.ATTACKER
            state = state.deal(player, message.content)
        return state

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data, which `entry_of` reads."""
        return asdict(self) | {"seed": self.seed.to_json()}


def entry_of(row: Mapping[str, Any]) -> Entry:
    """What `Entry.to_json` wrote."""
    seen = tuple(Message(**message) for message in row["seen"])
    seed, ruling = seed_of(row["seed"]), verdict_of(row["ruling"])
    return Entry(**{**row, "seed": seed, "seen": seen, "ruling": ruling})


Score = Callable[[Entry, int, float], float]
"""From an entry, all visits so far and a uniform random number to a score; the highest is drawn."""


def uniform(entry: Entry, visits: int, uniform_number: float) -> float:
    """Every entry is equally likely."""
    return uniform_number


def ucb(c: float) -> Score:
    """(1 − m) + c · sqrt(ln(1 + N) / (1 + n)): hard entries, and those rarely visited.

    UCB1 (Auer, Cesa-Bianchi & Fischer 2002) with SSP's reward, the defence's failure.
    """

    def score(entry: Entry, visits: int, uniform_number: float) -> float:
        return (1 - entry.mean) + c * math.sqrt(math.log1p(visits) / (1 + entry.visits))

    return score


def thompson(entry: Entry, visits: int, uniform_number: float) -> float:
    """A draw of the failure rate from Beta(1 + (n + 1)(1 − m), 1 + (n + 1)m), by inversion."""
    weight = entry.visits + 1
    return float(beta.ppf(uniform_number, 1 + weight * (1 - entry.mean), 1 + weight * entry.mean))


def score_named(sampler: str, c: float) -> Score:
    """Return the score of that name in the settings; `c` is that of `ucb`."""
    return {"uniform": uniform, "ucb": ucb(c), "thompson": thompson}[sampler]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The limits of a pool, as in the table above.

    `replay_share` is the largest share of the defender's groups that are replays, and `reexamine`
    the share of the replays that go to retired entries. With `reflect` the smaller half of a
    replay group is shown its failure, and only the other half counts for u.
    """

    capacity: int = 10_000
    replay_share: float = 0.25
    reexamine: float = 0.1
    admit_below: float = 0.5
    retire_at: float = 0.9
    retire_after: int = 2
    reflect: bool = False


def unaided(width: int) -> int:
    """How many of a replay group of `width` are shown no hint when the others reflect."""
    return width - width // 2


@dataclass
class ExperiencePool(Memory):
    """A memory that holds failures and replays them.

    `replays_by_opening` and `replays_by_name` are this round's replays, by the index of their
    opening and by its name in addresses; both are empty between rounds.
    """

    defence: Defence
    score: Score
    limits: PoolLimits
    rng_seed: str
    entries: dict[Key, Entry] = field(default_factory=dict)
    visits: int = 0
    replays_by_opening: dict[int, Entry] = field(default_factory=dict)
    replays_by_name: dict[str, Entry] = field(default_factory=dict)

    def deal(self, number: int, turn: Turn, openings: Sequence[State]) -> OpeningsAndReplays:
        """Replace up to `replay_share` of the defender's groups, within each seed label.

        An opening that the attacker forks into several groups makes way for as many replays, so
        each label has as many groups as planned.
        """
        self.replays_by_opening, self.replays_by_name = {}, {}
        if Player.DEFENDER not in turn.learns:
            return openings, ()
        width = turn.widths.get(Player.ATTACKER, 1)
        sizes = [1 if state.dealt else width for state in openings]
        replaced: set[int] = set()
        replays: list[Entry] = []
        for harmful in (True, False):
            places = [i for i, state in enumerate(openings) if state.seed.harmful == harmful]
            most = math.floor(self.limits.replay_share * sum(sizes[i] for i in places))
            block = max((sizes[i] for i in places), default=1)
            drawn = self.draw(harmful, most, f"{self.rng_seed}/{number}/{harmful}", block)
            filled = 0
            for i in reversed(places):  # the next round goes on with the seeds left out here
                if filled + sizes[i] > len(drawn):
                    break
                replaced.add(i)
                filled += sizes[i]
            replays += drawn[:filled]
        fresh = [state for i, state in enumerate(openings) if i not in replaced]
        again = [entry.opening for entry in replays]
        names = opening_names([*fresh, *again])[len(fresh) :]
        self.replays_by_opening = dict(enumerate(replays, len(fresh)))
        self.replays_by_name = dict(zip(names, replays, strict=True))
        return fresh, again

    def draw(self, harmful: bool, most: int, address: str, block: int = 1) -> list[Entry]:
        """At most `most` entries of a label: active ones by score, then retired ones at random.

        Retired entries are drawn in multiples of `block`, because a replayed opening replaces a
        whole group; they also complete the last block of the active ones. Where they are too few
        the active ones complete it again, from the highest score on.
        """
        candidates = [entry for entry in self.entries.values() if entry.seed.harmful == harmful]
        # The key's repr is part of the address: a renamed field of `Message` would change draws.
        uniform_numbers = {
            e.key: random.Random(f"{address}/{e.key!r}").random() for e in candidates
        }

        def rank(entry: Entry) -> tuple[float, float]:
            number = uniform_numbers[entry.key]
            return self.score(entry, self.visits, number), number

        active = sorted((e for e in candidates if not e.asleep), key=rank, reverse=True)
        retired = [e for e in candidates if e.asleep and self.limits.reexamine]
        retired.sort(key=lambda entry: uniform_numbers[entry.key])
        chance = random.Random(f"{address}/reexamine").random()
        share = block * math.floor(self.limits.reexamine * most / block + chance)
        reexamined = min(share, len(retired), most)
        active = active[: most - reexamined]
        reexamined += min(-len(active) % block, most - reexamined - len(active))
        drawn = active + retired[:reexamined]
        missing = min(-len(drawn) % block, most - len(drawn)) if active else 0
        return drawn + list(itertools.islice(itertools.cycle(active), missing))

    def add(self, number: int, episodes: Sequence[Episode]) -> Metrics:
        """Admit the attacks that beat the defender, and update the entries that were replayed."""
        admitted, replayed = 0, list[float]()
        groups = _groups(episodes)
        for opening, games, earlier_rulings in groups:
            replay = self.replays_by_opening.get(opening)
            n = unaided(len(games)) if replay and self.limits.reflect else math.inf
            counted = [episode for episode in games if episode.state.path[-1] < n]
            scored = [(u, episode) for episode in counted if (u := self._u(episode)) is not None]
            if not scored:
                continue
            _, failed = min(scored, key=lambda pair: pair[0])
            before = [self.defence(failed.state.seed, ruling) for ruling in earlier_rulings]
            mean = fmean([*(u for u, _ in scored), *(u for u in before if u is not None)])
            failure = _entry(failed, mean)
            if replay:
                self._visit(replay.key, failure)
                replayed.append(mean)
            elif mean < self.limits.admit_below:
                known = self.entries.get(failure.key)
                if not known or known.asleep:
                    self.entries[failure.key] = failure
                    admitted += 1
        excess = len(self.entries) - self.limits.capacity
        for entry in heapq.nlargest(excess, self.entries.values(), key=lambda e: e.mean):
            del self.entries[entry.key]
        asleep = sum(entry.asleep for entry in self.entries.values())
        metrics: Metrics = {
            "replay/size": len(self.entries) - asleep,
            "replay/asleep": asleep,
            "replay/visits": self.visits,
            "replay/admitted": float(admitted),
            "replay/share": sum(o in self.replays_by_opening for o, *_ in groups)
            / max(1, len(groups)),
        }
        self.replays_by_opening, self.replays_by_name = {}, {}
        return metrics | ({"replay/held": fmean(replayed)} if replayed else {})

    def _u(self, episode: Episode) -> float | None:
        """How well the defence did; None for a game that is unscored or does not train it.

        The last ruling of a game whose last reply does not parse is on the reply before it.
        """
        trains = episode.state.ruled and Player.DEFENDER in (episode.returns or {})
        return self.defence(episode.state.seed, episode.state.verdict) if trains else None

    def _visit(self, key: Key, failure: Entry) -> None:
        before = self.entries[key]
        self.visits += 1
        if before.asleep and failure.mean < self.limits.admit_below:
            self.entries[key] = failure
            return
        mean, visits = (before.mean + failure.mean) / 2, before.visits + 1
        retired = mean >= self.limits.retire_at and visits >= self.limits.retire_after
        asleep = before.asleep or retired
        self.entries[key] = replace(before, mean=mean, visits=visits, asleep=asleep)

    def state(self) -> dict[str, Any]:
        """The entries in order of admission, and all visits so far."""
        return {"visits": self.visits, "entries": [e.to_json() for e in self.entries.values()]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, after a trip through JSON."""
        entries = map(entry_of, state["entries"])
        self.entries, self.visits = {entry.key: entry for entry in entries}, state["visits"]


def _groups(episodes: Sequence[Episode]) -> list[tuple[int, list[Episode], list[Verdict]]]:
    """For each attack whose replies ended games: its opening, those games, and earlier rulings.

    In a game of several exchanges a reply that held lets the attacker try again. The rulings on
    such replies count for u too; left out, one failure among many would be the whole group.
    """
    ended: dict[tuple[int, tuple[int, ...]], list[Episode]] = defaultdict(list)
    earlier: dict[tuple[int, tuple[int, ...]], dict[int, Verdict]] = defaultdict(dict)
    for episode in episodes:
        state, opening, plies = episode.state, episode.opening, len(episode.state.moves)
        if plies > state.dealt and state.moves[-1].player is Player.DEFENDER:
            ended[opening, state.path[:-1]].append(episode)
        for ply, ruling in ((n - 1, ruling) for n, ruling in state.rulings if n < plies):
            prepares = ruling.on_topic is False  # an attack that only prepares decides nothing
            if state.moves[ply].player is Player.DEFENDER and not prepares:
                earlier[opening, state.path[:ply]][state.path[ply]] = ruling
    return [(place[0], group, list(earlier[place].values())) for place, group in ended.items()]


def _entry(episode: Episode, mean: float) -> Entry:
    state = episode.state
    *seen, reply = conversation(state) or ()
    return Entry(state.seed, tuple(seen), reply.content, state.verdict, mean)
