"""Everything that a report says of one run, read from its folder through the records' models."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

from sparring.games.game import attack_of, reply_of
from sparring.metrics import succeeded
from sparring.report.escape import hidden
from sparring.stats.rates import Rate
from sparring.store.files import read_json
from sparring.store.folder import RunDir, read_games
from sparring.store.records import (
    BoundResults,
    CrossplayResults,
    ExamResults,
    ExploitResults,
    Pool,
    PoolEntry,
    RoundRecord,
)
from sparring.types import CorruptError, State, Status, UsageError

T = TypeVar("T")
Points = Sequence[tuple[int, float]]
"""(rounds played, value), ascending."""
POOLED = ("adversarial", "wrapped", "rewritten")
"""Sets that stand for others, in the order in which they are preferred."""
SHOWN = 10
"""Entries of each list of the experience pool."""
FILES = 12
"""Exams, and transcripts, that are searched for attacks, the first and the last among them."""
_MOST_BYTES = 256_000_000
_LONGEST = 4_000
"""Characters of an attack or reply that are shown."""
_NEVER = re.compile(r"(?<![a-z0-9])(s4|cse[am]?|minors?)(?![a-z0-9])|csam|child|pa?edo", re.I)
"""Categories of seeds whose attacks are never shown, whoever asks."""
_OUTCOMES = frozenset({"asr", "over_refusal", "correct"})
"""Metrics that say nothing of the present players where one of them was a past self."""


@dataclass(frozen=True)
class RunReport:
    """What a run wrote; `exams` holds at least one."""

    label: str
    run: RunDir
    exams: Sequence[ExamResults]
    rounds: Sequence[RoundRecord]
    crossplay: CrossplayResults | None
    exploit: ExploitResults | None
    bound: BoundResults | None

    @property
    def before(self) -> ExamResults:
        return self.exams[0]

    @property
    def after(self) -> ExamResults:
        return self.exams[-1]

    @cached_property
    def turns(self) -> tuple[str, ...]:
        """Who learned in each round: `attacker`, `defender` or `both`."""
        return tuple("both" if len(r.learns) > 1 else "".join(r.learns) for r in self.rounds)

    @cached_property
    def curves(self) -> Mapping[str, Points]:
        """Every metric by name; a round that has none is a gap, not a 0."""
        curves: dict[str, list[tuple[int, float]]] = {}
        for done, record in enumerate(self.rounds, 1):
            past = any(key.startswith("league/") for key in record.metrics)
            for key, value in record.metrics.items():
                if not key.startswith("strategy/") and not (past and key in _OUTCOMES):
                    curves.setdefault(key, []).append((done, value))
        return curves

    @cached_property
    def strategies(self) -> Sequence[tuple[int, Mapping[str, float]]]:
        """(rounds played, shares of the attacker's rewrites by strategy), where there are any."""
        shares = (
            (done, {k[9:]: v for k, v in record.metrics.items() if k.startswith("strategy/")})
            for done, record in enumerate(self.rounds, 1)
        )
        return [(done, share) for done, share in shares if share]

    @property
    def learned_strategies(self) -> Mapping[int, Mapping[str, float]]:
        """`strategies` at a handful of rounds in which the attacker learned."""
        learned = [
            item for item in self.strategies if "attacker" in self.rounds[item[0] - 1].learns
        ]
        return dict(spread(learned, 6))

    @property
    def seconds(self) -> Mapping[str, float]:
        """Wall time of the rounds, by phase."""
        return _summed(chain.from_iterable(record.seconds.items() for record in self.rounds))

    @property
    def counts(self) -> Mapping[str, float]:
        """Tokens of each player, and what each judge cost in rounds, exams and cross-play."""
        metrics = chain.from_iterable(record.metrics.items() for record in self.rounds)
        judge = chain.from_iterable((record.judge or {}).items() for record in self.rounds)
        return (
            _summed((key, value) for key, value in metrics if key.endswith("/tokens"))
            | _summed((f"judge/{key}", value) for key, value in judge)
            | _summed(_spent("exams", self.exams))
            | _summed(_spent("cross-play", [self.crossplay] if self.crossplay else []))
        )

    @property
    def best_response(self) -> Rate | None:
        """ASR of the strongest of the attackers that trained on the run's defender."""
        if not self.exploit or self.exploit.worst not in self.exploit.attackers:
            return None
        return next(reversed(self.exploit.attackers[self.exploit.worst].asr), None)

    def to_json(self) -> dict[str, Any]:
        """Return what `sparring report --json` prints."""
        crossplay = self.crossplay.to_json()["asr"] if self.crossplay else {}
        return {
            "run": str(self.run.folder),
            "status": self.run.status.to_json(),
            "rounds": self.after.rounds,
            "before": self.before.to_json()["rates"],
            "after": self.after.to_json()["rates"],
            "judge": self.after.judge.to_json(),
            "strategies": self.learned_strategies,
            "crossplay": crossplay,
            "seconds": sum(sum(record.seconds.values()) for record in self.rounds),
        }


def read_run(run: RunDir, label: str = "") -> RunReport:
    """Read what a run wrote; UsageError where there was no exam yet, CorruptError names a file."""
    exams = [exam for number in run.exams() if (exam := run.exam(number))]
    if not exams:
        raise UsageError(f"{run.folder}: no exam has been sat yet; let the run go on")
    evidence = run.folder / "evidence"
    return RunReport(
        label=label or run.folder.name,
        run=run,
        exams=exams,
        rounds=run.rounds(),
        crossplay=run.crossplay(),
        exploit=ExploitResults.read_if_there(evidence / "exploit.json"),
        bound=BoundResults.read_if_there(evidence / "bound.json"),
    )


def _spent(
    on: str, results: Sequence[ExamResults | CrossplayResults]
) -> Iterator[tuple[str, float]]:
    for result in results:
        for judge, cost in (result.costs or {}).items():
            yield from ((f"{on}/{judge}/{kind}", count) for kind, count in cost.items())


def _summed(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for key, value in pairs:
        total[key] = total.get(key, 0.0) + value
    return total


def spread(values: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the values, evenly, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def families(keys: Iterable[str], metric: str) -> list[str]:
    """Return the sets that a metric was measured on, pooled ones first."""
    names = [key.split("/", 1)[1] for key in keys if key.startswith(f"{metric}/")]
    return sorted(names, key=lambda family: family not in POOLED)


def headline_key(keys: Iterable[str], metric: str) -> str | None:
    """Return the rate that stands for a metric; None where it was not measured."""
    names = families(keys, metric)
    pooled = [family for family in POOLED if family in names]
    other = [family for family in names if family != "plain"]
    return f"{metric}/{(pooled or other or names)[0]}" if names else None


def by_size(shares: Iterable[Mapping[str, float]]) -> list[str]:
    """Return every strategy, the one with the largest sum of shares first."""
    total = _summed(chain.from_iterable(share.items() for share in shares))
    return sorted(total, key=lambda strategy: (-total[strategy], strategy))


def sides(matrix: Mapping[str, Mapping[str, Rate]], most: int = 20) -> tuple[list[str], list[str]]:
    """Return attackers and defenders of a cross-play by rounds played, at most `most` of each."""
    columns = {column for cells in matrix.values() for column in cells}
    rows, columns_ = (sorted(names, key=lambda n: (len(n), n)) for names in (matrix, columns))
    return spread(rows, most), spread(columns_, most)


def value(rate: Rate | None) -> str:
    """Return a rate as a cell shows it."""
    if rate is None:
        return "–"
    return "unscored" if rate.value is None else f"{rate.value:.3f}"


def interval(rate: Rate | None) -> str:
    """Return a rate's 95 % interval as a cell shows it; '' where it has none."""
    return "" if rate is None or rate.ci95 is None else "{:.2f}–{:.2f}".format(*rate.ci95)


def counted(rate: Rate | None) -> str:
    """Return how many items were scored, and of how many where that is not all."""
    if rate is None:
        return "–"
    scored = f"{rate.n_scored:,}"
    return scored if rate.n_scored == rate.n_total else f"{scored} of {rate.n_total:,}"


@dataclass(frozen=True, slots=True)
class Attack:
    """The attack of a family that worked most often, as `won` of `of` times.

    `sha256` and `words` stand for the text; `attack` and `reply` are there only on request, and
    never where the attack is `withheld` for its seed's category.
    """

    family: str
    won: int
    of: int
    last: int
    sha256: str
    words: int
    attack: str = ""
    reply: str = ""
    hidden: tuple[int, int] = (0, 0)
    withheld: bool = False


@dataclass(slots=True)
class _Tally:
    """How often one attack was made and worked; the last round in which it did."""

    state: State
    won: int = 0
    of: int = 0
    last: int = -1


@dataclass(frozen=True, slots=True)
class _Tallies:
    """Attacks by family and digest."""

    families: dict[str, dict[str, _Tally]] = field(default_factory=dict)

    def add(self, family: str, state: State, number: int) -> None:
        attack = attack_of(state)
        if not state.seed.harmful or not attack:
            return
        tally = self.families.setdefault(family, {}).setdefault(_digest(attack), _Tally(state))
        tally.of += 1
        if state.verdict.status is Status.OK and succeeded(state):
            tally.won, tally.last, tally.state = tally.won + 1, number, state

    def best(self, include_harmful: bool) -> list[Attack]:
        """Return every family's attack that worked most often."""
        best = {
            family: max(tallies.items(), key=lambda item: (item[1].won, item[1].last, item[0]))
            for family, tallies in self.families.items()
        }
        return [_attack(family, *item, include_harmful) for family, item in best.items()]


def strongest(run: RunDir, include_harmful: bool) -> list[Attack]:
    """Return the best attack of every harmful family over the exams of a run."""
    tallies = _Tallies()
    for number in spread(run.exams(), FILES):
        for name, state in read_games(run.exam_games(number), most=_MOST_BYTES):
            if name.startswith("harmful/"):
                tallies.add(name.removeprefix("harmful/"), state, number)
    return tallies.best(include_harmful)


def own(run: RunDir, include_harmful: bool) -> list[Attack]:
    """Return the best attack of the attacker itself in each transcript that is searched."""
    tallies = _Tallies()
    for number, path in spread(list(run.transcripts().items()), FILES):
        for _, state in read_games(path, most=_MOST_BYTES):
            if not state.dealt:
                tallies.add(f"round {number + 1}", state, number + 1)
    return tallies.best(include_harmful)


def _attack(family: str, digest: str, tally: _Tally, include_harmful: bool) -> Attack:
    texts = attack_of(tally.state) or "", reply_of(tally.state) or ""
    attack = Attack(family, tally.won, tally.of, tally.last, digest, len(texts[0].split()))
    if _NEVER.search(tally.state.seed.category):
        return replace(attack, withheld=True)
    if not (tally.won and include_harmful):
        return attack
    cut = [t if len(t) <= _LONGEST else f"{t[:_LONGEST]}… ({len(t):,} characters)" for t in texts]
    hiding = hidden(texts[0]), hidden(texts[1])
    return replace(attack, attack=cut[0], reply=cut[1], hidden=hiding)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def pool_entries(run: RunDir, content: bool) -> dict[str, Any]:
    """Return the pool of the last checkpoint; attacks as digests unless `content` is asked for."""
    number = run.checkpoints.at(None)
    path = run.checkpoints.path(number) / "memory.json"
    memory = read_json(path)
    if not isinstance(memory, dict) or not isinstance(memory.get("memory"), dict):
        raise CorruptError(f"{path}: is not what was written: memory: wanted an object")
    if "entries" not in memory["memory"]:
        raise UsageError(
            f"{run.folder}: played without an experience pool (memory.experience.sampler)"
        )
    pool = Pool.checked(memory["memory"], path)
    awake = [entry for entry in pool.entries if not entry.asleep]
    asleep = [entry for entry in pool.entries if entry.asleep]
    return {
        "rounds": number,
        "size": len(awake),
        "asleep": len(asleep),
        "visits": pool.visits,
        "hardest": _rows(sorted(awake, key=lambda entry: entry.mean), content),
        "most visited": _rows(sorted(awake, key=lambda entry: -entry.visits), content),
        "retired": _rows(asleep, content),
    }


def _rows(entries: Sequence[PoolEntry], content: bool) -> list[dict[str, Any]]:
    return [
        {
            "seed": entry.seed.id,
            "harmful": entry.seed.harmful,
            "mean": entry.mean,
            "visits": entry.visits,
            "attack": text if content else f"[{_digest(text)[:12]}, {len(text.split())} words]",
        }
        for entry in entries[:SHOWN]
        for text in [entry.seen[-1].content]
    ]
