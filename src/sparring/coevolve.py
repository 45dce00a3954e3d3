"""The whole game on one page: play, judge, remember, credit, learn; again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sparring.arena import Cast, play
from sparring.credit import Credit, Estimator, credit
from sparring.games.game import Game
from sparring.judges.judge import Judge
from sparring.memory.league import Latest, Opposition
from sparring.memory.memory import Forgetful, Memory
from sparring.metrics import of_credit, of_episodes, of_tokens
from sparring.players.player import Learner
from sparring.schedules import Schedule
from sparring.types import Episode, Metrics, Player, Round, Sample, State, Turn

Openings = Callable[[int, Turn], Sequence[State]]
"""(round number, whose turn) → the states that round is played from."""


@dataclass(frozen=True)
class Plan:
    """Everything a run is made of. Vary these parts, not the loop."""

    game: Game
    judge: Judge
    openings: Openings
    schedule: Schedule
    cast: Cast
    learners: Mapping[Player, Learner]
    estimator: Estimator
    rounds: int
    rng_seed: str
    measure: Callable[[Sequence[Episode]], Metrics] = of_episodes
    shape: Callable[[Sequence[Episode]], Sequence[Episode]] = list
    """What is added to the game's returns before credit; records and rates never see it."""
    memory: Memory = field(default_factory=Forgetful)
    league: Opposition = field(default_factory=Latest)


def coevolve(plan: Plan, past: Sequence[Metrics] = ()) -> Iterator[Round]:
    """Play the rounds that follow `past`, yielding each after its update.

    No I/O: logging, checkpoints, budgets and early stopping are what the caller does with rounds.
    Round `n` depends on `plan`, on the weights, on the state of learners, memory and league, on
    the metrics of the rounds before it, and on nothing else; so a resumed run is the same run.
    What beat a past defender is not remembered: it is no failure of the present one.
    """
    history = list(past)
    for number in range(len(history), plan.rounds):
        started, cpu = time.perf_counter(), time.process_time()
        plan.league.keep(number)
        turn = plan.schedule(number, history)
        cast, turn, met = plan.league.cast(number, turn, plan.cast)
        fresh, replays = plan.memory.deal(number, turn, plan.openings(number, turn))
        address = f"{plan.rng_seed}/{number}"
        episodes = play(plan.game, [*fresh, *replays], cast, plan.judge, turn.widths, address)
        live = [episode for episode in episodes if episode.opening < len(fresh)]
        played = time.perf_counter()
        shaped = plan.shape(episodes)
        credits = {player: credit(shaped, player, plan.estimator) for player in turn.learns}
        itself = cast[Player.DEFENDER] is plan.cast[Player.DEFENDER]
        remembered = plan.memory.add(number, episodes if itself else ())
        metrics = plan.measure(live) | of_tokens(episodes) | met | remembered
        for player in sorted(turn.learns):
            metrics |= of_credit(player, credits[player])
        metrics |= _learn(plan.learners, credits)
        history.append(metrics)
        seconds = {"play": played - started, "learn": time.perf_counter() - played}
        yield Round(number, turn, tuple(episodes), metrics, seconds, time.process_time() - cpu)


def _learn(learners: Mapping[Player, Learner], credits: Mapping[Player, Credit]) -> Metrics:
    """One update per distinct learner, over all the players it serves."""
    metrics: Metrics = {}
    samples: dict[int, list[Sample]] = {}
    for player in sorted(credits):
        samples.setdefault(id(learners[player]), []).extend(credits[player].samples)
    for learner in {id(learner): learner for learner in learners.values()}.values():
        if samples.get(id(learner)):
            metrics |= learner.update(samples[id(learner)])
    return metrics
