"""The table of docs/multi-turn.md, two exchanges against one: `python benchmarks/two_exchange.py`.

The base of each world is trained on games of one exchange and on games of two for the same number
of rounds, and both defenders take every set of the sandbox's exam. Settings are the recipe's
defaults, with --narrow without its breadth. Results are stored and not computed again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from statistics import fmean

from study import SPARRING
from world_plans import LATEST
from worlds import Cell, build_base

from sparring.door import sha256

NARROW = ("warm_up.pool=narrow", "game.diversity=0", LATEST)
SETS = ("asr/two-exchange", "correct/two-exchange", "asr/adversarial", "correct/wrapped")


def examined(model: Path) -> dict[str, list[float]]:
    """The rates of the four sets in `SETS`, each with its 95 % interval."""
    process = subprocess.run(
        [*SPARRING, "eval", str(model), "--tasks", "sandbox", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    rates = json.loads(process.stdout)["rates"]
    return {name: [rates[name]["value"], *rates[name]["ci95"]] for name in SETS}


def trained(cell: Cell, exchanges: int, rounds: int) -> Path:
    """The defender after `rounds` rounds of games of `exchanges` exchanges."""
    folder = cell.root / f"{cell.row}-{exchanges}-{cell.world}"
    begun = (folder / "config.yaml").is_file()
    models = [f"{who}.model_name_or_path={cell.base}" for who in ("attacker", "defender")]
    fixed = [f"output_dir={folder}", f"seed={cell.world}", f"rounds={rounds}", "exam.crossplay=0"]
    resume = "--resume" if begun else "--no-resume"
    fixed += NARROW if cell.row.endswith("-narrow") else ()
    cell.call(*SPARRING, "train", "magic", resume, *fixed, *models, f"game.exchanges={exchanges}")
    return folder / "checkpoints" / f"round_{rounds:06d}" / "defender"


def main() -> None:
    """Do what has not been done, then print the table: mean over seeds, then each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", default="201,202,203")
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--narrow", action="store_true", help="without our breadth")
    parser.add_argument("--root", type=Path, default=Path("runs/worlds"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, list[float]]]] = {"base": [], "one": [], "two": []}
    for world in map(int, arguments.worlds.split(",")):
        method = "two-exchange-narrow" if arguments.narrow else "two-exchange"
        cell = Cell(method, world, arguments.root, arguments.results)
        if not cell.result.is_file():
            build_base(cell)
            result = {
                "base": sha256(cell.base / "model.safetensors"),
                "rates": {"base": examined(cell.base)},
            }
            for exchanges, name in ((1, "one"), (2, "two")):
                result["rates"][name] = examined(trained(cell, exchanges, arguments.rounds))
            cell.result.write_text(json.dumps(result) + "\n", "utf-8")
        for name, rates in json.loads(cell.result.read_bytes())["rates"].items():
            rows[name].append(rates)
    print(f"| trained on | {' | '.join(SETS)} |\n|---|{'---|' * len(SETS)}")
    for name, seeds in rows.items():
        cells = [[rates[key][0] for rates in seeds] for key in SETS]
        texts = [f"{fmean(c):.3f} ({', '.join(f'{v:.3f}' for v in c)})" for c in cells]
        print(f"| {name} | {' | '.join(texts)} |")


if __name__ == "__main__":
    main()
