"""How a run goes, while it goes: bars on a terminal, one line a round elsewhere, trackers."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from rich import progress
from rich.console import Console
from rich.table import Column

from sparring.pulse import BEGAN, listener, watched
from sparring.report.escape import duration, line, safe
from sparring.runs.run import Run
from sparring.runs.train import Interrupted, Watch
from sparring.runs.train import train as play
from sparring.settings.config import RunConfig
from sparring.store.folder import RunDir
from sparring.types import Metrics, Player, Round, UsageError

_SHOWN = ("asr", "parsed", "faithful", "correct", "over_refusal", "unscored")


def figure(number: Any) -> str:
    """Return a number to three digits, a whole one in full, and anything else as it is."""
    if not isinstance(number, float) or number.is_integer():
        return str(number)
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"


def in_a_line(learns: Iterable[Player], metrics: Metrics) -> str:
    """Return a round in a line: who learned, whom it met, and the rates to look at first."""
    past = "".join(
        f" (met the {player} of round {metrics[f'league/{player}']:.0f})"
        for player in Player
        if f"league/{player}" in metrics
    )
    # Where no attack parses none was sent, and an ASR of 0 would look like a defence.
    shown = [key for key in _SHOWN if key in metrics and (key != "asr" or metrics.get("parsed", 1))]
    numbers = " ".join(f"{key} {metrics[key]:.2f}" for key in shown)
    return f"{' and '.join(sorted(learns))} learned{past}: {numbers}"


class Bars(ExitStack):
    """Shows how far work has come: bars on a terminal, elsewhere a line every two seconds or so."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        super().__init__()
        self.console = console
        self.prints = not (quiet or console.is_terminal)
        self.bars = progress.Progress(
            progress.TextColumn("{task.description:>10.24}", markup=False),
            *(progress.BarColumn(12), progress.MofNCompleteColumn()),
            *(progress.TimeElapsedColumn(), progress.TimeRemainingColumn()),
            progress.TextColumn(
                "{task.fields[text]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=console,
            expand=True,
            speed_estimate_period=900,  # a round may take minutes
            disable=quiet or not console.is_terminal,
        )
        self.tasks: dict[str, progress.TaskID] = {}
        self.shown: progress.TaskID | None = None
        self.printed = BEGAN
        self.last_round = ""
        self.outer = listener()

    def __enter__(self) -> Self:
        self.enter_context(self.bars)
        self.outer("", 0, 0)
        self.enter_context(watched(self.beat, self.phase))
        return self

    def beat(self, work: str, done: int, total: int) -> None:
        """Show what is under way; without bars whoever watched before does, after a while."""
        if self.shown is None and not self.prints:
            self._advance("starting", 0, 1, "")
        if self.shown is not None:
            text = f"{work} {done}/{total}"
            self.bars.update(self.shown, text=safe(f"{text:16s}  {self.last_round}"))
        if self.prints:
            self.outer(work, done, total)

    def phase(self, name: str, done: int, total: int, text: str = "") -> None:
        """Show that of `total` steps of something `done` are done, and about how long it takes."""
        self._advance(name, done, total, text)
        left = self._task(name).time_remaining
        text += f"  about {duration(left)} left" if left else ""
        if time.monotonic() - self.printed > 2 or done in (0, 1, total):
            self._print(f"{name} {done}/{total}  {text}".rstrip())

    def _advance(self, name: str, done: int, total: int, text: str) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(line(Path(name).name), total=total, text="")
        elif self._task(name).finished and done < total:
            self.bars.reset(self.tasks[name])  # another exam
        if self.shown not in (None, self.tasks[name]):
            self.bars.update(self.shown, text="")  # what it showed last is over
            if self.shown == self.tasks.get("starting"):
                self.bars.update(self.shown, completed=1, visible=False)
        self.shown = self.tasks[name]
        self.bars.update(self.tasks[name], completed=done, total=total, text=safe(text))

    def _task(self, name: str) -> progress.Task:
        return self.bars.tasks[self.tasks[name]]

    def _print(self, text: str) -> None:
        if self.prints:
            self.printed = time.monotonic()
            self.outer("", 0, 0)
            seconds = self.printed - BEGAN
            self.console.print(f"{seconds:6.0f}s  {safe(text)}", highlight=False, markup=False)


def train(
    run: Run, *, resume: bool = False, max_rounds: int | None = None, watch: Watch | None = None
) -> RunDir:
    """Play the run into its folder, to its end or to `max_rounds` rounds; returns the folder.

    With `resume` it goes on where its last checkpoint stands, also in another process, and on to
    more `rounds` than it was begun with. Progress and notes go to stderr as with the command;
    `watch` shows them in another way, and `Watch()` nowhere. UsageError for a folder that exists
    without `resume`, and for one that was begun with other settings; Interrupted after SIGINT or
    SIGTERM, when everything is saved.
    """
    with ExitStack() as stack:
        if watch is None and run.ranks.index == 0:  # of several processes the first one speaks
            watch = stack.enter_context(ProgressWatch(Console(stderr=True), run.config))
        try:
            return play(run, resume=resume, max_rounds=max_rounds, watch=watch)
        except Interrupted as error:
            here = str(error).replace("the same command with --resume", "train(run, resume=True)")
            error.args = (here,)
            raise


class ProgressWatch(Bars, Watch):
    """Shows every phase of a run; `trackers`, through accelerate, get every round's metrics."""

    def __init__(self, console: Console, config: RunConfig, trackers: Sequence[str] = ()) -> None:
        super().__init__(console)
        self.config, self.trackers = config, trackers
        self.imitated = Counter[str]()

    def warmed(self, step: int, metrics: Metrics) -> None:
        """Show one step of a player's warm-up; the players imitate one after the other."""
        [(player, loss)] = [(k.split("/")[0], v) for k, v in metrics.items() if "/loss" in k]
        self.imitated[player] += 1
        steps = self.config.warm_up.steps[Player(player)]
        self.phase(f"{player}'s warm-up", self.imitated[player], steps, f"loss {loss:.2f}")

    def played(self, round_: Round) -> None:
        """Show one round, and log it to the trackers."""
        metrics, done, rounds = round_.metrics, round_.number + 1, self.config.rounds
        self.last_round = in_a_line(round_.turn.learns, metrics)
        self._advance("rounds", done, rounds, self.last_round)
        self._print(f"round {done}/{rounds}  {self.last_round}")
        if self.trackers:  # without any, nothing is imported
            self._accelerator.log(metrics, step=round_.number)

    def note(self, text: str) -> None:
        """Print something that a person should know."""
        self.console.print(safe(text), style="yellow", highlight=False, markup=False)

    @cached_property
    def _accelerator(self) -> Any:
        """What logs; it begins with the first round, when the run's folder is there."""
        from accelerate import Accelerator

        folder, names = str(self.config.folder), list(self.trackers)
        accelerator = Accelerator(log_with=names, project_dir=folder, cpu=True)
        accelerator.init_trackers("sparring")
        self.callback(accelerator.end_training)
        return accelerator


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is not installed; accelerate would only warn, and log nothing."""
    if not names:
        return
    from accelerate.tracking import get_available_trackers

    missing = " ".join(sorted(set(names) - {t.value for t in get_available_trackers()}))
    if missing:
        raise UsageError(f"saving.report_to: not installed: {missing} (pip install {missing})")
