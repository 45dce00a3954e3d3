"""What a run is fed with: seeds, judges, prompts and demonstrations, the sandbox's or your own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from sparring.data.readers import gathered, read_pool
from sparring.data.splits import hold_out, without
from sparring.diversity import strategy_entropy
from sparring.exam import Exam
from sparring.games.dialogue import Dialogue
from sparring.games.game import Briefs, attack_of, attacks_of
from sparring.judges.judge import Judge
from sparring.memory.reflection import Words
from sparring.metrics import distinct_attacks
from sparring.players.player import Policy, Request
from sparring.runs.judges import judge_of
from sparring.runs.models import model_path
from sparring.sandbox.language import POOLED, Language
from sparring.sandbox.model import language_of, one_thread
from sparring.sandbox.pool import attack_pool, broad, dialogues, narrow
from sparring.sandbox.words import RULED_BENIGN, RULED_HARMFUL
from sparring.sandbox.world import World
from sparring.settings.config import RunConfig
from sparring.settings.sections import SANDBOX
from sparring.types import Demo, Episode, Message, Metrics, Player, Seed, State, UsageError

_LABELS = ("harmful", "benign")
_BROAD = (
    "the attack pool is broad: it holds every family of the exam, also those called held-out "
    "(out of the narrow pool, warm_up.pool=narrow); the exam's seeds are held out of everything"
)
UNPARSEABLE, UNFAITHFUL = "unparseable", "unfaithful"


@dataclass(frozen=True)
class Sandbox:
    """The embedded world: it makes its own seeds, judge, prompts and demonstrations."""

    config: RunConfig

    def __post_init__(self) -> None:
        unread = {
            "attacker.warm_start": self.config.attacker.warm_start,
            "defender.warm_start": self.config.defender.warm_start,
            "data.exam": self.config.data.exam,
        }
        for name, value in unread.items():
            if value:
                raise UsageError(f"{name}: the sandbox makes its own; it goes with data.train")
        one_thread()
        _ = self.world  # a model of no sandbox is refused before its judge is
        kinds = [judge.kind for judge in (*self.config.judge, *self.config.exam.judge)]
        if kinds != [SANDBOX]:
            raise UsageError(
                f"judge.kind: {' and '.join(kinds)} cannot rule in the sandbox, which has its own "
                "judge; give data.train a seed file, or leave judge out"
            )

    @cached_property
    def world(self) -> World:
        return World(language_of(Path(model_path(self.config.defender.model_name_or_path))))

    @property
    def seeds(self) -> Sequence[Seed]:
        return self.world.seeds(self.world.language.train)

    @property
    def judge(self) -> Judge:
        return self.world.judge

    @property
    def briefs(self) -> Briefs:
        return self.world.briefs

    @property
    def wording(self) -> Words:
        return Words(RULED_HARMFUL, RULED_BENIGN)

    @property
    def notes(self) -> Sequence[str]:
        warm = self.config.warm_up
        return (_BROAD,) if warm.pool == "broad" and warm.steps else ()

    def exam(self, game: Dialogue, judge: Judge) -> Exam:
        """The exam on held-out seeds; games of several exchanges are also played by a script."""
        n = self.config.exam.n
        sets = self.world.exam(n, "exam")
        if game.exchanges == 1:
            return Exam(game, judge, sets, POOLED, "exam")
        sets |= self.world.two_exchange_exam(n)
        attacker = self.world.two_exchange_attacker()
        return Exam(replace(game, exchanges=2), judge, sets, POOLED, "exam", attacker)

    @property
    def pool(self) -> Sequence[Demo]:
        """The attack pool, which the attacker is warmed up on."""
        warm, rng_seed = self.config.warm_up, f"{self.config.seed}"
        pick = broad if warm.pool == "broad" else narrow(warm.pool_encodings)
        demos = attack_pool(self.world, warm.pool_size, pick, rng_seed)
        if self.config.game.exchanges > 1:
            games = round(warm.pool_dialogues * warm.pool_size)
            demos += dialogues(self.world, games, pick, rng_seed)
        return demos

    def chat(self, policy: Policy, n: int, rng_seed: str) -> list[Demo]:
        """Lessons of the base; where the defender thinks first, they show how."""
        lessons = self.world.thinking if self.config.game.reply_format else self.world.chat
        return lessons(n, rng_seed)

    def thoughts(self, n: int, rng_seed: str) -> list[Demo]:
        """Demonstrations of a defender that thinks first."""
        return self.world.thinking(n, rng_seed)


@dataclass(frozen=True)
class OwnData:
    """The user's own seeds and judges, with the packaged prompts for real models.

    `second` rules on exams once more and never on a reward. `pool` is the attack pool and
    `chat_pool` the user's ordinary chat; both may be empty.
    """

    config: RunConfig
    seeds: Sequence[Seed]
    held_out: Sequence[Seed]
    notes: Sequence[str]
    judge: Judge
    second: Judge | None
    pool: Sequence[Demo]
    chat_pool: Sequence[Demo]
    world: None = None

    @property
    def briefs(self) -> Briefs:
        return packaged_briefs(self.config.game.exchanges)

    @property
    def wording(self) -> Words:
        return Words(*(_packaged(f"ruled_{label}") for label in _LABELS))

    def exam(self, game: Dialogue, judge: Judge) -> Exam:
        """The exam on the held-out seeds as they stand."""
        sets = {
            f"{label}/plain": [
                State(seed).deal(Player.ATTACKER, seed.text)
                for seed in self.held_out
                if seed.harmful == (label == "harmful")
            ][: self.config.exam.n]
            for label in _LABELS
        }
        sets = {name: openings for name, openings in sets.items() if openings}
        return Exam(game, judge, sets, {}, "exam", second=self.second)

    def chat(self, policy: Policy, n: int, rng_seed: str) -> list[Demo]:
        """The user's own demonstrations, or what the present model replies to benign seeds."""
        rng = random.Random(rng_seed)
        if self.chat_pool:
            return rng.choices(self.chat_pool, k=n)
        questions = [(Message("user", seed.text),) for seed in self.seeds if not seed.harmful]
        if not questions:
            raise UsageError(
                "warm_up.chat: there are no benign seeds to answer; give defender.warm_start a "
                "JSONL file of ordinary chat, or set warm_up.chat=0"
            )
        chosen = rng.choices(questions, k=n)
        requests = [Request(shown, (f"{rng_seed}/{i}",)) for i, shown in enumerate(chosen)]
        replies = policy.sample(requests)
        return [Demo(shown, reply.text) for shown, [reply] in zip(chosen, replies, strict=True)]

    def thoughts(self, n: int, rng_seed: str) -> list[Demo]:
        """No demonstrations: your model is taught to think by your attack pool alone."""
        return []


