"""One run's folder as plain data for a page: summary, exams, curves, attacks, pool."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.report.layout import Rated, listed, mapping, number, rates
from sparring.report.samples import Attack, own, strongest
from sparring.store.folder import RunDir
from sparring.types import CorruptError, UsageError


@dataclass(frozen=True, slots=True)
class Summary:
    """A run's results, read from its folder; rates are as `Rate.to_json` wrote them."""

    run: str
    status: Mapping[str, Any]
    rounds: int
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    judge: Mapping[str, str]
    strategies: Mapping[int, Mapping[str, float]]
    crossplay: Mapping[str, Mapping[str, Any]]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def summarize(run: RunDir) -> Summary:
    """Read what a run wrote; UsageError where it has not come to an exam yet."""
    exams = run.exams()
    if not exams:
        raise UsageError(f"{run.folder}: no exam has been sat yet; let the run go on")
    first, last = (run.result(f"round_{number:06d}") or {} for number in (exams[0], exams[-1]))
    rounds = run.rounds()
    matrix = run.result("crossplay") or {}
    return Summary(
        run=str(run.folder),
        status=run.status,
        rounds=last["rounds"],
        before=first["rates"],
        after=last["rates"],
        judge=last["judge"],
        strategies=_strategy_shares(rounds),
        crossplay=matrix.get("asr", {}),
        seconds=sum(sum(record["seconds"].values()) for record in rounds),
    )


def _strategy_shares(
    rounds: Sequence[Mapping[str, Any]], moments: int = 6
) -> dict[int, dict[str, float]]:
    """The attacker's strategy shares at a handful of rounds in which it learned."""
    told = {
        r["round"] + 1: {
            key.removeprefix("strategy/"): value
            for key, value in r["metrics"].items()
            if key.startswith("strategy/")
        }
        for r in rounds
        if "attacker" in r["learns"]
    }
    numbers = [number for number, shares in told.items() if shares]
    if len(numbers) > moments:
        step = (len(numbers) - 1) / (moments - 1)
        numbers = [numbers[round(i * step)] for i in range(moments)]
    return {number: told[number] for number in numbers}


SHOWN = 10
"""Entries of each list."""


def pool_entries(run: RunDir, content: bool) -> dict[str, Any]:
    """The pool of the last checkpoint; attacks as digests unless their `content` is asked for."""
    number = run.checkpoints.at(None)
    path = run.checkpoints.path(number) / "memory.json"
    try:
        told = json.loads(path.read_bytes())["memory"]
        entries = told.get("entries")
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise CorruptError(f"{path}: is not what was written: {error!r:.200}") from error
    if entries is None:
        raise UsageError(
            f"{run.folder}: played without an experience pool (memory.experience.sampler)"
        )
    awake = [entry for entry in entries if not entry["asleep"]]
    asleep = [entry for entry in entries if entry["asleep"]]
    return {
        "rounds": number,
        "size": len(awake),
        "asleep": len(asleep),
        "visits": told["visits"],
        "hardest": _rows(sorted(awake, key=lambda e: e["mean"]), content),
        "most visited": _rows(sorted(awake, key=lambda e: -e["visits"]), content),
        "retired": _rows(asleep, content),
    }


def _rows(entries: Sequence[Mapping[str, Any]], content: bool) -> list[dict[str, Any]]:
    return [
        {
            "seed": entry["seed"]["id"],
            "harmful": entry["seed"]["harmful"],
            "mean": entry["mean"],
            "visits": entry["visits"],
            "attack": text if content else _redacted(text),
        }
        for entry in entries[:SHOWN]
        for text in [entry["seen"][-1]["content"]]
    ]


