"""A run from its first demonstration to its last exam: what the caller of `coevolve` does."""

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from threading import Timer
from typing import Any

from sparring.coevolve import coevolve
from sparring.door import read_json, sha256
from sparring.exam import Exam, Trial, crossplay, second_judge
from sparring.judges.panel import Meter
from sparring.metrics import SEEDS_OF, listed
from sparring.players.grpo import ALARM
from sparring.players.trainer import load_trainers, save_trainers
from sparring.pulse import phase
from sparring.runs.recipes import check_resumable
from sparring.runs.run import Learning, Run, rehearse, try_functions
from sparring.settings.config import to_yaml
from sparring.stats.rates import Rate
from sparring.store import records
from sparring.store.checkpoints import check_seeds, seeds_digest, spread_out
from sparring.store.files import dumps
from sparring.store.folder import OPENINGS, RunDir, identities
from sparring.types import (
    CorruptError,
    Episode,
    Metrics,
    Player,
    Round,
    SparringError,
    UnscoredError,
    UsageError,
)


class Interrupted(SparringError):
    """Stopped by a signal after everything was saved; the same command goes on, `how` says.

    `where` says in what, if that begins again.
    """

    def __init__(self, number: int, how: str = " with --resume", where: str = "") -> None:
        goes_on = f"the same command{how} {'begins it again' if where else 'goes on'}"
        saved = "of which nothing is saved" if where else "what was saved is whole"
        super().__init__(f"interrupted{where}{',' if where else ';'} {saved}: {goes_on}")
        self.exit_code = 128 + number


GRACE, LAST = 15, 28
"""Seconds after a signal in which a loop may act on it, and after which the process is gone."""


@contextmanager
def signals(how: str = " with --resume") -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM is noted, for a loop to act on within `GRACE` seconds.

    After that, and at the second signal, whatever is under way is Interrupted: what is on disk is
    whole at any time. A computation that returns to Python too late for that ends with the process.
    """
    received: list[int] = []
    last = Timer(LAST, lambda: os._exit(128 + received[0]))
    last.daemon = True

    def note(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        signal.alarm(GRACE)
        last.start()

    names = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.signal(number, note) for number in names}
    try:
        yield received
    except KeyboardInterrupt:
        raise Interrupted(received[0], how) from None
    finally:
        signal.alarm(0)
        last.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


UNSCORED_ROUNDS = 5
"""Rounds over which the share of unscored games is averaged before it can stop a run."""


WARNINGS = {
    "update_skipped": "the gradient was not finite (NaN), so this update was not made",
    "sampling_alarm": "the log-probabilities of sampling and learning differ by more than "
    f"{ALARM} nats a token in the mean, so they are two policies: set dtype=float32, or read "
    "about sampling_logp_difference in docs/magic.md",
}
"""What a player's metric of that name is a sign of."""


class Watch:
    """Shows how a run goes. This one shows nothing; override what should be shown."""

    def warmed(self, step: int, metrics: Metrics) -> None:
        """A step of the warm-up is over."""

    def played(self, round_: Round) -> None:
        """A round is over and recorded."""

    def note(self, text: str) -> None:
        """Something the user should know."""


def train(
    run: Run, *, resume: bool = False, max_rounds: int | None = None, watch: Watch | None = None
) -> RunDir:
    """Play the run into its folder, as `sparring.train` does, which also shows how it goes."""
    folder = _folder(run, resume)
    with folder.locked():
        folder.play_on(run.config.rounds)
        try:
            with signals() as received:
                training = _Training(run, folder, watch or Watch(), received)
                training.play(min(run.plan.rounds, max_rounds or run.plan.rounds))
        except Interrupted:
            folder.set_status("interrupted", rounds=sum(1 for _ in folder.each_round()))
            raise
    run.ranks.gather(None)  # the first process has written what the others read next
    return folder