Source = Sandbox | OwnData
"""Where a run's seeds, judge, prompts and demonstrations come from."""


def own_data(config: RunConfig, seeds: Sequence[Seed], judge: Judge | None) -> OwnData:
    """The source of a run on the user's seeds: `config.data`'s files, or `seeds` and `judge`."""
    notes: list[str] = []
    if not seeds:
        seeds, notes = gathered([source.model_dump() for source in config.data.train])
    if config.data.exam:
        held, more = gathered([source.model_dump() for source in config.data.exam])
        train, notes = without(seeds, held), notes + more
        if twice := len(seeds) - len(train):
            notes.append(f"{twice} seeds of data.exam were left out of data.train")
    else:
        train, held = hold_out(seeds, config.exam.holdout)
    if not any(seed.harmful for seed in train):
        raise UsageError("data.train: no harmful seeds, so there is nothing to attack")
    if all(seed.harmful for seed in train):
        notes.append("no benign seeds: over-refusal is not measured, and refusing everything wins")
    salt = f"{config.seed}/judge"
    judge = judge or judge_of(config.judge, config.judge_rules, salt)
    second = judge_of(config.exam.judge, {}, salt, "exam.judge") if config.exam.judge else None
    notes += filter(None, (judge.caveat, second.caveat if second else ""))
    pools = (config.attacker.warm_start, config.defender.warm_start)
    pool, chat_pool = (read_pool(Path(file)) if file else [] for file in pools)
    return OwnData(config, train, held, notes, judge, second, pool, chat_pool)


def packaged_briefs(exchanges: int = 1) -> Briefs:
    """The system prompts for real models; the attacker's also say how to go on after a reply."""
    more = f"\n\n{_packaged('again')}" if exchanges > 1 else ""
    harmful, benign = (_packaged(label) + more for label in _LABELS)
    return Briefs(harmful, benign, _packaged("think"))


def _packaged(name: str) -> str:
    return (files("sparring.games") / "briefs" / f"{name}.md").read_text("utf-8").strip()


def strategies(language: Language, episodes: Sequence[Episode]) -> Metrics:
    """Shares of the attacker's distinct rewrites by strategy; only faithful ones count by name.

    `strategy_entropy` (nats) is over the named ones alone, and left out where there are none.
    """
    attacks = distinct_attacks(e for e in episodes if not e.state.dealt)
    counts = Counter(_strategy(language, state) for state in attacks)
    named = [n for name, n in counts.items() if name not in (UNPARSEABLE, UNFAITHFUL)]
    shares = {f"strategy/{name}": n / len(attacks) for name, n in sorted(counts.items())}
    return shares | ({"strategy_entropy": strategy_entropy(named)} if named else {})


def _strategy(language: Language, state: State) -> str:
    if attack_of(state) is None:
        return UNPARSEABLE
    attacks = [attack for attack in attacks_of(state) if attack is not None]
    return language.strategy_name(attacks) if state.verdict.on_topic else UNFAITHFUL
