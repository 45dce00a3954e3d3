"""What a run came to, as one JSON-ready table: before → after, strategies, cross-play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.records import RunDir
from sparring.types import UsageError


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
        strategies=_strategies(rounds),
        crossplay=matrix.get("asr", {}),
        seconds=sum(sum(record["seconds"].values()) for record in rounds),
    )


def _strategies(
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
