"""The whole game on one page: play, judge, measure, remember, credit and learn, again and again."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sparring.arena import Cast, play
from sparring.credit import Credit, Estimator, credit
from sparring.games.game import Game
from sparring.judges.judge import Judge
from sparring.memory.memory import Memory, Opposition
from sparring.metrics import credit_metrics, round_metrics
from sparring.players.player import Learner
from sparring.schedules import Schedule
from sparring.types import Episode, Metrics, Player, Round, Sample, State, Turn

Openings = Callable[[int, Turn, Sequence[Metrics]], Sequence[State]]
"""From the round's number, its turn and the metrics of all rounds before it to its first states."""


@dataclass(frozen=True)
class Plan:
    """Everything a run is made of. To change a run, change one of these parts and not the loop.

    `measure` turns a round's fresh episodes into metrics. `shape` may change the returns before
    credit is assigned; what is measured and recorded has the returns of the game.
    """

    game: Game
    judge: Judge
    openings: Openings
    schedule: Schedule
    cast: Cast
    learners: Mapping[Player, Learner]
    estimator: Estimator
    measure: Callable[[Sequence[Episode]], Metrics]
    rounds: int
    rng_seed: str
    shape: Callable[[Sequence[Episode]], Sequence[Episode]] = list
    memory: Memory = field(default_factory=Memory)
    league: Opposition = field(default_factory=Opposition)


def coevolve(plan: Plan, past: Sequence[Metrics] = ()) -> Iterator[Round]:
    """Play the rounds that follow those whose metrics are `past`; yield each after its update.

    It ends after the plan's rounds, or where the schedule says that the game is over.

    The loop does no I/O: logging, checkpoints, budgets and early stopping are what its caller does
    with the rounds. A round depends on the plan, the weights, the state of learners, memory and
    league, and the metrics of the rounds before it, and on nothing else; so a resumed run is the
    same run. The memory does not see rounds against a past defender, because what beats that one
    may not beat the present one.
    """
    history = list(past)
    for number in range(len(history), plan.rounds):
        started, cpu_started = time.perf_counter(), time.process_time()
        plan.league.keep(number, history)
        if (turn := plan.schedule(number, history)) is None:
            return
        cast, turn, league_metrics = plan.league.cast(number, turn, plan.cast, history)
        openings, replays = plan.memory.deal(number, turn, plan.openings(number, turn, history))
        address = f"{plan.rng_seed}/{number}"
        episodes = play(plan.game, [*openings, *replays], cast, plan.judge, turn.widths, address)
        played = time.perf_counter()
        fresh = [e for e in episodes if e.opening < len(openings) and not e.state.too_long]
        metrics = plan.measure(fresh) | round_metrics(openings, episodes)
        present = cast[Player.DEFENDER] is plan.cast[Player.DEFENDER]
        metrics |= league_metrics | plan.memory.add(number, episodes if present else ())
        shaped = plan.shape(episodes)
        credits = {player: credit(shaped, player, plan.estimator) for player in sorted(turn.learns)}
        for player, earned in credits.items():
            metrics |= credit_metrics(player, earned)
        metrics |= _update(plan.learners, credits)
        history.append(metrics)
        seconds = {"play": played - started, "learn": time.perf_counter() - played}
        cpu_seconds = time.process_time() - cpu_started
        yield Round(number, turn, tuple(episodes), metrics, seconds, cpu_seconds)


def _update(learners: Mapping[Player, Learner], credits: Mapping[Player, Credit]) -> Metrics:
    """One update of each distinct learner, on the samples of all players that it serves."""
    samples: dict[int, list[Sample]] = defaultdict(list)
    for player, earned in credits.items():
        samples[id(learners[player])] += earned.samples
    metrics: Metrics = {}
    for learner in {id(learner): learner for learner in learners.values()}.values():
        if samples[id(learner)]:
            metrics |= learner.update(samples[id(learner)])
    return metrics
