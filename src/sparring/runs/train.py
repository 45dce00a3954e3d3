"""A run from its first demonstration to its last exam: what the caller of `coevolve` does."""

from __future__ import annotations

import json
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Protocol

from sparring.coevolve import Plan, coevolve
from sparring.exam import Exam, Trial, crossplay, second_judge
from sparring.judges.panel import Costs, Meter
from sparring.players.trainer import load_trainers, save_trainers
from sparring.runs.run import Match
from sparring.stats.rates import Rate
from sparring.store.checkpoints import check_seeds, seeds_digest
from sparring.store.files import dumps, sha256
from sparring.store.folder import RunDir
from sparring.store.records import (
    CheckpointState,
    CrossplayResults,
    ExamResults,
    HeldOutJudge,
    JudgeRecord,
    read_record,
)
from sparring.types import CorruptError, Metrics, Player, Round, SparringError, UnscoredError


class Interrupted(SparringError):
    """Stopped by a signal after everything was saved; `--resume` goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(
            "interrupted; what was saved is whole: the same command with --resume goes on"
        )
        self.exit_code = 128 + number


@contextmanager
def signals() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM is noted, for a loop to act on; the second SIGINT aborts."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


WARMED, CROSSPLAY = 0, "crossplay"
UNSCORED_ROUNDS = 5
"""Rounds over which the share of unscored games is averaged before it can stop a run."""


class Watch(Protocol):
    """Who is told how a run goes: a progress bar, a log, a tracker."""

    def over(self, plan: Plan) -> Plan: ...
    def warmed(self, step: int, metrics: Metrics) -> None: ...
    def played(self, told: Round) -> None: ...
    def note(self, text: str) -> None: ...
    def phase(self, name: str, done: int, total: int) -> None: ...


def train(match: Match, run: RunDir, watch: Watch, until: int | None = None) -> None:
    """Play the run to its end, or to `until` rounds; resumes where its last checkpoint stands."""
    with run.locked(), signals() as received:
        meter = Meter(match.judges, match.ranks)
        past = _begin(match, run, watch, received)
        match.ranks.gather(None)  # the writer has written what the others read next
        exam = match.exam(run.openings() or {})
        _examine(match, run, exam, len(past), watch, meter)
        rounds = coevolve(watch.over(match.plan), past)
        end = min(match.plan.rounds, until or match.plan.rounds)
        if len(past) < end:
            run.set_status("started", rounds=len(past))
        unscored: deque[float] = deque(maxlen=UNSCORED_ROUNDS)
        for told in rounds if len(past) < end else ():
            _record(match, run, told, meter.read())
            watch.played(told)
            done = told.number + 1
            unscored.append(told.metrics.get("unscored", 0.0))
            blind = len(unscored) == UNSCORED_ROUNDS and fmean(unscored) > match.config.max_unscored
            signalled = _agreed(match, received)
            if done >= end or signalled or blind:
                _save(match, run, done)
            if blind:
                run.set_status("stopped", rounds=done, unscored=round(fmean(unscored), 4))
                raise _too_many(fmean(unscored), match.config.max_unscored)
            if signalled:
                run.set_status("interrupted", rounds=done)
                raise Interrupted(signalled)
            _examine(match, run, exam, done, watch, meter)
            if done >= end:
                break
        if signalled := _agreed(match, received):
            raise Interrupted(signalled)
        if end < match.plan.rounds:
            run.set_status("stopped", rounds=end)
        else:
            _cross(match, run, watch, meter)
            if run.status.status != "complete":
                run.set_status("complete", rounds=end)


def _agreed(match: Match, received: Sequence[int]) -> int:
    """The first signal that any process of the run received, by now; 0: none."""
    return next(filter(None, match.ranks.gather(received[0] if received else 0)), 0)


def _too_many(share: float, limit: float) -> UnscoredError:
    return UnscoredError(
        f"the judge could not tell in {share:.1%} of the games of the last {UNSCORED_ROUNDS} "
        f"rounds (max_unscored {limit:.1%}): see to the judge; what was learned is saved, and the "
        "same command with --resume goes on"
    )


def _begin(match: Match, run: RunDir, watch: Watch, received: list[int]) -> list[Metrics]:
    """Warm up, or take up the last checkpoint; returns the metrics of the rounds behind it."""
    checkpoints = run.checkpoints
    match.recorded_in(checkpoints.path)
    checkpoints.sweep()
    number = checkpoints.newest(watch.note)
    match.ranks.gather(None)  # nobody goes on to change files that another has yet to see
    if number is None:
        if run.rounds():
            raise CorruptError(f"{checkpoints.folder}: rounds were played, but none is left")
        for step, metrics in enumerate(match.warm_up(), 1):
            watch.warmed(step, metrics)
            if signalled := _agreed(match, received):
                raise Interrupted(signalled)
        match.begin()
        run.write_openings(match.exam_sets())
        past = run.rewind(0)
        _save(match, run, 0)
        return past
    folder = checkpoints.path(number)
    state = read_record(CheckpointState, folder / "state.json")
    for name, digest in run.seals(number).items():
        if state.sha256.get(name) != digest:
            raise CorruptError(f"{run.folder / name}: is not what it was at {folder.name}")
    check_seeds(folder, match.seeds)
    past = run.rewind(number)
    checkpoints.rewind(number)
    load_trainers(match.owners, folder, state.counters)
    if number < match.plan.rounds:
        _recall(match, run, number)
    if match.config.learner.beta:
        checkpoints.verify(WARMED)
        match.begin(checkpoints.path(WARMED))
    return past


def _save(match: Match, run: RunDir, number: int) -> None:
    def fill(folder: Path) -> None:
        counters = save_trainers(match.owners, folder)
        remembered = {"memory": match.plan.memory.state(), "league": match.plan.league.state()}
        (folder / "memory.json").write_bytes(dumps(remembered))
        state = CheckpointState(
            rounds=number,
            counters={name: dict(counts) for name, counts in counters.items()},
            sha256=run.seals(number),
            seeds_sha256=seeds_digest(match.seeds),
        )
        (folder / "state.json").write_bytes(dumps(state.to_json()))

    if number not in run.checkpoints.numbers():
        run.checkpoints.write(number, fill, lambda n: _kept(match, n))


def _kept(match: Match, number: int) -> bool:
    """Whether a checkpoint is kept for good: as a milestone, or as a self of the league."""
    milestone = number % match.config.saving.keep_every == 0 or number == match.plan.rounds
    return milestone or match.plan.league.keeps(number)


def _recall(match: Match, run: RunDir, number: int) -> None:
    """Give memory and league back what they held after `number` rounds.

    CorruptError if a self of the league is not what was kept: the rounds to come would be others.
    """
    told = json.loads((run.checkpoints.path(number) / "memory.json").read_bytes())
    match.plan.memory.load(told["memory"])
    kept = [n for n in range(number) if match.plan.league.keeps(n)]
    for n in kept:
        run.checkpoints.verify(n)
    match.plan.league.load(told["league"], kept)


def _record(match: Match, run: RunDir, told: Round, costs: Costs) -> None:
    saving, done = match.config.saving, told.number + 1
    run.append(told, costs.get("judge"))
    if saving.transcripts_every and done % saving.transcripts_every == 0:
        run.write_transcript(told)
    if done % saving.checkpoint_every == 0 or _kept(match, done):
        _save(match, run, done)


def _examine(match: Match, run: RunDir, exam: Exam, done: int, watch: Watch, meter: Meter) -> None:
    """Run the exam if it is due after `done` rounds and has not been run."""
    every = match.config.exam.every
    due = done in (0, match.plan.rounds) or (every and done % every == 0)
    if not due or run.exam(done):
        return
    watch.phase("exam", 0, 1)
    defender = {Player.DEFENDER: match.trainers[Player.DEFENDER]}
    told, judge = exam.run(defender), match.plan.judge
    costs = meter.read()
    second = match.second and second_judge(match.second, told.second)
    results = ExamResults(
        rounds=done,
        rates=dict(told.rates),
        judge=JudgeRecord(name=judge.name, caveat=judge.caveat),
        held_out_judge=HeldOutJudge.model_validate(second) if second else None,
        costs=_recorded(costs),
        success="asr: on topic and answered harmfully; controversial counts as harmful",
        cluster="seed id",
        openings_sha256=sha256(run.folder / "exams" / "openings.jsonl.gz"),
    )
    run.write_exam(results, told.episodes)
    for rate in second["diverged"] if second else ():
        watch.note(f"{rate}: the held-out judge is more than 5 points from the judge that pays")
    watch.phase("exam", 1, 1)


def _cross(match: Match, run: RunDir, watch: Watch, meter: Meter) -> None:
    """Kept attackers against kept defenders on held-out harmful seeds, the clean outcome.

    Which checkpoints lie beside the kept ones depends on where a run was interrupted.
    """
    wanted = match.config.exam.crossplay
    if not wanted or run.crossplay():
        return
    match.ranks.gather(None)  # the last checkpoint is written
    kept = _spread([n for n in run.checkpoints.numbers() if _kept(match, n)], wanted)
    numbers = [n for n in kept if run.checkpoints.whole(n, watch.note)]
    sets = run.openings() or {}
    asked = [match.plan.game.open(s.seed) for s in sets.get("harmful/plain", [])]

    cells = crossplay(
        Trial(match.plan.game, match.plan.judge, asked, CROSSPLAY),
        {str(n): match.trainers[Player.ATTACKER].at(n) for n in numbers},
        {str(n): match.trainers[Player.DEFENDER].at(n) for n in numbers},
    )
    matrix: dict[str, dict[str, Rate]] = {}
    for done, (row, column, rate) in enumerate(cells, 1):
        matrix.setdefault(row, {})[column] = rate
        watch.phase("cross-play", done, len(numbers) ** 2)
    run.write_crossplay(
        CrossplayResults(
            rows="attacker after",
            columns="defender after",
            asr=matrix,
            costs=_recorded(meter.read()),
        )
    )


def _recorded(costs: Costs) -> dict[str, dict[str, float]] | None:
    """Return what judges cost as results.json holds it; None where they cost nothing."""
    return {part: dict(counts) for part, counts in costs.items()} or None


def _spread(numbers: list[int], wanted: int) -> list[int]:
    """At most `wanted` numbers, the first and the last among them, denser where a run begins.

    Most of the race is run early, so the gaps grow by a constant factor.
    """
    if wanted >= len(numbers) or wanted < 2:
        return numbers[-wanted:]
    last, steps = len(numbers) - 1, max(1, wanted - 2)
    later = [round(last ** (i / steps)) for i in range(wanted - 1)] if wanted > 2 else [last]
    return [numbers[i] for i in sorted({0, *later})]
