"""A match, ready to play: who plays what, how long, and how it is tested."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sparring.arena import play
from sparring.coevolve import Plan, coevolve
from sparring.exam import Exam
from sparring.games.game import Game, as_opening
from sparring.judges.judge import Judge
from sparring.players.chat import Chat
from sparring.players.grpo import Grpo, Learner
from sparring.players.optimizer import Optimizer
from sparring.players.player import Policy, Speaker
from sparring.players.ranks import ALONE, Ranks
from sparring.players.weights import Tensors
from sparring.sandbox.model import CARD
from sparring.sandbox.world import World
from sparring.settings.config import RunConfig
from sparring.types import Metrics, Player, Round, Seed, State, UsageError

Sets = dict[str, list[State]]
"""Exam openings by set."""


@dataclass(frozen=True)
class Seat:
    """One player's place at the table: what speaks, what learns (by `grpo`, perhaps among others).

    `source` is where the model came from.
    """

    policy: Speaker
    learner: Learner
    grpo: Grpo
    source: str

    @property
    def chat(self) -> Chat:
        return self.policy.chat

    @property
    def optimizer(self) -> Optimizer:
        return self.grpo.optimizer

    def save(self, folder: Path) -> None:
        """Write the weights as PEFT or transformers read them; a whole model with its tokenizer.

        A sandbox base's card goes with them, so that every checkpoint names its language.
        """
        self.policy.weights.save(folder)
        if not self.policy.weights.adapter:
            self.chat.tokenizer.save_pretrained(folder)
        card = Path(self.source) / CARD
        if card.is_file():
            shutil.copyfile(card, folder / CARD)

    @contextmanager
    def past(self, folder: Path) -> Iterator[Policy]:
        """Within the block a checkpoint's weights sit here."""
        weights = self.policy.weights
        with weights.holding(weights.snapshot()):
            weights.read(folder)
            yield self.policy

    def past_tensors(self, folder: Path) -> Tensors:
        """A checkpoint's trainable tensors."""
        with self.past(folder):
            return self.policy.weights.snapshot()


@dataclass(frozen=True)
class Match:
    """Everything a run needs, ready to play.

    `warm_up` starts the attacker (phase 1; empty where there is none). `held_out` are the plain
    openings and fixed attack sets of the exam; with `record_attacks` the warmed-up attacker's
    rewrites of the held-out seeds join them; `seeds` are those trained on, `world` is the sandbox
    if it is played there. The exam is sat under `examined`; where it leaves openings undealt,
    `examiner` attacks; `second` rules on its games once more, and never on a reward. Iterating
    plays it all without writing a file. `ranks` are the processes that play it together.
    """

    config: RunConfig
    plan: Plan
    examined: Game
    seats: Mapping[Player, Seat]
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

    def begin(self, references: Mapping[Player, Tensors] | None = None) -> None:
        """RL begins: from here on KL is measured to the present (or the given) weights."""
        for player, seat in self.seats.items():
            if seat.grpo.config.beta:
                told = references[player] if references else seat.policy.weights.snapshot()
                seat.grpo.reference = told

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
