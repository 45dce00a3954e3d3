"""Plays recipes in redrawn sandbox worlds and attacks what they trained.

`python benchmarks/worlds.py --plan tuning` plays what has not been played, and goes on where it was
stopped; `--table` prints the stored figures. A world has a language, a base and a run of its own,
all drawn from its number. A cell is one row of a group in one world: a run with an exam before and
after, and attackers on its last defender, by name and seed (another seed is a restart). `own`,
`broad`, `pool` and `enumeration` are those of `sparring exploit`, searches and other attacks that
learn nothing those of `sparring attack`; `magic` is the last attacker of the row `magic` in the
same world, trained on against this cell's defender, so that all rows meet the same one; `foreign`
is that of another run of MAGIC, which no row has met; `informed` is that one, shown what works on
training requests; `longer` is the one of these that got furthest in 80 steps, with 320. Figures are
in `<results>/<plan>/<row>-<world>.json`, with the settings, the base and the code that they rest
on. The rows of a group have about the same computing time. A world that no plan names is drawn
afresh: `--plan reported --worlds 7001 --rows magic_hardened` tries a recipe where nobody has
looked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import asin, pi, sin
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from filelock import FileLock
from scipy.stats import t
from study import SPARRING, begun, call, chosen, code_digest, play, store
from world_plans import LONGER, OTHERS, PLANS, ROWS, SEARCHES, Row

from sparring.door import sha256
from sparring.schedules import STEP
from sparring.store.files import digest
from sparring.store.folder import RunDir

TRANSFER = Path(__file__).with_name("transfer.py")
MAGIC = ("magic", "foreign")
LEARNED = (*MAGIC, "informed", "own", "broad", "pool")
WORST = (*LEARNED, "enumeration")
"""Attackers whose worst counts: what they reach is the share of their attacks that succeed."""
SAME_BITS = {
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""Environment of every command: newer processors compute as those with AVX2 do.

So a study that was begun on one machine goes on, bit by bit, on another. Seen between an AMD
processor with AVX2 and one with AVX-512, whose own instructions lead to another base.
"""


@dataclass(frozen=True)
class Cell:
    """One row in one world."""

    row: str
    world: int
    root: Path
    results: Path

    @property
    def base(self) -> Path:
        return self.root / f"base-{self.world}"

    @property
    def run(self) -> RunDir:
        return RunDir(self.root / f"{self.row}-{self.world}")

    @property
    def result(self) -> Path:
        return self.results / f"{self.row}-{self.world}.json"

    def play(self, attacks: Sequence[str]) -> None:
        """Train and attack; what has been done of this cell is not done again.

        An attack with another budget than the stored one is played again.
        """
        base = sha256(self.base / "model.safetensors")
        record = begun(self.result, {"settings": digest(list(ROWS[self.row]), 12), "base": base})
        if "attacks" not in record:
            self.train()
            record |= read_off(self.run) | {"attacks": {}}
            self._store(record)
        done = record["attacks"]
        for attack in attacks:
            name = strongest(done) if attack == LONGER else attack
            budget = budget_of(name, 320 if attack == LONGER else 80)
            made = {"attacker": name, "budget": budget, "code": code_digest()}
            before = done.get(attack, {})
            if any(before.get(key) != made[key] for key in ("attacker", "budget")):
                self.train()
                rates, cost = self._attack(name, budget)
                done[attack] = made | cost | {"asr": [figures(rate) for rate in rates]}
                self._store(record)

    def _store(self, record: Mapping[str, Any]) -> None:
        store(self.result, record)
        done = ", ".join(record["attacks"]) or "trained"
        print(f"{self.row} in world {self.world}: {done}", flush=True)

    def train(self) -> None:
        """Train, or go on; a run that is complete is left as it is."""
        with FileLock(self.root / f"{self.row}-{self.world}.lock"):
            there = (self.run.folder / "config.yaml").is_file()
            if not (there and self.run.status.status == "complete"):
                self._train("--resume" if there else "--no-resume")

    def _train(self, resume: str) -> None:
        folder, (recipe, *words) = self.run.folder, ROWS[self.row]
        models = [f"{who}.model_name_or_path={self.base}" for who in ("attacker", "defender")]
        fixed = [f"output_dir={folder}", f"seed={self.world}", "exam.every=0", "exam.crossplay=0"]
        self.call(*SPARRING, "train", recipe, resume, *fixed, *models, *words)

    def _attack(self, attack: str, budget: Row) -> tuple[list[dict[str, Any]], Mapping[str, float]]:
        """ASR on held-out seeds after 0, 20, 40, … steps of an attacker, and the attack's cost.

        Of a search it is that after 1, 2, 4, … queries.
        """
        run, (name, seed) = str(self.run.folder), attack.split("/")
        drawn = ("--seed", seed, *budget)
        if name in OTHERS:
            attacker = replace(self, row=OTHERS[name][0])
            attacker.train()
            words = (str(TRANSFER), str(attacker.run.folder), run, *drawn)
            output, cost = self.call(sys.executable, *words)
            return json.loads(output), cost
        if name in SEARCHES:
            _, cost = self.call(*SPARRING, "attack", run, "--families", name, *drawn)
            evidence = json.loads(self.run.path("evidence", "attack.json").read_bytes())
            return list(evidence["families"][name]["asr"].values()), cost
        cache = f"--cache={self.root}/warm-{self.world}"
        _, cost = self.call(*SPARRING, "exploit", run, "--attackers", name, *drawn, cache)
        evidence = json.loads(self.run.path("evidence", "exploit.json").read_bytes())
        return evidence["attackers"][name]["asr"], cost

    def call(self, *words: str) -> tuple[str, Mapping[str, float]]:
        """Run one command in its own process; its notes go to a log beside the run."""
        return call(*words, log=self.root / f"{self.row}-{self.world}.log", environment=SAME_BITS)


