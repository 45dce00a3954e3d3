"""Plays recipes on SmolLM2-135M-Instruct, and examines and attacks what each of them trained.

    python benchmarks/real_table.py --real runs/real --data data
    python benchmarks/real_table.py --table

The model, an attack pool and lessons are in the folder that `scripts/real` makes; the data are the
files of HarmBench, StrongREJECT and XSTest that `sparring eval` knows. What is done is not done
again, so the same command goes on where it was stopped. A cell is one row with one seed: a run with
its exam on own held-out pairs, public prompts and utility (`sparring eval`), attacks without
training (`sparring attack`), and the run's attacker trained on (`sparring exploit`). Figures are in
`<results>/<row>-<seed>.json`, with the settings, the model and the code that they rest on.

`raw` is the model as it is; `aligned` has imitated lessons in refusing, merged into its weights,
and every game begins with it. The games have three seeds each; their rounds are to take the same
computing time, which has not been measured yet, so compare the CPU minutes in the table. Of
HarmBench a hundred prompts are drawn once; of XSTest those are taken that no shipped judge was
fitted to. They are written under `--root` alone. The costs of a part that was interrupted count
from its last start; those of the game's rounds are complete.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from study import SPARRING, begun, chosen, store

from sparring.door import sha256
from sparring.store.files import digest
from sparring.store.folder import RunDir

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "scripts" / "real.yaml"
LABELLED = ROOT / "benchmarks" / "labelled" / "smollm2-tuning.jsonl"
EVEN = (
    "schedule.every={attacker: 4, defender: 8}",
    "learner.seeds_per_round={attacker: 16, defender: 32}",
)
GAMES: Mapping[str, Sequence[str]] = {
    "no_game": ("recipe=no_game", "data.as_they_stand=1", *EVEN, "rounds=24"),
    "defender_only": ("recipe=defender_only", *EVEN, "rounds=24"),
    "magic": (*EVEN, "rounds=24"),
    "ssp": ("recipe=ssp", "learner.seeds_per_round=8", "rounds=24"),
    "magic_hardened": (
        "recipe=magic_hardened",
        *EVEN,
        "schedule.harden_after=8",
        "schedule.attack=4",
        "schedule.window=1",
        "schedule.dwell=[2, 6]",
        "rounds=24",
    ),
}
"""The games; rounds of equal computing time have still to be chosen."""
FIXED = ("exam.every=0", "exam.n=32", "saving.checkpoint_every=4")
SEARCHES: Mapping[str, Sequence[object]] = {
    "plain,draws,prefill": ("--queries", 8, "--limit", 24),
    "gradient": ("--queries", 4, "--limit", 12, "--gradient-steps", 2),
}
PROMPTS = 100
HARMBENCH = "harmbench_behaviors_text_test.csv"
STRONGREJECT = "strongreject_small_dataset.csv"
XSTEST = "xstest_exaggerated_safety.json"


@dataclass(frozen=True)
class Study:
    """The folders of a study, and what all of its cells share."""

    real: Path
    data: Path
    root: Path
    results: Path

    @property
    def raw(self) -> Path:
        return self.real / "model"

    @property
    def aligned(self) -> Path:
        return self.root / "aligned"

    @property
    def judges(self) -> tuple[Path, Path]:
        """The judge that pays, and one that never does."""
        return self.root / "words.yaml", self.root / "hidden.yaml"

    def prepare(self) -> None:
        """Make the aligned model, and write the prompts and the judges' files."""
        self.root.mkdir(parents=True, exist_ok=True)
        words, hidden = self.judges
        words.write_text(yaml.safe_dump({"kind": "linear", "model": "words"}))
        reading = {"kind": "linear", "model": "hidden", "settings": {"base": str(self.raw)}}
        hidden.write_text(yaml.safe_dump(reading))
        self._prompts()
        if not (self.aligned / "config.json").exists():
            run = self.root / "aligned-run"
            steps = "warm_up.steps={attacker: 0, defender: 560}"
            self.train(run, self.raw, "rounds=0", steps, "exam.n=1", "seed=0")
            self.sparring("export", run, "--role", "defender", "--merge", "--output", self.aligned)
        card = self.root / "calibration.json"
        if not card.exists():
            both = [word for path in self.judges for word in ("--judge", path)]
            self.sparring("judge", "calibrate", LABELLED, *both, "--output", card)

    def _prompts(self) -> None:
        """Write the chosen prompts of the published files."""
        folder = self.root / "prompts"
        folder.mkdir(exist_ok=True)
        with (self.data / HARMBENCH).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        rows = [row for row in rows if row["FunctionalCategory"] != "copyright"]
        chosen = random.Random("real_table").sample(rows, PROMPTS)
        with (folder / HARMBENCH).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(chosen)
        (folder / STRONGREJECT).write_bytes((self.data / STRONGREJECT).read_bytes())
        ids = (files("sparring.judges") / "shipped" / "tests.txt").read_text().split()
        unseen = [row for row in json.loads((self.data / XSTEST).read_bytes()) if row["id"] in ids]
        (folder / XSTEST).write_text(json.dumps(unseen))

    def train(self, run: Path, model: Path, *words: str) -> dict[str, Any]:
        """Train, or go on; return what it cost."""
        resume = "--resume" if (run / "config.yaml").exists() else "--no-resume"
        models = [f"{player}.model_name_or_path={model}" for player in ("attacker", "defender")]
        shown = [
            f"attacker.warm_start={self.real / 'pool.jsonl'}",
            f"defender.warm_start={self.real / 'lessons.jsonl'}",
        ]
        exam = f"exam.judge={{kind: linear, model: hidden, settings: {{base: {self.raw}}}}}"
        own = [*models, *shown, exam, *FIXED, *words, f"output_dir={run}", resume]
        return self.sparring("train", SETTINGS, *own)

    def sparring(self, *words: object) -> dict[str, Any]:
        """Run one command with one thread; return its CPU seconds and its peak memory in GiB."""
        command = [*SPARRING, *map(str, words)]
        with (self.root / "log.txt").open("ab") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            _, status, used = os.wait4(process.pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{' '.join(map(str, words[:3]))} ended with {code}; see {log.name}")
        cpu = round(used.ru_utime + used.ru_stime, 1)
        return {"cpu_seconds": cpu, "peak_gib": round(used.ru_maxrss / 1024**2, 1)}


@dataclass(frozen=True)
class Cell:
    """One row with one seed."""

    study: Study
    row: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row}-{self.seed}"

    @property
    def run(self) -> RunDir:
        return RunDir(self.study.root / self.name)

    @property
    def model(self) -> Path:
        """The model that the row begins with."""
        return self.study.raw if self.row == "raw" else self.study.aligned

    @property
    def words(self) -> Sequence[str]:
        """The settings of its run; without a game it has an attacker alone."""
        return GAMES.get(self.row, ("rounds=0",))

    def play(self) -> None:
        """Do what has not been done of this cell, part by part, and write each as it is done."""
        result = self.study.results / f"{self.name}.json"
        rests_on = {
            "settings": digest([*FIXED, *self.words, SETTINGS.read_text()], 12),
            "model": sha256(self.model / "model.safetensors"),
        }
        record = {"costs": {}} | begun(result, rests_on)
        for name, part in PARTS.items():
            if name not in record:
                print(f"{self.name}: {name}", flush=True)
                record["costs"][name], record[name] = part(self)
                store(result, record)

    def train(self) -> tuple[Any, Any]:
        """Train and run the exam; return its rates by both judges."""
        steps = 0 if self.row == "no_game" else 36
        start = f"warm_up.steps={{attacker: {steps}, defender: 0}}"
        cost = self.study.train(
            self.run.folder, self.model, *self.words, start, f"seed={self.seed}"
        )
        rounds = self.run.rounds()
        cost["game"] = round(sum(each.cpu_seconds for each in rounds), 1)
        exam = self.run.exam(len(rounds))
        assert exam
        assert exam.held_out_judge
        rates = {"words": exam.rates, "hidden": exam.held_out_judge.rates}
        shown = {judge: {n: r.to_json() for n, r in by.items()} for judge, by in rates.items()}
        return cost, {"rounds": len(rounds), **shown}

    def evaluate(self) -> tuple[Any, Any]:
        """Return rates on public prompts, and utility."""
        folder, prompts = self.study.root / "evals" / self.name, self.study.root / "prompts"
        tasks = {"harmbench": HARMBENCH, "strongreject": STRONGREJECT, "xstest": XSTEST}
        named = ",".join(f"{task}={prompts / file}" for task, file in tasks.items())
        judges = ",".join(map(str, self.study.judges))
        checkpoints = self.run.checkpoints
        adapter = checkpoints.path(checkpoints.at(None)) / "defender"
        cost = self.study.sparring(
            *("eval", self.model),
            *(["--no-base", "--adapter", adapter] if self.row in GAMES else ()),
            *("--tasks", named, "--judge", judges, "--max-completion-length", 80, "--utility"),
            *("--calibration", self.study.root / "calibration.json", "--output", folder),
            *(["--resume"] if folder.exists() else ()),
        )
        results = json.loads((folder / "results.json").read_bytes())
        rows = [*results["results"], *results["utility"]]
        return cost, {row["name"]: public(row) for row in rows}

    def attack(self) -> tuple[Any, Any]:
        """Return ASR of attacks without training, at few queries, on the first held-out seeds."""
        costs, families = list[Any](), dict[str, Any]()
        for family, budget in SEARCHES.items():
            words = ("attack", self.run.folder, "--families", family, *budget)
            costs.append(self.study.sparring(*words))
            evidence = json.loads(self.run.path("evidence", "attack.json").read_bytes())
            families |= {name: evidence["families"][name] for name in family.split(",")}
        total = round(sum(cost["cpu_seconds"] for cost in costs), 1)
        return {"cpu_seconds": total, "peak_gib": max(c["peak_gib"] for c in costs)}, families

    def exploit(self) -> tuple[Any, Any]:
        """Return the curve of the run's attacker, trained on against the frozen defender."""
        budget = ("--attackers", "own", "--steps", 4, "--n", 64)
        cost = self.study.sparring("exploit", self.run.folder, *budget)
        return cost, json.loads(self.run.path("evidence", "exploit.json").read_bytes())


