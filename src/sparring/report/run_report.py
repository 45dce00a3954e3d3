"""Everything that a report says of one run, read from its folder through the records' models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, TypeVar

from sparring.door import inside, read_json, reading
from sparring.memory.experience import Entry, entry_of
from sparring.report.escape import in_place_of, name
from sparring.schedules import BestResponse
from sparring.settings.config import RunConfig
from sparring.stats.rates import Rate, grouped
from sparring.store import records
from sparring.store.folder import RunDir
from sparring.types import UsageError

T = TypeVar("T")
Points = Sequence[tuple[int, float]]
"""(rounds played, value), ascending."""
POOLED = ("adversarial", "wrapped", "rewritten", "all")
"""Exam sets pooled over kinds of attacks, in the order in which a headline prefers them."""
_IN_WORDS = {"asr": "attack success", "over_refusal": "over-refusal", "correct": "correctness"}
SHOWN = 10
"""Entries of each list of the experience pool."""
_OUTCOMES = frozenset({"asr", "over_refusal", "correct"})
"""Metrics that say nothing of the present players where one of them was a past self."""


@dataclass(frozen=True)
class RunReport:
    """What a run wrote; `exams` holds at least one."""

    label: str
    run: RunDir
    exams: Sequence[records.ExamResults]
    rounds: Sequence[records.RoundRecord]
    crossplay: records.CrossplayResults | None
    exploit: records.ExploitResults | None
    attack: records.AttackResults | None
    bound: records.BoundResults | None
    evaluation: records.EvalResults | None

    @property
    def before(self) -> records.ExamResults:
        return self.exams[0]

    @property
    def after(self) -> records.ExamResults:
        return self.exams[-1]

    @cached_property
    def broad_pool(self) -> bool:
        """Whether the attacker was warmed up on every family of the sandbox."""
        return pool_is_broad(settings_of(self.run))

    @property
    def summary(self) -> str:
        """What came out, in sentences, with its uncertainty."""
        before, after, status = self.before.rates, self.after.rates, self.run.status.status
        metrics = [set(record.metrics) for record in self.rounds]
        learned = any(name.endswith("/loss") for names in metrics for name in names)
        parsed = any(record.metrics.get("parsed") for record in self.rounds)
        keys = [key for metric in _IN_WORDS if (key := headline_key(after, metric))]
        changed = any(apart(before.get(key), after[key]) for key in keys)
        examined = self.after is not self.before
        moved = [self._moved(key) for key in keys]
        trained, worst = self._trained, self._worst
        words = {
            f"The run is not complete ({name(status)} after {len(self.rounds):,} rounds).": status
            != "complete",
            "No attack of the attacker parsed.": not parsed,
            "No update was made, so nothing was learned.": not learned,
            "Only the exam before the first round was sat.": not examined,
            "No change can be told from chance.": examined and learned and not changed,
            f"After {self.after.rounds:,} rounds {'; '.join(moved)} (95 % intervals).": moved,
            f"Attackers that the run trained against it reached "
            f"{_listed(self.best_responses)} on training seeds, in turn.": self.best_responses,
            trained: trained,
            worst: worst,
            "Attackers that adapt were not tried against it (sparring attack).": not (
                trained or worst
            ),
        }
        return " ".join(sentence for sentence, holds in words.items() if holds)

    @property
    def _trained(self) -> str:
        """How far attackers that train got, beside the exam; '' where none was played."""
        exploit, best = self.exploit, self.best_response
        if not (exploit and exploit.worst and best):
            return ""
        key = headline_key(self.after.rates, "asr")
        exam = self.after.rates[key] if key else None
        farther = exam and apart(exam, best) and (best.value or 0) > (exam.value or 0)
        shown = (
            "so the exam's fixed attacks do not show what an attacker that adapts finds"
            if farther
            else "which says nothing of a longer attack or another one"
        )
        steps = exploit.attackers[exploit.worst].steps[-1]
        which = f"{name(exploit.worst)}, {steps} steps" if steps else name(exploit.worst)
        return f"The strongest attacker against it ({which}) reaches {cell(best)}, {shown}."

    @property
    def _worst(self) -> str:
        """How far the worst attack that adapts got, in words; '' where none was played."""
        if not (self.attack and self.attack.worst):
            return ""
        family, k, rate = self.attack.worst
        queries = "1 query" if k == "1" else f"{k} queries"
        tried = len({each.partition(" ")[0] for each in self.attack.families})
        return (
            f"Of {tried} attacks that adapt, {name(family)} got "
            f"farthest: {cell(rate)} of {counted(rate)} seeds or games within {queries}."
        )

    def _moved(self, key: str) -> str:
        """Return how a rate moved between the first and the last exam, in words."""
        a, b = self.before.rates.get(key), self.after.rates[key]
        metric, _, family = key.partition("/")
        what = f"{_IN_WORDS[metric]} ({name(family_name([self], family))}, n = {counted(b)})"
        chance = "" if apart(a, b) else ", within its uncertainty"
        went = f"went from {cell(a)} to {cell(b)}{chance}"
        return f"{what} {f'was {cell(b)}' if self.after is self.before else went}"

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
        if self.best_responses:
            curves["best_response"] = [(each.after, each.asr) for each in self.best_responses]
        for number, rates in sorted(self.evaluation.rates.items() if self.evaluation else ()):
            heads = [headline_key(rates, metric) for metric in ("asr", "over_refusal")]
            shown = {f"eval/{head.split('/')[0]}": [rates[head]] for head in heads if head}
            shown["eval/utility"] = [rates[head] for head in rates if head.startswith("utility/")]
            for key, measured in shown.items():
                if scored := [rate.value for rate in measured if rate.value is not None]:
                    curves.setdefault(key, []).append((number, fmean(scored)))
        return curves

    @cached_property
    def best_responses(self) -> Sequence[BestResponse]:
        """The attackers that a hardened run trained against its defender, in their order."""
        settings = settings_of(self.run)
        rules = settings.schedule.oracle(settings.rounds) if settings else None
        return rules.responses([record.metrics for record in self.rounds]) if rules else ()

    @cached_property
    def strategies(self) -> Sequence[tuple[int, Mapping[str, float]]]:
        """(rounds played, shares of the attacker's rewrites by strategy), where there are two."""
        rounds = (
            (done, {k[9:]: v for k, v in record.metrics.items() if k.startswith("strategy/")})
            for done, record in enumerate(self.rounds, 1)
        )
        shares = [(done, share) for done, share in rounds if share]
        return shares if len({name for _, share in shares for name in share}) > 1 else []

    @property
    def seconds(self) -> Mapping[str, float]:
        """Wall time of the rounds, by phase."""
        return _summed(record.seconds for record in self.rounds)

    @property
    def counts(self) -> Mapping[str, float]:
        """Tokens of each player, and what each judge cost in rounds, exams and cross-play."""
        tokens = {key: points for key, points in self.curves.items() if key.endswith("/tokens")}
        judge = _summed(record.judge or {} for record in self.rounds)
        return (
            {key: sum(count for _, count in points) for key, points in tokens.items()}
            | {f"judge/{key}": count for key, count in judge.items()}
            | _summed(_spent("exams", exam.costs) for exam in self.exams)
            | _spent("cross-play", self.crossplay.costs if self.crossplay else None)
        )

    @property
    def best_response(self) -> Rate | None:
        """ASR of the strongest of the attackers that trained on the run's defender."""
        exploit = self.exploit
        strongest = exploit.attackers.get(exploit.worst or "") if exploit else None
        return strongest.asr[-1] if strongest and strongest.asr else None

    def to_json(self) -> dict[str, Any]:
        """Return what `sparring report --json` prints; strategies where the attacker learned."""
        rounds = self.rounds
        learned = [item for item in self.strategies if "attacker" in rounds[item[0] - 1].learns]
        return {
            "run": str(self.run.folder),
            "status": self.run.status.to_json(),
            "rounds": self.after.rounds,
            "before": self.before.to_json()["rates"],
            "after": self.after.to_json()["rates"],
            "judge": self.after.judge.to_json(),
            "strategies": dict(spread(learned, 6)),
            "crossplay": self.crossplay.to_json()["asr"] if self.crossplay else {},
            "seconds": sum(self.seconds.values()),
            "summary": self.summary,
        }


def read_run(run: RunDir, label: str = "") -> RunReport:
    """Read what a run wrote; UsageError where there was no exam yet, CorruptError names a file."""
    exams = [exam for number in run.exams() if (exam := run.exam(number))]
    if not exams:
        raise UsageError(f"{run.folder}: no exam has been sat yet; let the run go on")
    return RunReport(
        label=label or run.folder.name,
        run=run,
        exams=exams,
        rounds=run.rounds(),
        crossplay=run.crossplay(),
        exploit=records.ExploitResults.read_if_there(run.evidence.path("evidence/exploit.json")),
        attack=records.AttackResults.read_if_there(run.evidence.path("evidence/attack.json")),
        bound=records.BoundResults.read_if_there(run.evidence.path("evidence/bound.json")),
        evaluation=records.EvalResults.read_if_there(run.evidence.path("evidence/eval.json")),
    )


def _listed(responses: Sequence[BestResponse]) -> str:
    """Return the success of the best responses, in words; of many the first and the last three."""
    rates = [f"{response.asr:.2f}" for response in responses]
    return ", ".join(rates if len(rates) < 8 else [*rates[:3], "…", *rates[-3:]])


def settings_of(run: RunDir) -> RunConfig | None:
    """Return the settings of a run; None where another version wrote them."""
    try:
        return run.config
    except UsageError:
        return None


def pool_is_broad(config: RunConfig | None) -> bool:
    """Say whether a run's attack pool holds every family of the sandbox's exam."""
    warm = config.warm_up if config and config.in_sandbox else None
    return warm is not None and warm.steps.attacker > 0 and warm.pool == "broad"


def family_name(runs: Iterable[RunReport], family: str) -> str:
    """Return what a reader calls a family of attacks: one in the attack pool is not held out."""
    return " / ".join(dict.fromkeys(renamed(family, run.broad_pool) for run in runs))


def renamed(family: str, broad: bool) -> str:
    """Return a family's name where the attack pool is broad or not."""
    return family.replace("held-out", "broad-pool") if broad else family


def apart(a: Rate | None, b: Rate | None) -> bool:
    """Say whether two intervals do not touch."""
    if not (a and b and a.ci95 and b.ci95):
        return False
    return a.ci95[1] < b.ci95[0] or b.ci95[1] < a.ci95[0]


def _spent(on: str, costs: records.Costs | None) -> dict[str, float]:
    return {
        f"{on}/{judge}/{kind}": count
        for judge, counts in (costs or {}).items()
        for kind, count in counts.items()
    }


def _summed(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    values = grouped(item for count in counts for item in count.items())
    return {key: sum(each) for key, each in values.items()}


def spread(values: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the values, evenly, the first and the last among them."""
    if len(values) <= most or not most:
        return list(values[:most])
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
    total = _summed(shares)
    return sorted(total, key=lambda strategy: (-total[strategy], strategy))


def sides(matrix: Mapping[str, Mapping[str, Rate]]) -> list[list[str]]:
    """Return attackers and defenders of a cross-play by rounds played, at most 20 of each."""
    columns = {column for cells in matrix.values() for column in cells}
    # Names that are numbers of rounds, in the order of the numbers.
    ordered = (sorted(names, key=lambda name: (len(name), name)) for names in (matrix, columns))
    return [spread(names, 20) for names in ordered]


def value(rate: Rate | None, places: int = 3, unscored: str = "unscored") -> str:
    """Return a rate as a cell shows it."""
    if rate is None:
        return "–"
    return unscored if rate.value is None else f"{rate.value:.{places}f}"


def interval(rate: Rate | None) -> str:
    """Return a rate's 95 % interval as a cell shows it; '' where it has none."""
    return "" if rate is None or rate.ci95 is None else "{:.2f}–{:.2f}".format(*rate.ci95)


def cell(rate: Rate | None) -> str:
    """Return a rate with its interval, where it has one."""
    within = interval(rate)
    return f"{value(rate)} ({within})" if within else value(rate)


def counted(rate: Rate | None) -> str:
    """Return how many items were scored, and of how many where that is not all."""
    if rate is None:
        return "–"
    scored = f"{rate.n_scored:,}"
    return scored if rate.n_scored == rate.n_total else f"{scored} of {rate.n_total:,}"


def pool_entries(run: RunDir, content: bool) -> dict[str, Any]:
    """Return the pool of the last checkpoint; attacks as digests unless `content` is asked for."""
    number = run.checkpoints.at(None)
    path = inside(run.checkpoints.path(number), "memory.json")
    written = read_json(path)
    with reading(path):
        memory = written["memory"]
        if "entries" not in memory:
            raise UsageError(
                f"{run.folder}: played without an experience pool (memory.experience.sampler)"
            )
        entries = [entry_of(row) for row in memory["entries"]]
        active = [entry for entry in entries if not entry.asleep]
        lists = {
            "hardest": sorted(active, key=lambda entry: entry.mean),
            "most visited": sorted(active, key=lambda entry: -entry.visits),
            "retired": [entry for entry in entries if entry.asleep],
        }
        sizes = {"size": len(active), "asleep": len(lists["retired"]), "visits": memory["visits"]}
        shown = {name: [_row(e, content) for e in own[:SHOWN]] for name, own in lists.items()}
    return {"rounds": number, **sizes, **shown}


def _row(entry: Entry, content: bool) -> dict[str, Any]:
    text = entry.seen[-1].content
    return {
        **{"seed": entry.seed.id, "harmful": entry.seed.harmful, "mean": entry.mean},
        **{"visits": entry.visits, "attack": text if content else in_place_of(text)},
    }