def budget_of(attack: str, steps: int) -> list[str]:
    """Return the budget of an attack, as words of its command."""
    name = attack.split("/", maxsplit=1)[0]
    if name in SEARCHES:
        return list(SEARCHES[name])
    return [*OTHERS.get(name, ("", ()))[1], "--steps", str(steps)]


def figures(rate: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored of a rate."""
    return {name: rate[name] for name in ("value", "ci95", "n_total", "n_scored", "bounds")}


def read_off(run: RunDir) -> dict[str, Any]:
    """Return a run's rounds and CPU seconds, its first and last exam's rates, and best responses.

    A best response of hardening is the ASR of each of its rounds.
    """
    rounds = run.rounds()
    exams = {}
    for number in (0, len(rounds)):
        results = run.exam(number)
        assert results is not None
        exams[number] = {name: rate.value for name, rate in results.rates.items()}
    responses: list[list[float | None]] = []
    for record in rounds:
        step = record.metrics.get(STEP)
        if step == 1:
            responses.append([])
        if step:
            responses[-1].append(record.metrics.get("asr"))
    seconds = round(sum(record.cpu_seconds for record in rounds), 1)
    return {"rounds": len(rounds), "seconds": seconds, "exams": exams, "responses": responses}


def build_base(cell: Cell) -> None:
    """Build the base of the cell's world unless it exists."""
    with FileLock(cell.root / f"base-{cell.world}.lock"):
        if not (cell.base / "sandbox.json").is_file():
            seeds = ("--seed", str(cell.world), "--language-seed", str(cell.world))
            cell.call(sys.executable, "-m", "sparring.sandbox.build", str(cell.base), *seeds)


def table(results: Path) -> list[str]:
    """Return the stored figures as a table: mean and worst over worlds.

    Seconds of a run that was played on another processor are not stored. The difference to the row
    `magic` (or `magic-long`) is that of the mean of magic's attackers, by world.
    """
    stored = {row: worlds for row in ROWS if (worlds := read_results(results, row))}
    cells = [cell for worlds in stored.values() for cell in worlds.values()]
    names = [name for name in WORST if any(ends(cell, name) for cell in cells)]
    longer = [LONGER] if any(ends(cell, LONGER) for cell in cells) else []
    shown = [*names, "worst", *longer]
    head = ("exam", "two exchanges", "wrapped benign", *shown, "next world", "− magic")
    lines = [f"| mean / worst | worlds | {' | '.join(head)} | rounds | trained |"]
    lines.append("|---|" + "--:|" * (len(head) + 3))
    reference = stored.get("magic") or stored.get("magic-long") or {}
    magic = {
        world: fmean(asrs) for world, cell in reference.items() if (asrs := ends(cell, *MAGIC))
    }
    for row, worlds in stored.items():
        cells = list(worlds.values())
        exams = [cell["exams"][f"{cell['rounds']}"] for cell in cells]
        met = {w: fmean(asrs) for w, cell in worlds.items() if (asrs := ends(cell, *MAGIC))}
        seconds = [cell["seconds"] for cell in cells if cell["seconds"]]
        columns = [
            both([exam["asr/adversarial"] for exam in exams], max),
            both([exam["asr/two-exchange"] for exam in exams], max),
            both([exam["correct/wrapped"] for exam in exams], min),
            *(attacked(cells, name) for name in names),
            attacked(cells, *WORST),
            *(attacked(cells, name) for name in longer),
            next_world([max(asrs) for cell in cells if (asrs := ends(cell, *WORST))]),
            difference([asr - magic[world] for world, asr in met.items() if world in magic]),
            f"{fmean(cell['rounds'] for cell in cells):.0f}",
            f"{fmean(seconds):.0f} s" if seconds else "–",
        ]
        lines.append(f"| {row} | {', '.join(worlds)} | {' | '.join(columns)} |")
    codes = {cell["code"] for worlds in stored.values() for cell in worlds.values()}
    return [*lines, "", f"Played by code {', '.join(sorted(codes))}."]


def searches(results: Path) -> list[str]:
    """Return what attacks that learn nothing reach: mean and worst over worlds."""
    names = [f"{name}, {words[1]}" for name, words in SEARCHES.items()]
    lines = [f"| mean / worst, queries | {' | '.join(names)} |"]
    lines.append("|---|" + "--:|" * len(names))
    for row in ROWS:
        cells = list(read_results(results, row).values())
        if any(ends(cell, *SEARCHES) for cell in cells):
            shares = [attacked(cells, name) for name in SEARCHES]
            lines.append(f"| {row} | {' | '.join(shares)} |")
    return lines


def attacked(cells: Sequence[Mapping[str, Any]], *names: str) -> str:
    """Return the mean over cells of the worst attacker, the worst, and how many cells there are."""
    worst = [max(asrs) for cell in cells if (asrs := ends(cell, *names))]
    return f"{both(worst, max)} ({len(worst)})" if worst else "–"


def read_results(folder: Path, row: str) -> dict[str, Any]:
    """Return the stored cells of a row by world."""
    paths = sorted(folder.glob(f"{row}-*.json"))
    named = {path.stem.removeprefix(f"{row}-"): path for path in paths}
    return {world: json.loads(p.read_bytes()) for world, p in named.items() if world.isdigit()}


def ends(cell: Mapping[str, Any], *names: str) -> list[float]:
    """Return what the attackers of these names reached, every restart that could be scored."""
    attacks = cell["attacks"].items()
    last = [done["asr"][-1]["value"] for attack, done in attacks if attack.split("/")[0] in names]
    return [value for value in last if value is not None]


def strongest(attacks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the attacker that learns and got furthest at its end; of equals the higher peak."""
    curves = {
        name: [rate["value"] or 0.0 for rate in done["asr"]]
        for name, done in attacks.items()
        if name.split("/")[0] in LEARNED
    }
    return max(curves, key=lambda name: (curves[name][-1], max(curves[name])))


def both(values: Sequence[float], worst: Any) -> str:
    """Return the mean and the worst value."""
    return f"{fmean(values):.3f} / {worst(values):.3f}"


def next_world(values: Sequence[float]) -> str:
    """Return where a further world is expected: from 0 to the upper end of a prediction interval.

    The end is x + t s √(1 + 1/n) for x = arcsin √rate, back as a rate, with the t of a two-sided
    interval of 95 %. So it stays within 0 and 1, and rates near 0 spread less than those in the
    middle. s is no less than chance alone makes it with 96 independent games, 1/(2 √96). No
    defender is the worse for less than the lower end, so there is none, and at least 95 % of
    further worlds are inside where the angles are normally distributed.
    """
    if len(values) < 2:
        return "–"
    n, angles = len(values), [asin(value**0.5) for value in values]
    spread = max(stdev(angles), 0.5 / 96**0.5)
    high = fmean(angles) + t.ppf(0.975, n - 1) * spread * (1 + 1 / n) ** 0.5
    return f"0–{sin(min(pi / 2, high)) ** 2:.2f}"


def difference(values: Sequence[float]) -> str:
    """Return the mean of differences by world, with a t interval of 95 % over worlds."""
    if len(values) < 2 or not any(values):
        return "–"
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    low, high = max(-1.0, fmean(values) - half), min(1.0, fmean(values) + half)
    return f"{fmean(values):+.2f} [{low:+.2f}, {high:+.2f}]"


def numbers(words: str) -> list[int]:
    """Return the numbers of `301,302`."""
    return [int(word) for word in words.split(",")]


def main() -> None:
    """Play every cell that has not been played, world by world; or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", choices=PLANS, default="tuning", help="what is played")
    parser.add_argument("--worlds", type=numbers, help="only these, or others: 301,302")
    parser.add_argument("--rows", help="only these, by name")
    parser.add_argument("--attacks", help="only these")
    parser.add_argument("--root", type=Path, default=Path("runs/worlds"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--jobs", type=int, default=2, help="at once, one thread each")
    parser.add_argument("--table", action="store_true", help="print what is stored")
    options = parser.parse_args()
    results = options.results / options.plan
    if options.table:
        print("\n".join([*table(results), "", *searches(results)]))
        return

    planned = PLANS[options.plan]
    known = {world for worlds, _, _ in planned for world in worlds}
    due: dict[Cell, list[str]] = {}
    for worlds, rows, attacks in planned:
        for world in options.worlds or worlds:
            for row in chosen(rows, options.rows):
                if world in worlds or world not in known:
                    cell = Cell(row, world, options.root, results)
                    due.setdefault(cell, []).extend(chosen(attacks, options.attacks))
    if not due:
        parser.error(f"nothing of the plan {options.plan} has these worlds and rows")

    def whole(cell: Cell) -> None:
        build_base(cell)
        cell.play(due[cell])

    play([(f"{cell.row}-{cell.world}", partial(whole, cell)) for cell in due], options.jobs)


if __name__ == "__main__":
    main()
