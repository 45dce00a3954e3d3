"""Plays recipes in redrawn sandbox worlds and attacks what they trained.

`python benchmarks/worlds.py --plan tuning` plays what has not been played, and goes on where it was
stopped; `--table` prints the stored figures. A world has a language, a base and a run of its own,
all drawn from its number. A cell is one row of a group in one world: a run with an exam before and
after, and attackers on its last defender, by name and seed (another seed is a restart). `own`,
`broad`, `pool` and `enumeration` are those of `sparring exploit`, searches and other attacks that
learn nothing those of `sparring attack`; `magic` is the last attacker of the row `magic` in the
same world, trained on against this cell's defender, so that all rows meet the same one; `longer` is
the one of these that got furthest in 80 steps, with 320. Figures are in
`<results>/<plan>/<row>-<world>.json`, with the settings, the base and the code that they rest on.
The rows of a group have about the same computing time. A world that no plan names is drawn afresh:
`--plan reported --worlds 7001 --rows magic_hardened` tries a recipe where nobody has looked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import asin, pi, sin
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from filelock import FileLock
from scipy.stats import t
from study import SPARRING, begun, chosen, store
from world_plans import CUT, LONGER, PLANS, ROWS, SEARCHES

from sparring.door import sha256
from sparring.schedules import STEP
from sparring.store.files import digest
from sparring.store.folder import RunDir

TRANSFER = Path(__file__).with_name("transfer.py")
MAGIC = "magic"
LEARNED = (MAGIC, "own", "broad", "pool")
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

    @property
    def is_the_cut_run(self) -> bool:
        """Whether hardening to its own end is the run of `magic_hardened`, which no cut ended."""
        cut = replace(self, row="magic_hardened").result
        if self.row != "to_its_end" or not cut.is_file():
            return False
        return bool(json.loads(cut.read_bytes())["rounds"] < CUT)

    def play(self, attacks: Sequence[str]) -> None:
        """Train and attack; what has been done of this cell is not done again."""
        if self.is_the_cut_run:
            print(f"hardening ended by its own rule in world {self.world}, before its cut")
            return
        rests_on = {
            "settings": digest(list(ROWS[self.row]), 12),
            "base": sha256(self.base / "model.safetensors"),
        }
        record = begun(self.result, rests_on)
        if "attacks" not in record:
            self.train()
            record |= read_off(self.run) | {"attacks": {}}
            self._store(record)
        for attack in attacks:
            if attack not in record["attacks"]:
                self.train()
                words = attack.split("/")
                if attack == LONGER:
                    record[LONGER] = strongest(record["attacks"])
                    words = [*record[LONGER].split("/"), "320"]
                record["attacks"][attack] = self._attack(*words)
                self._store(record)

    def _store(self, record: Mapping[str, Any]) -> None:
        store(self.result, record)
        print(f"{self.row} in world {self.world}: {', '.join(record['attacks']) or 'trained'}")

    def train(self) -> None:
        """Train, or go on; a run that is complete is left as it is."""
        with FileLock(self.root / f"{self.row}-{self.world}.lock"):
            begun = (self.run.folder / "config.yaml").is_file()
            if not (begun and self.run.status.status == "complete"):
                self._train("--resume" if begun else "--no-resume")

    def _train(self, resume: str) -> None:
        folder, (recipe, *words) = self.run.folder, ROWS[self.row]
        models = [f"{who}.model_name_or_path={self.base}" for who in ("attacker", "defender")]
        fixed = [f"output_dir={folder}", f"seed={self.world}", "exam.every=0", "exam.crossplay=0"]
        call(*SPARRING, "train", recipe, resume, *fixed, *models, *words)

    def _attack(self, name: str, seed: str, steps: str = "80") -> list[float | None]:
        """ASR on held-out seeds after 0, 20, 40, … steps of an attacker; of a search, one value."""
        run, learned = str(self.run.folder), ("--seed", seed, "--steps", steps)
        if name in ROWS:
            attacker = replace(self, row=name)
            attacker.train()
            words = (str(TRANSFER), str(attacker.run.folder), run, *learned)
            return list(json.loads(call(sys.executable, *words)))
        if name in SEARCHES:
            words = ("--families", name, "--seed", seed, *SEARCHES[name])
            call(*SPARRING, "attack", run, *words)
            evidence = json.loads(self.run.path("evidence", "attack.json").read_bytes())
            return [evidence["families"][name]["asr"][SEARCHES[name][1]]["value"]]
        cache = f"--cache={self.root}/warm-{self.world}"
        call(*SPARRING, "exploit", run, "--attackers", name, *learned, cache)
        evidence = json.loads(self.run.path("evidence", "exploit.json").read_bytes())
        return [rate["value"] for rate in evidence["attackers"][name]["asr"]]


def call(*words: str) -> str:
    """Run one command in its own process; return its output."""
    environment = os.environ | SAME_BITS
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[3:])}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


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
    if not (cell.base / "sandbox.json").is_file():
        seeds = ("--seed", str(cell.world), "--language-seed", str(cell.world))
        call(sys.executable, "-m", "sparring.sandbox.build", str(cell.base), *seeds)


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
    magic = {world: fmean(asrs) for world, cell in reference.items() if (asrs := ends(cell, MAGIC))}
    for row, worlds in stored.items():
        cells = list(worlds.values())
        exams = [cell["exams"][f"{cell['rounds']}"] for cell in cells]
        met = {w: fmean(asrs) for w, cell in worlds.items() if (asrs := ends(cell, MAGIC))}
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
            f"{fmean(seconds):.0f} s",
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
    """Return what the attackers of these names reached, every restart."""
    attacks = cell["attacks"].items()
    return [asrs[-1] for attack, asrs in attacks if attack.split("/")[0] in names]


def strongest(attacks: Mapping[str, Sequence[float | None]]) -> str:
    """Return the attacker among those that learn which got furthest; of equals the first."""
    reached = {name: curve[-1] or 0.0 for name, curve in attacks.items()}
    learned = [name for name in reached if name.split("/")[0] in LEARNED]
    return max(learned, key=lambda name: reached[name])


def both(values: Sequence[float], worst: Any) -> str:
    """Return the mean and the worst value."""
    return f"{fmean(values):.3f} / {worst(values):.3f}"


def next_world(values: Sequence[float]) -> str:
    """Return where 95 % of further worlds are expected.

    It is x ± t s √(1 + 1/n) for x = arcsin √rate, back as a rate: so it stays within 0 and 1, and
    rates near 0 spread less than those in the middle. Where rates are drawn from Beta(.5, 15), a
    mean of .03, and five worlds are seen, it contains a further one in 95 % of simulations.
    """
    if len(values) < 2:
        return "–"
    n, angles = len(values), [asin(value**0.5) for value in values]
    half = t.ppf(0.975, n - 1) * stdev(angles) * (1 + 1 / n) ** 0.5
    low, high = (fmean(angles) + side * half for side in (-1, 1))
    return f"{sin(max(0.0, low)) ** 2:.2f}–{sin(min(pi / 2, high)) ** 2:.2f}"


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
    due = [
        (Cell(row, world, options.root, results), chosen(attacks, options.attacks))
        for worlds, rows, attacks in planned
        for world in options.worlds or worlds
        if world in worlds or world not in known
        for row in chosen(rows, options.rows)
    ]
    if not due:
        parser.error(f"nothing of the plan {options.plan} has these worlds and rows")
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(build_base, {cell.world: cell for cell, _ in due}.values()))
        list(pool.map(lambda each: each[0].play(each[1]), due))


if __name__ == "__main__":
    main()
