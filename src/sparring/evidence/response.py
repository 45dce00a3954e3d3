"""The measured best response: a fresh attacker trains against a defender that does not move.

An exam asks how a defender does against attacks that were fixed before. This asks how it does
against one that looks for what still works: exploitability (Lanctot et al. 2017,
arXiv:1711.00832), answered from below, by the best of a few attackers at a stated budget.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparring.arena import play
from sparring.coevolve import Plan, coevolve
from sparring.credit import standardized
from sparring.evaluation.exam import outcome
from sparring.evaluation.metrics import succeeded
from sparring.evaluation.rates import Outcome, Rate, rate
from sparring.games.game import Game
from sparring.judges.judge import Judge
from sparring.learners.learner import Learner
from sparring.policies.policy import Policy
from sparring.schedules import always, solo
from sparring.types import Player, Seed, State


@dataclass(frozen=True, slots=True)
class Budget:
    """What an attacker may spend: GRPO steps of `seeds` x `num_generations` attacks.

    It is warmed up for `warm_up_steps` before, and examined on `n` games every `every` steps;
    enumeration tries each strategy `tries` times.
    """

    steps: int = 80
    seeds: int = 16
    num_generations: int = 16
    every: int = 20
    n: int = 192
    tries: int = 48
    warm_up_steps: int = 250

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Target:
    """A defender that does not move, and where attackers try themselves on it.

    They train on `seeds` and are examined on `held_out`; both are harmful.
    """

    game: Game
    judge: Judge
    defender: Policy
    seeds: Sequence[Seed]
    held_out: Sequence[Seed]


def best_response(
    target: Target, attacker: Policy, learner: Learner, budget: Budget, rng_seed: str
) -> Iterator[tuple[int, Rate]]:
    """Train `attacker` against the target; yields (steps so far, ASR on held-out seeds)."""

    def openings(number: int, _turn: object) -> list[State]:
        rng = random.Random(f"{rng_seed}/seeds/{number}")
        return [target.game.open(rng.choice(target.seeds)) for _ in range(budget.seeds)]

    plan = Plan(
        game=target.game,
        judge=target.judge,
        openings=openings,
        schedule=always(solo(Player.ATTACKER, budget.num_generations)),
        cast={Player.ATTACKER: attacker, Player.DEFENDER: target.defender},
        learners={Player.ATTACKER: learner},
        estimator=standardized,
        rounds=budget.steps,
        rng_seed=rng_seed,
    )
    yield 0, _examined(target, attacker, budget.n, f"{rng_seed}/exam")
    for told in coevolve(plan):
        done = told.number + 1
        if done % budget.every == 0 or done == budget.steps:
            yield done, _examined(target, attacker, budget.n, f"{rng_seed}/exam")


def _examined(target: Target, attacker: Policy, n: int, rng_seed: str) -> Rate:
    """The attacker's success on held-out seeds, each equally often; the clean outcome."""
    asked = [target.game.open(target.held_out[k % len(target.held_out)]) for k in range(n)]
    cast = {Player.ATTACKER: attacker, Player.DEFENDER: target.defender}
    episodes = play(target.game, asked, cast, target.judge, {}, rng_seed)
    return rate([outcome(e.state, succeeded) for e in episodes])


def enumerated(
    target: Target,
    strategies: Mapping[str, Sequence[State]],
    held_out: Mapping[str, Sequence[State]],
) -> tuple[str, Rate]:
    """The strategy that works best on training openings, and its ASR on held-out ones.

    Chosen on one set and measured on another, so that the best of many is not best by luck.
    """
    tried = _by_strategy(target, strategies, "enumeration")
    best = max(tried, key=lambda name: tried[name].value or 0.0)
    return best, _by_strategy(target, {best: held_out[best]}, "enumeration/held-out")[best]


def _by_strategy(
    target: Target, strategies: Mapping[str, Sequence[State]], rng_seed: str
) -> dict[str, Rate]:
    names = [name for name, told in strategies.items() for _ in told]
    openings = [state for told in strategies.values() for state in told]
    cast = {Player.DEFENDER: target.defender}
    episodes = play(target.game, openings, cast, target.judge, {}, rng_seed)
    found: dict[str, list[Outcome]] = {name: [] for name in strategies}
    for episode in episodes:
        found[names[episode.opening]].append(outcome(episode.state, succeeded))
    return {name: rate(told) for name, told in found.items()}
