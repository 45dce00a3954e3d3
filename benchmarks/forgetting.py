"""Whether a defender forgets early attacks: `python benchmarks/forgetting.py RUN…`.

The rewrites of harmful seeds that a run's attacker sent in its first recorded rounds are sent again
to the defender after each number of rounds in `--at`. If replay preserves a defence that the
current attacker no longer tests, the last success rates are lower for runs with replay.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from sparring.arena import play
from sparring.evals.crossplay import Entrant, entrants
from sparring.games.game import answer_of
from sparring.metrics import succeeded
from sparring.stats.rates import Outcome, rate
from sparring.store.folder import RunDir
from sparring.types import Player, Seed, State


def attacks(run: RunDir, until: int) -> Iterator[State]:
    """Every distinct faithful rewrite of a harmful seed in transcripts up to round `until`."""
    known = set()
    for path in sorted((run.folder / "transcripts").glob("round_*.jsonl.gz")):
        if int(path.name[6:12]) > until:
            continue
        for line in gzip.decompress(path.read_bytes()).splitlines():
            game = json.loads(line)
            first = game["moves"][0]
            text = first["text"] if game["dealt"] else answer_of(first["text"])
            faithful = game["verdict"].get("on_topic") and game["seed"]["harmful"]
            if faithful and text and (game["seed"]["id"], text) not in known:
                known.add((game["seed"]["id"], text))
                yield State(Seed(**game["seed"])).deal(Player.ATTACKER, text)


def met(entrant: Entrant, openings: list[State]) -> list[Outcome]:
    """Whether each attack succeeds against the defender of that checkpoint."""
    plan, defender = entrant.run.plan, entrant.policy(Player.DEFENDER)
    games = play(plan.game, openings, {Player.DEFENDER: defender}, plan.judge, {}, "forgetting")
    return [Outcome(succeeded(game.state), game.state.seed.id) for game in games]


def main() -> None:
    """Print one line a run: how often its early attacks succeed after each number of rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--until", type=int, default=39, help="the last round taken for early")
    parser.add_argument("--at", default="0,20,40,80,120,160", help="rounds behind the defender")
    parser.add_argument("--json", type=Path, help="add what was found to this file")
    arguments = parser.parse_args()
    numbers = [int(word) for word in arguments.at.split(",")]
    for folder in arguments.runs:
        run = RunDir.open(folder)
        openings = list(attacks(run, arguments.until))
        rates = {e.folder.name: rate(met(e, openings)) for e in entrants(run, numbers)}
        row = {f"{int(name[6:])}": rate.value for name, rate in rates.items()}
        cells = "  ".join(f"{at}: {value:.3f}" for at, value in row.items())
        print(f"{folder.name:18s} n={len(openings):4d}  {cells}", flush=True)
        if arguments.json:
            results = json.loads(arguments.json.read_bytes()) if arguments.json.is_file() else {}
            results[folder.name] = {"n": len(openings), "asr": row}
            arguments.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
