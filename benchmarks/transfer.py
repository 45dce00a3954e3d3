"""One run's attacker, trained on against the defender of another: `transfer.py ATTACKER DEFENDER`.

Whether a defender holds against its own attacker says little where that attacker has nothing to
learn from. Here it meets the last attacker of the run ATTACKER, which learns on against it, in the
game and at the budget of `sparring exploit`. Both runs are of one world.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sparring.evals.exploit import OWN, Budget, Exploit, best_response
from sparring.runs.build import build
from sparring.store.folder import RunDir
from sparring.types import Player


def curve(attacker: RunDir, defender: RunDir, seed: int, steps: int) -> list[dict[str, Any]]:
    """ASR on held-out seeds after every twenty steps of `attacker` against `defender`."""
    last = defender.checkpoints.at(None)
    exploit = Exploit(defender, last, Budget(steps), Path("unused"), rng_seed=seed)
    run = build(exploit.config(OWN))
    learner = run.trainers[Player.ATTACKER]
    own = attacker.checkpoints.at(None)
    learner.load(attacker.checkpoints.path(own) / attacker.config.owner(Player.ATTACKER))
    target = exploit.frozen(run)
    rounds = best_response(target, learner, learner, exploit.budget, f"transfer/{seed}")
    return [rate.to_json() for _, rate in rounds if rate]


def main() -> None:
    """Print the curve of one attacker against one defender, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attacker", type=Path)
    parser.add_argument("defender", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    attacker, defender = RunDir.open(options.attacker), RunDir.open(options.defender)
    print(json.dumps(curve(attacker, defender, options.seed, options.steps)))


if __name__ == "__main__":
    main()
