"""The examination paper: openings by set, who judges the replies, and how batches are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sparring.arena import Cast, opening_names, play_named
from sparring.evals.folder import Key, Row, row_of
from sparring.evals.sheet import ATTACKED, EVERY_BENIGN, SetCard, Sheet, Source, TaskCard
from sparring.evals.tasks import Asked, Chosen, chosen, own
from sparring.exam import ruled_again
from sparring.games.dialogue import Dialogue
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.judges.judge import Judge
from sparring.judges.panel import Wrapped
from sparring.players.player import Policy
from sparring.runs.judges import judge_named
from sparring.runs.parts import model_path, packaged_briefs
from sparring.sandbox.language import POOLED
from sparring.sandbox.model import CARD, language_of, one_thread
from sparring.sandbox.world import World
from sparring.settings.sections import SANDBOX
from sparring.store.files import sha256
from sparring.types import Seed, State, Status, UsageError, Verdict

Sets = Mapping[str, Sequence[Sequence[State]]]
"""By set, the openings of every draw: the same ones again, or each draw's own attacks."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some openings of one draw of a set, by place, with their names in the whole set."""

    set: str
    draw: int
    openings: Mapping[int, State]
    names: Sequence[str]
    rng_seed: str = "exam"

    def keys(self, model: str) -> list[Key]:
        return [(model, self.set, place, self.draw) for place in self.openings]

    @property
    def address(self) -> str:
        """Of its randomness; the first draw is the one an exam of a run would make."""
        first = f"{self.rng_seed}/{self.set}"
        return f"{first}/draw {self.draw}" if self.draw else first


def batches(sets: Sets, size: int, rng_seed: str = "exam") -> Iterator[Batch]:
    """Every opening once, always in the same company: what a reply was drawn beside can change
    its last bits.
    """
    for name, draws in sets.items():
        for draw, openings in enumerate(draws):
            names = opening_names(openings)
            for start in range(0, len(openings), size):
                places = range(start, min(start + size, len(openings)))
                told = {place: openings[place] for place in places}
                yield Batch(name, draw, told, [names[i] for i in places], rng_seed)


def answered(judge: Judge) -> Judge:
    """`judge` where there is a reply to judge; where the model could not be asked, why not."""

    def rule(states: Sequence[State]) -> list[Verdict]:
        causes = [_failure(state) for state in states]
        due = [state for state, why in zip(states, causes, strict=True) if why is Status.OK]
        verdicts = iter(judge.rule(due) if due else [])
        return [next(verdicts) if why is Status.OK else Verdict(status=why) for why in causes]

    return Wrapped(judge, rule)


def _failure(state: State) -> Status:
    statuses = (move.completion.status for move in state.moves)
    return next((status for status in statuses if status is not Status.OK), Status.OK)


@dataclass(frozen=True)
class Asking:
    """Who plays and who judges."""

    model: str
    cast: Cast
    judge: Judge
    second: Judge | None = None

    def ask(self, batch: Batch) -> list[Row]:
        """The batch's samples: who said what, and the verdicts."""
        game = Dialogue(LabelPayoff(MAGIC), packaged_briefs(), gate=False, exchanges=2)
        named = dict(zip(batch.names, batch.openings.values(), strict=True))
        played = play_named(game, named, self.cast, answered(self.judge), {}, batch.address)
        states = [episode.state for episode in played]
        seconds = self._second(states)
        keys = batch.keys(self.model)
        return [row_of(*told) for told in zip(keys, states, seconds, strict=True)]

    def _second(self, states: Sequence[State]) -> list[Verdict | None]:
        if not self.second:
            return [None] * len(states)
        judged = ruled_again(answered(self.second), [s for s in states if s.rulings])
        told = iter(judged)
        return [next(told).verdict if state.rulings else None for state in states]


SANDBOX_LIMIT = 192
"""Openings of each set in the sandbox, unless told otherwise."""


