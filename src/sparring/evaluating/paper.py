"""The examination paper: openings by set, and who judges the replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sparring.checkpoint import sha256
from sparring.evaluating.asking import Sets
from sparring.evaluating.choosing import Asked, Chosen, chosen
from sparring.evaluating.sheet import ATTACKED, EVERY_BENIGN, SetCard, Sheet, Source, TaskCard
from sparring.evaluating.tasks import own
from sparring.judges.judge import Judge
from sparring.policies.policy import Policy
from sparring.recipes.judging import judge_named
from sparring.recipes.parts import model_path
from sparring.sandbox.language import POOLED
from sparring.sandbox.model import CARD, language_of, one_thread
from sparring.sandbox.world import World
from sparring.settings import SANDBOX
from sparring.types import Seed, State, UsageError

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
