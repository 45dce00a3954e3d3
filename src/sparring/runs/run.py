"""A match, ready to play: who plays what, how long, and how it is tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparring.arena import play
from sparring.coevolve import Plan, coevolve
from sparring.exam import Exam
from sparring.games.game import Game, as_opening
from sparring.judges.judge import Judge
from sparring.players.player import Policy
from sparring.players.ranks import ALONE, Ranks
from sparring.players.trainer import Trainer
from sparring.sandbox.world import World
from sparring.settings.config import RunConfig
from sparring.types import Metrics, Player, Round, Seed, State, UsageError

Sets = dict[str, list[State]]
"""Exam openings by set."""


@dataclass(frozen=True)
class Match:
    """Everything a run needs, ready to play.

    `warm_up` starts the attacker (phase 1; empty where there is none). `held_out` are the plain
    openings and fixed attack sets of the exam; with `record_attacks` the warmed-up attacker's
    rewrites of the held-out seeds join them; `seeds` are those trained on, `world` is the sandbox
    if it is played there. The exam is sat under `examined`; where it leaves openings undealt,
    `examiner` attacks; `second` rules on its games once more, and never on a reward. Iterating
    plays it all; what it keeps of past selves goes to temporary files. `ranks` are the processes
    that play it together.
    """

    config: RunConfig
    plan: Plan
    examined: Game
    trainers: Mapping[Player, Trainer]
    seeds: Sequence[Seed]
    held_out: Sets
    pooled: Mapping[str, Sequence[str]]
    record_attacks: bool
    warm_up: Callable[[], Iterator[Metrics]]
    notes: Sequence[str] = field(default_factory=tuple)
    world: World | None = None
    examiner: Policy | None = None
    ranks: Ranks = ALONE
    second: Judge | None = None

    def __iter__(self) -> Iterator[Round]:
        for _ in self.warm_up():
            pass
        self.begin()
        return coevolve(self.plan)

    @property
    def judges(self) -> dict[str, Judge]:
        """Who rules, by the name that records have for it."""
        held_out = {"held_out_judge": self.second} if self.second else {}
        return {"judge": self.plan.judge, **held_out}

    @property
    def owners(self) -> dict[str, Trainer]:
        """Trainers by the folder of their weights in a checkpoint."""
        return {self.config.owner(player).value: t for player, t in self.trainers.items()}

    def recorded_in(self, checkpoint: Callable[[int], Path]) -> None:
        """From here on past selves are read from `checkpoint(rounds)`."""
        for name, trainer in self.owners.items():
            trainer.checkpoint = lambda number, name=name: checkpoint(number) / name

    def begin(self, start: Path | None = None) -> None:
        """RL begins: KL is measured to the present weights, or to those in checkpoint `start`."""
        for name, trainer in self.owners.items():
            trainer.begin(start and start / name)

    def exam_sets(self) -> Sets:
        """The fixed openings of every exam of this run; call it once, after the warm-up."""
        if not self.record_attacks:
            return self.held_out
        sets = dict(self.held_out)
        for label in ("harmful", "benign"):
            asked = [self.plan.game.open(s.seed) for s in self.held_out.get(f"{label}/plain", [])]
            address = f"exam/attacks/{label}"
            episodes = play(self.plan.game, asked, self.plan.cast, self.plan.judge, {}, address)
            told = [opening for e in episodes if (opening := as_opening(e.state))]
            sets |= {f"{label}/rewritten": told} if told else {}
        return sets

    def attacked(self) -> list[Seed]:
        """The held-out harmful seeds, each once; UsageError where there are none."""
        told = {s.seed.id: s.seed for s in self.held_out.get("harmful/plain", [])}
        if not told:
            raise UsageError(
                "data.exam: no harmful seed is held out, so nobody can be attacked; the run needs "
                "some in data.exam, or more of them in data.train"
            )
        return list(told.values())

    def exam(self, sets: Sets) -> Exam:
        """The exam over recorded openings."""
        rules = (self.examined, self.plan.judge, sets, self.pooled, "exam")
        return Exam(*rules, self.examiner, self.second)