def _redacted(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"[{digest}, {len(text.split())} words]"


Points = tuple[tuple[int, float], ...]
"""(rounds played, value), ascending."""
BOTH = "both"
_OUTCOMES = frozenset({"asr", "over_refusal", "correct"})
"""What came of a round's games; against a past self it says nothing of the present ones."""


@dataclass(frozen=True, slots=True)
class Sat:
    """An exam after so many rounds: its rates, and those of a judge that was never the reward."""

    rounds: int
    rates: Mapping[str, Rated]
    held_out: Mapping[str, Rated]


@dataclass(frozen=True, slots=True)
class Story:
    """Everything a page says of one run."""

    label: str
    folder: Path
    summary: Summary
    judge: Mapping[str, str]
    held_out_judge: Mapping[str, str]
    success: str
    exams: tuple[Sat, ...]
    curves: Mapping[str, Points]
    turns: tuple[str, ...]
    strategies: tuple[tuple[int, Mapping[str, float]], ...]
    crossplay: Mapping[str, Mapping[str, Rated]]
    attacks: tuple[Attack, ...]
    own_attacks: tuple[Attack, ...]
    config: str
    environment: Mapping[str, Any]
    seconds: Mapping[str, float]
    counts: Mapping[str, float]

    @property
    def rounds(self) -> int:
        """Rounds played."""
        return len(self.turns)


def gather(run: RunDir, label: str, include_harmful: bool) -> Story:
    """Read a run's folder; the text of attacks and replies only with `include_harmful`.

    UsageError where no exam has been sat, CorruptError where a file is not what was written.
    """
    results = [run.result(f"round_{number:06d}") or {} for number in run.exams()]
    summary = summarize(run)
    records = run.rounds()
    metrics = [mapping(record.get("metrics")) for record in records]
    return Story(
        label=label,
        folder=run.folder,
        summary=summary,
        judge=_judge(results[-1].get("judge")),
        held_out_judge=_judge(results[-1].get("held_out_judge")),
        success=str(results[-1].get("success", "")),
        exams=tuple(_sat(told) for told in results),
        curves=_curves(metrics),
        turns=tuple(_learner(record.get("learns")) for record in records),
        strategies=_strategy_curves(metrics),
        crossplay={row: rates(cells) for row, cells in mapping(summary.crossplay).items()},
        attacks=tuple(strongest(run, include_harmful)),
        own_attacks=tuple(own(run, include_harmful)),
        config=run.config_yaml,
        environment=_environment(run.folder / "env.json"),
        seconds=_summed(p for r in records for p in mapping(r.get("seconds")).items()),
        counts=_summed(p for m in metrics for p in m.items() if str(p[0]).endswith("/tokens"))
        | _summed((f"judge/{k}", v) for r in records for k, v in mapping(r.get("judge")).items())
        | _spent("exams", results)
        | _spent("cross-play", [run.result("crossplay") or {}]),
    )


def _sat(told: Mapping[str, Any]) -> Sat:
    held_out = mapping(told.get("held_out_judge"))
    return Sat(
        int(number(told.get("rounds")) or 0), rates(told.get("rates")), rates(held_out.get("rates"))
    )


def _judge(told: Any) -> dict[str, str]:
    return {k: str(v) for k, v in mapping(told).items() if k in ("name", "caveat")}


def _curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Every number by its metric; a round that has none is a gap, not a 0."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for done, told in enumerate(metrics, 1):
        past = any(key.startswith("league/") for key in told)
        for key, value in told.items():
            found = None if past and key in _OUTCOMES else number(value)
            if found is not None and not key.startswith("strategy/"):
                curves.setdefault(key, []).append((done, found))
    return {key: tuple(points) for key, points in curves.items()}


def _learner(learns: Any) -> str:
    told = {who for who in listed(learns) if who in ("attacker", "defender")}
    return BOTH if len(told) == 2 else next(iter(told), "")


def _strategy_curves(
    metrics: Sequence[Mapping[str, Any]],
) -> tuple[tuple[int, Mapping[str, float]], ...]:
    told = []
    for done, round_ in enumerate(metrics, 1):
        found = {key: number(round_[key]) for key in round_ if key.startswith("strategy/")}
        shares = {k.removeprefix("strategy/"): v for k, v in found.items() if v is not None}
        if shares:
            told.append((done, shares))
    return tuple(told)


def _environment(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(mapping(json.loads(path.read_bytes())))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptError(f"{path}: is not what was written: {error!r:.200}") from error


def _spent(on: str, results: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What each judge cost, over all results."""
    return _summed(
        (f"{on}/{judge}/{kind}", count)
        for told in results
        for judge, cost in mapping(told.get("costs")).items()
        for kind, count in mapping(cost).items()
    )


def _summed(pairs: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    """Numbers by name."""
    total: dict[str, float] = {}
    for name, value in pairs:
        total[str(name)] = total.get(str(name), 0.0) + (number(value) or 0.0)
    return total
