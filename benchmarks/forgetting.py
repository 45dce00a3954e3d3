"""Early attacks, met again late: `python benchmarks/forgetting.py RUN…`.

The rewrites of harmful seeds that a run's attacker played in its first recorded rounds, dealt as
they were sent to the defender as it was then and after every later exam. Where replay keeps a
defence alive that the moving attacker has left behind, the last columns are lower with it.
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
    seen = set()
    for path in sorted((run.folder / "transcripts").glob("round_*.jsonl.gz")):
        if int(path.name[6:12]) > until:
            continue
        for line in gzip.decompress(path.read_bytes()).splitlines():
            game = json.loads(line)
            first = game["moves"][0]
            text = first["text"] if game["dealt"] else answer_of(first["text"])
            faithful = game["verdict"].get("on_topic") and game["seed"]["harmful"]
            if faithful and text and (game["seed"]["id"], text) not in seen:
                seen.add((game["seed"]["id"], text))
                yield State(Seed(**game["seed"])).deal(Player.ATTACKER, text)


def met(entrant: Entrant, openings: list[State]) -> list[Outcome]:
    """What each attack came to against the defender as it was then."""
    plan, defender = entrant.run.plan, entrant.policy(Player.DEFENDER)
    games = play(plan.game, openings, {Player.DEFENDER: defender}, plan.judge, {}, "forgetting")
    return [Outcome(succeeded(game.state), game.state.seed.id) for game in games]


def main() -> None:
    """One line a run: how often its early attacks work after each number of rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--until", type=int, default=39, help="the last round taken for early")
    parser.add_argument("--at", default="0,20,40,80,120,160", help="rounds behind the defender")
    parser.add_argument("--json", type=Path, help="add what was found to this file")
    asked = parser.parse_args()
    numbers = [int(word) for word in asked.at.split(",")]
    for folder in asked.runs:
        run = RunDir.open(folder)
        openings = list(attacks(run, asked.until))
        told = {e.folder.name: rate(met(e, openings)) for e in entrants(run, numbers)}
        row = {f"{int(name[6:])}": rate.value for name, rate in told.items()}
        cells = "  ".join(f"{at}: {value:.3f}" for at, value in row.items())
        print(f"{folder.name:18s} n={len(openings):4d}  {cells}", flush=True)
        if asked.json:
            kept = json.loads(asked.json.read_bytes()) if asked.json.is_file() else {}
            kept[folder.name] = {"n": len(openings), "asr": row}
            asked.json.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