@dataclass(frozen=True)
class Paper:
    """`chosen` tasks, asked `epochs` times; an attacker writes `rollouts` more attacks each time.

    `pooled` names sets that are also reported as one. `examiner` attacks where an opening is not
    dealt. `second` is another judge of the same replies, which decides nothing.
    """

    chosen: Sequence[Chosen]
    judge: Judge
    second: Judge | None = None
    pooled: Mapping[str, Sequence[str]] = field(default_factory=dict)
    examiner: Policy | None = None
    epochs: int = 1
    rollouts: int = 0

    @property
    def plain(self) -> Sets:
        """Openings as the tasks deal them, the same ones in every draw."""
        return {
            name: [told] * self.epochs for one in self.chosen for name, told in one.sets.items()
        }

    @property
    def undealt(self) -> Sets:
        """Seeds that a trained attacker rewrites, under the name their set will have."""
        return {
            name + ATTACKED: [_fresh(one.sets[name])] * (self.epochs * self.rollouts)
            for one in self.chosen
            for name in one.rewritable
            if self.rollouts
        }

    @property
    def sheet(self) -> Sheet:
        """What is measured, as plain data."""
        tasks = {
            one.task.name: TaskCard(one.success, one.task.cluster, one.task.judge, one.sources)
            for one in self.chosen
        }
        owner = {name: one.task.name for one in self.chosen for name in one.sets}
        sets = {
            name: SetCard(owner[name.removesuffix(ATTACKED)], len(draws[0]), len(draws))
            for name, draws in {**self.plain, **self.undealt}.items()
        }
        second = sorted(self.second.fills) if self.second else []
        benign = [name for name in self.plain if name.startswith("benign/")]
        several = len(benign) > 1 and not self.pooled and EVERY_BENIGN not in sets
        pooled = {EVERY_BENIGN: benign} if several else self.pooled
        return Sheet(tasks, sets, pooled, sorted(self.judge.fills), second)

    def notes(self) -> list[str]:
        """What a person should know before the numbers come."""
        told = [note for one in self.chosen for note in one.notes]
        if not any(name.startswith("benign/") for name in self.plain):
            told.append(
                "OVER-REFUSAL IS NOT MEASURED: the tasks hold no benign prompt, and a model that "
                "refuses everything would have the best numbers; add xstest, or_bench or benign "
                "seeds of your own"
            )
        if self.rollouts and not self.undealt:
            told.append("--attacker: the tasks' prompts are attacks already; nothing is rewritten")
        return told


def _fresh(openings: Sequence[State]) -> list[State]:
    seeds: dict[tuple[str, str], Seed] = {(s.seed.id, s.seed.text): s.seed for s in openings}
    return [State(seed) for seed in seeds.values()]


def paper(asked: Asked, judges: Sequence[str], model: str) -> Paper:
    """The paper for a model; UsageError where the judge cannot tell what a task asks."""
    if not 1 <= len(judges) <= 2:
        raise UsageError("--judge: wanted one judge, or a second one that judges the same replies")
    told = _sandbox(asked, judges, model) if SANDBOX in asked.words else _of_tasks(asked, judges)
    for one in told.sheet.rates():
        if one.field not in told.judge.fills:
            way = " (or --success harmful)" if (one.metric, one.field) == ("asr", "refused") else ""
            raise UsageError(
                f"--judge: {told.judge.name} does not fill {one.field}, which {one.name} needs; "
                f"give one that does{way}"
            )
    return told


def _of_tasks(asked: Asked, judges: Sequence[str]) -> Paper:
    first, *others = [judge_named(name, "--judge") for name in judges]
    return Paper(chosen(asked), first, others[0] if others else None)


def _sandbox(asked: Asked, judges: Sequence[str], model: str) -> Paper:
    if len(asked.words) > 1 or list(judges) != [SANDBOX] or asked.success:
        raise UsageError("--tasks: the sandbox is asked alone, and by its own judge")
    one_thread()
    folder = Path(model_path(model))
    world, n = World(language_of(folder)), asked.limit or SANDBOX_LIMIT
    sets = world.exam(n, "exam") | world.two_exchange_exam(n)
    task = replace(own(SANDBOX), cluster="intent")
    card = Source(SANDBOX, sha256(folder / CARD), SANDBOX)
    plain = [name for name in sets if name.endswith("/plain")]
    return Paper(
        [Chosen(task, "harmful", [card], sets, plain)],
        world.judge,
        pooled=POOLED,
        examiner=world.two_exchange_attacker(),
    )
