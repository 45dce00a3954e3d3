"""How a run goes, while it goes: bars on a terminal, one line a round elsewhere, trackers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sparring.arena import Cast
from sparring.coevolve import Plan
from sparring.report.layout import safe
from sparring.types import Metrics, Player, Round, UsageError

_DOES = {Player.ATTACKER: "attack", Player.DEFENDER: "defend"}
_SHOWN = ("asr", "parsed", "faithful", "correct", "over_refusal", "unscored")


class ProgressWatch:
    """Shows every phase of a run; `trackers` get every round's metrics."""

    def __init__(self, console: Console, rounds: int, warm_up_steps: int, trackers: Any) -> None:
        self.console, self.trackers = console, trackers
        self.totals = {"warm-up": warm_up_steps, "rounds": rounds}
        self.bars = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.started = self.shown = time.monotonic()
        self.last = ""

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()
        self.trackers.finish()

    def warmed(self, step: int, metrics: Metrics) -> None:
        """One step of the attacker's warm-up."""
        self.phase("warm-up", step, self.totals["warm-up"], f"loss {metrics['loss']:.2f}")

    def played(self, told: Round) -> None:
        """One round."""
        learns = " and ".join(sorted(told.turn.learns))
        numbers = " ".join(f"{k} {told.metrics[k]:.2f}" for k in _SHOWN if k in told.metrics)
        met = [
            f" (met the {player} of round {told.metrics[f'league/{player}']:.0f})"
            for player in Player
            if f"league/{player}" in told.metrics
        ]
        self.last = line = f"{learns} learned{''.join(met)}: {numbers}"
        self._advance("rounds", told.number + 1, self.totals["rounds"], line)
        if not self.console.is_terminal:
            self._line(f"round {told.number + 1}/{self.totals['rounds']}  {line}")
        self.trackers.log(told.metrics, told.number)

    def over(self, plan: Plan) -> Plan:
        """The plan, telling what it is at inside a round; where there are no bars, as it is."""
        if not self.console.is_terminal:
            return plan
        cast: Cast = {p: _Watched(policy, _DOES[p], self._now) for p, policy in plan.cast.items()}
        learners = {
            id(told): _Watched(told, "update", self._now) for told in plan.learners.values()
        }
        return replace(
            plan,
            cast=cast,
            judge=_Watched(plan.judge, "judge", self._now),
            learners={player: learners[id(told)] for player, told in plan.learners.items()},
        )

    def _now(self, doing: str) -> None:
        if "rounds" in self.tasks:
            self.bars.update(self.tasks["rounds"], told=f"{doing:7s}  {self.last}")

    def note(self, text: str) -> None:
        """Something a person should know."""
        self.console.print(safe(text), style="yellow", highlight=False, markup=False)

    def phase(self, name: str, done: int, total: int, told: str = "") -> None:
        """Progress of anything but rounds; at most one line every two seconds without bars."""
        self._advance(name, done, total, told)
        due = time.monotonic() - self.shown > 2 or done in (0, 1, total)
        if not self.console.is_terminal and due:
            self._line(f"{name} {done}/{total}  {told}".rstrip())

    def _advance(self, name: str, done: int, total: int, told: str) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total, told="")
        self.bars.update(self.tasks[name], completed=done, total=total, told=safe(told))

    def _line(self, text: str) -> None:
        self.shown = time.monotonic()
        seconds = self.shown - self.started
        self.console.print(f"{seconds:6.0f}s  {safe(text)}", highlight=False, markup=False)


class _Watched:
    """A policy, judge or learner that says when it is at work."""

    def __init__(self, part: Any, doing: str, tell: Callable[[str], None]) -> None:
        self._part, self._doing, self._tell = part, doing, tell

    def __getattr__(self, name: str) -> Any:
        if name in ("sample", "rule", "update"):
            self._tell(self._doing)
        return getattr(self._part, name)


class Trackers:
    """The trackers a run reports to, through accelerate; none costs nothing."""

    def __init__(self, names: Sequence[str], folder: Path, project: str) -> None:
        self._accelerator: Any = None
        if names:
            from accelerate import Accelerator

            self._accelerator = Accelerator(log_with=list(names), project_dir=str(folder), cpu=True)
            self._accelerator.init_trackers(project)

    @staticmethod
    def check(names: Sequence[str]) -> None:
        """Refuse a tracker that is not installed; accelerate would only warn, and log nothing."""
        if not names:
            return
        from accelerate.tracking import get_available_trackers

        missing = set(names) - {tracker.value for tracker in get_available_trackers()}
        if missing:
            told = " ".join(sorted(missing))
            raise UsageError(f"saving.report_to: not installed: {told} (pip install {told})")

    def log(self, metrics: Metrics, step: int) -> None:
        """One round's metrics."""
        if self._accelerator:
            self._accelerator.log(metrics, step=step)

    def finish(self) -> None:
        """Flush."""
        if self._accelerator:
            self._accelerator.end_training()
