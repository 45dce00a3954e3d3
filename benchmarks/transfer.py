"""One run's attacker, trained on against the defenders of others: `transfer.py ATTACKER RUN…`.

Whether a defender holds against its own attacker says little where that attacker has nothing to
learn from. Here every defender meets the same attacker, the last one of the run ATTACKER, which
learns on against it, once for each seed, in the game and at the budget of `sparring exploit`. The
runs are of one world. A curve is printed as it is done, and stored with --out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from sparring.evals.exploit import OWN, Budget, Exploit, best_response
from sparring.runs.build import build
from sparring.store.folder import RunDir
from sparring.types import Player


def curve(attacker: RunDir, defender: RunDir, seed: int, steps: int) -> list[float | None]:
    """ASR on held-out seeds after every twenty steps of `attacker` against `defender`."""
    last = defender.checkpoints.at(None)
    exploit = Exploit(defender, last, Budget(steps), Path("unused"), rng_seed=seed)
    run = build(exploit.config(OWN))
    learner = run.trainers[Player.ATTACKER]
    own = attacker.checkpoints.at(None)
    learner.load(attacker.checkpoints.path(own) / attacker.config.owner(Player.ATTACKER))
    target = exploit.frozen(run)
    rounds = best_response(target, learner, learner, exploit.budget, f"transfer/{seed}")
    return [rate.value for _, rate in rounds if rate]


def main(words: Sequence[str] | None = None) -> None:
    """Play what has not been played."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attacker", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transfer.jsonl"))
    options = parser.parse_args(words)
    options.out.touch()
    played = [json.loads(line) for line in options.out.read_text().splitlines()]
    for path in options.runs:
        for seed in map(int, options.seeds.split(",")):
            key = {"attacker": options.attacker.name, "defender": path.name, "seed": seed}
            if any({k: row[k] for k in key} == key for row in played):
                continue
            asr = curve(RunDir.open(options.attacker), RunDir.open(path), seed, options.steps)
            with options.out.open("a") as file:
                file.write(json.dumps({**key, "asr": asr}) + "\n")
            print(key, [None if x is None else round(x, 3) for x in asr], flush=True)


if __name__ == "__main__":
    main()
