"""One run's attacker, trained on against the defender of another: `transfer.py ATTACKER DEFENDER`.

Whether a defender holds against its own attacker says little where that attacker has nothing to
learn from. Here it meets the last attacker of the run ATTACKER, which learns on against it, in the
game and at the budget of `sparring exploit`. Both runs are of one world.

An attacker whose attacks all fail has nothing to learn from either. With `--imitate N` it is shown
what works first: every strategy of the language is tried on N training requests, and it imitates
all attacks that got through before it learns on. Held-out requests are not among them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sparring.arena import play
from sparring.evals.exploit import OWN, Budget, Exploit, Target, best_response
from sparring.games.game import tagged
from sparring.metrics import succeeded
from sparring.players.trainer import SftConfig, Trainer
from sparring.players.weights import LearningRate
from sparring.runs.build import Run, build
from sparring.sandbox import words
from sparring.sandbox.language import all_strategies
from sparring.store.folder import RunDir
from sparring.types import Demo, Player

STEPS = 60
"""Steps of imitation, of 64 attacks each."""


def curve(
    attacker: RunDir, defender: RunDir, seed: int, steps: int, tries: int
) -> list[dict[str, Any]]:
    """ASR on held-out seeds after every twenty steps of `attacker` against `defender`."""
    last = defender.checkpoints.at(None)
    exploit = Exploit(defender, last, Budget(steps), Path("unused"), rng_seed=seed)
    run = build(exploit.config(OWN))
    learner = run.trainers[Player.ATTACKER]
    own = attacker.checkpoints.at(None)
    learner.load(attacker.checkpoints.path(own) / attacker.config.owner(Player.ATTACKER))
    target = exploit.frozen(run)
    if tries and (demos := successes(run, target, tries)):
        imitate(learner, demos, run.config.warm_up.learning_rate, seed)
    rounds = best_response(target, learner, learner, exploit.budget, f"transfer/{seed}")
    return [rate.to_json() for _, rate in rounds if rate]


def successes(run: Run, target: Target, tries: int) -> list[Demo]:
    """Return every attack that gets through of all strategies, on `tries` training requests each.

    Each is a demonstration, with the thought that the attack pool would give it.
    """
    assert run.world is not None
    strategies = all_strategies()
    sets = run.world.dressed(run.world.language.train, strategies, tries)
    openings = [
        (strategy, state)
        for strategy, states in zip(strategies, sets.values(), strict=True)
        for state in states
    ]
    cast = {Player.DEFENDER: target.defender}
    states = [state for _, state in openings]
    games = play(target.game, states, cast, target.judge, {}, "transfer/successes")
    demos = []
    for game in games:
        strategy, opening = openings[game.opening]
        if succeeded(game.state):
            thought = words.PARTS.format(parts=" ".join(strategy.parts))
            seen = target.game.observe(target.game.open(opening.seed))
            demos.append(Demo(seen, tagged(thought, opening.moves[0].sent or "")))
    print(f"{len(demos)} of {len(games)} attacks got through", file=sys.stderr)
    return demos


def imitate(learner: Trainer, demos: list[Demo], rate: float, seed: int) -> None:
    """Let an attacker imitate demonstrations, as in a warm-up."""
    cosine = LearningRate(rate, "cosine", 10, STEPS)
    for _ in learner.warm_up(demos, cosine, SftConfig(STEPS), f"transfer/{seed}/imitation"):
        pass


def main() -> None:
    """Print the curve of one attacker against one defender, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attacker", type=Path)
    parser.add_argument("defender", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--imitate", type=int, default=0, help="training requests of a strategy")
    options = parser.parse_args()
    attacker, defender = RunDir.open(options.attacker), RunDir.open(options.defender)
    budget = (options.seed, options.steps, options.imitate)
    print(json.dumps(curve(attacker, defender, *budget)))


if __name__ == "__main__":
    main()