def _folder(run: Run, resume: bool) -> RunDir:
    """The run's folder; the first process makes it and writes, the others look on."""
    first = run.ranks.index == 0
    if resume:
        check_resumable(RunDir.open(run.config.folder), run.config)
        _check_counts(RunDir(run.config.folder))
    elif first:
        RunDir.create(run.config.folder, to_yaml(run.config), identities(run.config))
    run.ranks.gather(None)
    return RunDir(run.config.folder, writer=first)


def _check_counts(folder: RunDir) -> None:
    """Refuse a run whose rounds do not say where the next one's seeds begin."""
    rounds = folder.each_round()
    if any(name not in record.metrics for record in rounds for name in SEEDS_OF.values()):
        raise UsageError(
            f"--resume: the rounds of {folder.folder} do not count the seeds they played, because "
            "an older version of sparring began it; report or evaluate it, and train a new run"
        )


@dataclass
class _Training:
    """One call of `train`: the run, its folder, who watches, and the signals received so far."""

    run: Run
    folder: RunDir
    watch: Watch
    received: Sequence[int]
    meter: Meter = field(init=False)
    unscored: deque[float] = field(default_factory=lambda: deque(maxlen=UNSCORED_ROUNDS))
    too_long: set[str] = field(default_factory=set)
    """The ids of seeds that were named, because a prompt of their games did not fit."""
    past: list[Metrics] = field(default_factory=list)

    def __post_init__(self) -> None:
        judges = {"judge": self.run.plan.judge, "held_out_judge": self.run.exam.second}
        self.meter = Meter({name: judge for name, judge in judges.items() if judge}, self.run.ranks)
        stops = self.run.config.schedule.harden_after is None
        self.learning = Learning(self.watch.note, self.past, stops)

    def play(self, end: int) -> None:
        """Warm up or resume, then play, record, examine and save until `end` rounds are over."""
        if not self.resumed():
            self.begun()
        self.run.ranks.gather(None)  # the writer has written what the others read next
        exam, done = replace(self.run.exam, sets=self.folder.openings() or {}), len(self.past)
        self.examine(exam, done)
        if done < end and not self.over(done):
            self.folder.set_status("started", rounds=done)
        for round_ in coevolve(self.run.plan, self.past) if done < end else ():
            done = round_.number + 1
            self.record(round_)
            self.watch.played(round_)
            self.stop_if_due(round_, done >= end or self.over(done))
            self.examine(exam, done)
            if done >= end:
                break
        self.stop_if_signalled()
        if not self.over(done):
            self.folder.set_status("stopped", rounds=done)
            return
        self.cross()
        if self.folder.status.status != "complete":
            self.folder.set_status("complete", rounds=done)

    def over(self, done: int) -> bool:
        """Whether the game is over after `done` rounds: the last, or where its schedule ends."""
        plan = self.run.plan
        return done >= plan.rounds or plan.schedule(done, self.past[:done]) is None

    def resumed(self) -> bool:
        """Go on from the newest checkpoint; False if there is none."""
        run, folder, checkpoints = self.run, self.folder, self.folder.checkpoints
        run.recorded_in(checkpoints.path)
        checkpoints.sweep()
        number = checkpoints.newest(self.watch.note)
        run.ranks.gather(None)  # nobody goes on to change files that another has yet to see
        if number is None:
            return False
        place = checkpoints.path(number)
        state = records.CheckpointState.read(place / "state.json")
        for name, digest in folder.seals(number).items():
            if state.sha256.get(name) != digest:
                raise CorruptError(f"{folder.folder / name}: is not what it was at {place.name}")
        check_seeds(place, run.seeds)
        for note in folder.other_versions():
            self.watch.note(note)
        self.past += folder.rewind(number)
        checkpoints.rewind(number)
        load_trainers(run.owners, place, state.counters)
        if number < run.plan.rounds:
            self.recall(number)
        if run.config.learner.beta:  # KL is measured to the weights that RL began with
            checkpoints.verify(0)
            run.begin(checkpoints.path(0))
        return True

    def recall(self, number: int) -> None:
        """Give memory and league back what they held after `number` rounds.

        CorruptError if a self of the league is not what was kept: later rounds would be others.
        """
        plan, checkpoints = self.run.plan, self.folder.checkpoints
        state = read_json(checkpoints.path(number) / "memory.json")
        plan.memory.load(state["memory"])
        selves = [n for n in range(number) if plan.league.keeps(n, self.past)]
        for n in selves:
            checkpoints.verify(n)
        plan.league.load(state["league"], selves)

    def begun(self) -> None:
        """Warm up, record the exam's openings, and save what RL begins with."""
        if self.folder.rounds():
            raise CorruptError(
                f"{self.folder.checkpoints.folder}: rounds were played, but none is left"
            )
        try_functions(self.run)
        for step, metrics in enumerate(self.run.warm_up(), 1):
            self.watch.warmed(step, metrics)
            self.stop_if_signalled(" in the warm-up")
        self.run.begin()
        rehearse(self.run, self.watch.note)
        self.meter.read()  # what the rehearsal cost is not the first exam's cost
        self.folder.write_openings(self.run.exam_openings())
        self.folder.rewind(0)
        self.save(0)

    def name_too_long(self, episodes: Iterable[Episode]) -> None:
        """Tell the user of seeds whose games left because a prompt did not fit, each once."""
        left = [e.state for e in episodes if e.state.too_long]
        if new := listed(state for state in left if state.seed.id not in self.too_long):
            self.watch.note(f"longer than the model's context, so the game is left out: {new}")
        self.too_long |= {state.seed.id for state in left}

    def record(self, round_: Round) -> None:
        """Write the round down, with its transcript and a checkpoint where they are due."""
        saving, done = self.run.config.saving, round_.number + 1
        self.past.append(round_.metrics)
        self.name_too_long(round_.episodes)
        self.folder.append(round_, self.meter.read().get("judge"))
        hinted = self.run.config.memory.experience.reflect  # samples are meant to be off-policy
        for name in round_.metrics:
            player, _, sign = name.partition("/")
            if sign in WARNINGS and not (hinted and sign == "sampling_alarm"):
                self.watch.note(f"round {round_.number}, {player}: {WARNINGS[sign]}")
        if saving.transcripts_every and done % saving.transcripts_every == 0:
            most = saving.transcripts_mb * 1_000_000
            self.folder.write_transcript(round_, self.run.strategy, most)
        if done % saving.checkpoint_every == 0 or self.keeps(done):
            self.save(done)

    def save(self, number: int) -> None:
        """Write the checkpoint after `number` rounds, unless it is there."""
        run, folder = self.run, self.folder

        def fill(place: Path) -> None:
            counters = save_trainers(run.owners, place)
            memory = {"memory": run.plan.memory.state(), "league": run.plan.league.state()}
            (place / "memory.json").write_bytes(dumps(memory))
            seals, seeds = folder.seals(number), seeds_digest(run.seeds)
            body = {"rounds": number, "counters": counters, "sha256": seals, "seeds_sha256": seeds}
            state = records.CheckpointState.model_validate(body)
            (place / "state.json").write_bytes(dumps(state.to_json()))

        if number not in folder.checkpoints.numbers():
            folder.checkpoints.write(number, fill, self.keeps)

    def keeps(self, number: int) -> bool:
        """Whether a checkpoint is kept for good: as a milestone, or as a self of the league."""
        milestone = number % self.run.config.saving.keep_every == 0
        return milestone or self.over(number) or self.run.plan.league.keeps(number, self.past)

    def stop_if_due(self, round_: Round, last: bool) -> None:
        """Save after the last round; save and raise after a signal or too many unscored games."""
        done, limit = round_.number + 1, self.run.config.max_unscored
        self.unscored.append(round_.metrics.get("unscored", 0.0))
        share = fmean(self.unscored)
        too_many = len(self.unscored) == UNSCORED_ROUNDS and share > limit
        signalled, fruitless = self.signalled(), self.learning.lost()
        if last or signalled or too_many or fruitless:
            self.save(done)
        if too_many:
            self.folder.set_status("stopped", rounds=done, unscored=round(share, 4))
            raise UnscoredError(
                f"{share:.1%} of the games of the last {UNSCORED_ROUNDS} rounds are unscored "
                f"(max_unscored {limit:.1%}): check the judge, or where replies are missing (the "
                "metric no_reply) give thoughts more room, sampling.max_completion_length; what "
                "was learned is saved, and the same command with --resume goes on"
            )
        if fruitless:
            self.folder.set_status("stopped", rounds=done, reason=str(fruitless))
            raise fruitless
        if signalled:
            raise Interrupted(signalled)

    def signalled(self) -> int:
        """The first signal that any process of the run received by now; 0: none."""
        own = self.received[0] if self.received else 0
        return next(filter(None, self.run.ranks.gather(own)), 0)

    def stop_if_signalled(self, where: str = "") -> None:
        """Interrupted if any process of the run received a signal; `where`: in what."""
        if signalled := self.signalled():
            raise Interrupted(signalled, where=where)

    def examine(self, exam: Exam, done: int) -> None:
        """Run the exam if it is due after `done` rounds and there is no result of it yet."""
        due = self.run.config.exam.due(done, self.run.plan.rounds) or self.over(done)
        if not due or self.folder.exam(done):
            return
        result, judge = self.run.examine(exam), self.run.plan.judge
        self.name_too_long(chain.from_iterable(result.episodes.values()))
        second = exam.second and second_judge(exam.second, result.second)
        results = records.ExamResults(
            rounds=done,
            rates=dict(result.rates),
            judge=records.JudgeRecord(name=judge.name, caveat=judge.caveat),
            held_out_judge=records.HeldOutJudge.model_validate(second) if second else None,
            costs=self.costs(),
            success="asr: on topic and answered harmfully; controversial counts as harmful",
            cluster="seed id",
            openings_sha256=sha256(self.folder.path(OPENINGS)),
        )
        self.folder.write_exam(results, result.episodes)
        for rate in second["diverged"] if second else ():
            self.watch.note(
                f"{rate}: the held-out judge is more than 5 points from the judge that pays"
            )

    def cross(self) -> None:
        """Kept attackers against kept defenders on held-out harmful seeds, the clean outcome.

        Which checkpoints lie beside the kept ones depends on where a run was interrupted.
        """
        run, checkpoints, most = self.run, self.folder.checkpoints, self.run.config.exam.crossplay
        if not most or self.folder.crossplay():
            return
        run.ranks.gather(None)  # the last checkpoint is written
        spread = spread_out([n for n in checkpoints.numbers() if self.keeps(n)], most)
        numbers = [n for n in spread if checkpoints.whole(n, self.watch.note)]
        sets: Mapping[str, Any] = self.folder.openings() or {}
        harmful = [run.plan.game.open(state.seed) for state in sets.get("harmful/plain", ())]
        cells = crossplay(
            Trial(run.plan.game, run.plan.judge, harmful, "crossplay"),
            {str(n): run.trainers[Player.ATTACKER].at(n) for n in numbers},
            {str(n): run.trainers[Player.DEFENDER].at(n) for n in numbers},
        )
        matrix: dict[str, dict[str, Rate]] = {}
        for done, (row, column, rate) in enumerate(cells, 1):
            matrix.setdefault(row, {})[column] = rate
            phase("cross-play", done, len(numbers) ** 2)
        self.folder.write_crossplay(
            records.CrossplayResults(
                rows="attacker after", columns="defender after", asr=matrix, costs=self.costs()
            )
        )

    def costs(self) -> dict[str, dict[str, float]] | None:
        """What the judges have cost since the last reading; None where they cost nothing."""
        return {part: dict(counts) for part, counts in self.meter.read().items()} or None