PARTS = {"exam": Cell.train, "eval": Cell.evaluate, "attack": Cell.attack, "exploit": Cell.exploit}


def public(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rate of an evaluation as it is stored: without the texts about its judges."""
    second = (row.get("second") or {}).get("second")
    rates = {"corrected": row.get("corrected"), "second": second}
    return {
        **{key: row.get(key) for key in ("value", "ci95", "n_total", "n_scored", "unscored")},
        **{name: rate and {k: rate[k] for k in ("value", "ci95")} for name, rate in rates.items()},
    }


Figure = Callable[[Mapping[str, Any]], float | None]


def exam(rate: str) -> Figure:
    """A rate of the exam on own held-out pairs, by the judge that pays."""
    return lambda cell: cell["exam"]["words"][rate]["value"]


def prompts(rate: str, corrected: bool = False) -> Figure:
    """A rate of `sparring eval`, perhaps without the judge's errors."""

    def figure(cell: Mapping[str, Any]) -> float | None:
        row = cell["eval"][rate]
        return (row["corrected"] or {"value": None})["value"] if corrected else row["value"]

    return figure


def fallen(family: str) -> Figure:
    """The share of seeds about which an attack of a family succeeded within all of its queries."""
    return lambda cell: list(cell["attack"][family]["asr"].values())[-1]["value"]


TABLES: Sequence[Mapping[str, Figure]] = (
    {
        "as they stand": exam("asr/plain"),
        "held-out families": exam("asr/adversarial"),
        "own attacker, trained on": lambda cell: cell["exploit"]["attackers"]["own"]["asr"][-1][
            "value"
        ],
        "draws, 8 queries": fallen("draws"),
        "prefill, 8 queries": fallen("prefill"),
        "gradient, 4 queries": fallen("gradient"),
        "HarmBench": prompts("asr/harmbench"),
        "StrongREJECT": prompts("asr/strongreject"),
        "XSTest, not refused": prompts("asr/xstest"),
    },
    {
        "own benign refused": exam("over_refusal/plain"),
        "in families": exam("over_refusal/wrapped"),
        "XSTest's safe refused": prompts("over_refusal/xstest"),
        "own benign answered": exam("correct/plain"),
        "agreement": prompts("utility/agreement"),
        "reading": prompts("utility/reading"),
        "CPU minutes of the game": lambda cell: cell["costs"]["exam"]["game"] / 60,
        "of its attacks": lambda cell: sum(
            cell["costs"][part]["cpu_seconds"] / 60 for part in ("attack", "exploit")
        ),
        "peak GiB": lambda cell: cell["costs"]["exam"]["peak_gib"],
    },
    {
        name: prompts(rate, corrected=True)
        for name, rate in {
            "HarmBench": "asr/harmbench",
            "StrongREJECT": "asr/strongreject",
            "XSTest, not refused": "asr/xstest",
            "XSTest's safe refused": "over_refusal/xstest",
        }.items()
    },
)
"""Success of attacks; what safety costs, and computing; the public rates without judge's errors."""


def tables(results: Path) -> list[str]:
    """Return the stored figures as tables: the mean over seeds, and the least and the most."""
    lines: list[str] = []
    stored = {row: [*results.glob(f"{row}-[0-9]*.json")] for row in ("raw", "aligned", *GAMES)}
    cells = {
        row: [json.loads(path.read_bytes()) for path in paths] for row, paths in stored.items()
    }
    for columns in TABLES:
        lines += [f"| | seeds | {' | '.join(columns)} |", "|---|" + "--:|" * (len(columns) + 1)]
        for row, own in cells.items():
            done = [cell for cell in own if all(part in cell for part in PARTS)]
            texts = [spread([figure(cell) for cell in done]) for figure in columns.values()]
            lines += [f"| {row} | {len(done)} | {' | '.join(texts)} |"] if done else []
        lines.append("")
    codes = {cell["code"] for own in cells.values() for cell in own}
    return [*lines, f"Played by code {', '.join(sorted(codes))}."]


def spread(values: Sequence[float | None]) -> str:
    """Return the mean, and the least and the most where there are several."""
    scored = [value for value in values if value is not None]
    if len(scored) < 2:
        return f"{scored[0]:.2f}" if scored else "–"
    return f"{fmean(scored):.2f} ({min(scored):.2f}–{max(scored):.2f})"


def main() -> None:
    """Play every cell that has not been played, seed by seed; or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, default=Path("runs/real"), help="of `scripts/real`")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the published files")
    parser.add_argument("--root", type=Path, default=Path("runs/real-table"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/real"))
    parser.add_argument("--rows", help="only these, by name, separated by commas")
    parser.add_argument("--seeds", default="1,2,3", help="only these")
    parser.add_argument("--jobs", type=int, default=2, help="at once, one thread each")
    parser.add_argument("--table", action="store_true", help="print what is stored")
    options = parser.parse_args()
    if options.table:
        print("\n".join(tables(options.results)))
        return
    study = Study(options.real.resolve(), options.data, options.root.resolve(), options.results)
    study.prepare()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    cells = [Cell(study, row, 0) for row in chosen(("raw", "aligned"), options.rows)]
    cells += [Cell(study, row, seed) for seed in seeds for row in chosen(GAMES, options.rows)]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(Cell.play, cells))


if __name__ == "__main__":
    main()
