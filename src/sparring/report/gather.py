"""One run's folder as plain data for a page: exams, curves, turns, strategies, attacks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.records import RunDir
from sparring.report.reading import Rated, listed, mapping, number, rates
from sparring.report.samples import Attack, own, strongest
from sparring.report.summary import Summary, summarize
from sparring.types import CorruptError

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
        strategies=_strategies(metrics),
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


def _strategies(
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
