"""Plays recipes on SmolLM2-135M-Instruct, and examines and attacks what each of them trained.

    python benchmarks/real_table.py --real runs/real --data data
    python benchmarks/real_table.py --table

The model, an attack pool and lessons are in the folder that `scripts/real` makes; the data are the
files of HarmBench, StrongREJECT and XSTest that `sparring eval` knows. What is done is not done
again, so the same command goes on where it was stopped. A cell is one row with one seed: a run with
its exam on own held-out pairs, public prompts and utility (`sparring eval`), attacks without
training (`sparring attack`), and the run's attacker trained on (`sparring exploit`). Figures are in
`<results>/<row>-<seed>.json`, with the settings, the model and the code that they rest on, and
whether each prompt's game was won; no text is stored there.

`raw` is the model as it is; `aligned` has imitated lessons in refusing, merged into its weights,
and every game begins with it. The games have three seeds each; their rounds are to take the same
computing time, but all except MAGIC's are estimates, so compare the CPU minutes in the table. Of
HarmBench a hundred prompts are drawn once; of XSTest those are taken that no shipped judge was
fitted to. They are written under `--root` alone. The costs of a part that was interrupted count
from its last start; those of the game's rounds are complete.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from real_figures import tables
from study import SPARRING, begun, call, chosen, play, store

from sparring.door import sha256
from sparring.evals.folder import EvalDir, key_of
from sparring.exam import outcome, outcomes
from sparring.games.codec import state_of
from sparring.judges.linear import LinearJudge
from sparring.store.files import digest
from sparring.store.folder import RunDir, read_games
from sparring.types import State

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "scripts" / "real.yaml"
LABELLED = ROOT / "benchmarks" / "labelled" / "smollm2-tuning.jsonl"
EVEN = (
    "schedule.every={attacker: 4, defender: 8}",
    "learner.seeds_per_round={attacker: 16, defender: 32}",
)
GAMES: Mapping[str, Sequence[str]] = {
    "no_game": ("recipe=no_game", "data.as_they_stand=1", *EVEN, "rounds=22"),
    "defender_only": ("recipe=defender_only", *EVEN, "rounds=18"),
    "magic": (*EVEN, "rounds=20"),
    "ssp": (
        "recipe=ssp",
        "weights=shared",
        "game.payoff=magic",
        "learner.seeds_per_round=16",
        "rounds=10",
    ),
    "magic_hardened": (
        "recipe=magic_hardened",
        *EVEN,
        "data.as_they_stand=0",
        "schedule.harden_after=12",
        "schedule.attack=4",
        "schedule.window=1",
        "schedule.dwell=[2, 6]",
        "rounds=20",
    ),
}
"""The games; rounds are to take the time of MAGIC's twenty, and all but its own are estimates.

The judges that ship give no score, so SSP is paid by MAGIC's table here. Hardening wants every
request rewritten, where the other games send a third as they stand.
"""
FIXED = ("exam.every=0", "exam.n=40", "saving.checkpoint_every=4")
SEARCHES: Mapping[str, Sequence[object]] = {
    "draws,prefill": ("--queries", 16, "--limit", 32),
    "gradient": ("--queries", 4, "--limit", 12, "--gradient-steps", 2),
}
EXPLOIT = ("--attackers", "own", "--steps", 4, "--n", 96)
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
        card = self.results / "calibration.json"
        if not card.exists():
            self.results.mkdir(parents=True, exist_ok=True)
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

    def train(self, run: Path, model: Path, *words: str) -> dict[str, float]:
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

    def sparring(self, *words: object) -> dict[str, float]:
        """Run one command with one thread; return its CPU seconds and its peak memory in GiB."""
        return call(*SPARRING, *words, log=self.root / "log.txt")[1]


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
        settings = [*FIXED, *self.words, SETTINGS.read_text(), SEARCHES, EXPLOIT, PROMPTS]
        model = sha256(self.model / "model.safetensors")
        record = {"costs": {}} | begun(result, {"settings": digest(settings, 12), "model": model})
        for name, part in PARTS.items():
            if name not in record:
                print(f"{self.name}: {name}", flush=True)
                record["costs"][name], record[name] = part(self)
                store(result, record)

    def train(self) -> tuple[dict[str, float], Any]:
        """Train and run the exam; return who won each of its games, by both judges."""
        start = "warm_up.steps={attacker: 36, defender: 0}"
        own = (*self.words, start, f"seed={self.seed}")
        cost = self.study.train(self.run.folder, self.model, *own)
        rounds = self.run.rounds()
        cost["game"] = round(sum(each.cpu_seconds for each in rounds), 1)
        exam = self.run.exam(len(rounds))
        assert exam
        assert exam.held_out_judge
        sets: dict[str, dict[str, State]] = {}
        for name, game in read_games(self.run.exam_games(len(rounds))):
            if not name.endswith("/rewritten"):  # attacks of this run's own attacker
                sets.setdefault(name, {})[game.state.seed.id] = game.state
        hidden = {name: rate.to_json() for name, rate in exam.held_out_judge.rates.items()}
        return cost, {"rounds": len(rounds), "won": won(sets), "hidden": hidden}

    def evaluate(self) -> tuple[dict[str, float], Any]:
        """Return who won each game on public prompts, by both judges, and utility."""
        folder, prompts = self.study.root / "evals" / self.name, self.study.root / "prompts"
        tasks = {"harmbench": HARMBENCH, "strongreject": STRONGREJECT, "xstest": XSTEST}
        named = ",".join(f"{task}={prompts / file}" for task, file in tasks.items())
        checkpoints = self.run.checkpoints
        adapter = checkpoints.path(checkpoints.at(None)) / "defender"
        cost = self.study.sparring(
            *("eval", self.model),
            *(["--no-base", "--adapter", adapter] if self.row in GAMES else ()),
            *("--tasks", named, "--judge", ",".join(map(str, self.study.judges))),
            *("--max-completion-length", 80, "--utility", "--output", folder),
            *(["--resume"] if folder.exists() else ()),
        )
        evaluation = EvalDir(folder)
        rows = list(evaluation.samples.rows())
        by_judge: dict[str, dict[str, dict[str, bool | None]]] = {}
        for judge, ruling in {"won": "verdict", "hidden": "second"}.items():
            games = [(key_of(row), state_of(row, ruling)) for row in rows]
            by_judge[judge] = {
                reported.name: {
                    f"{place}": outcome(state, reported.question).happened
                    for (_, name, place, _), state in games
                    if name in reported.members
                }
                for reported in evaluation.spec.sheet.rates()
            }
        stored = json.loads((folder / "results.json").read_bytes())["utility"]
        utility = {
            row["name"]: {k: row[k] for k in ("value", "ci95", "n_scored")} for row in stored
        }
        return cost, by_judge | {"utility": utility}

    def attack(self) -> tuple[dict[str, float], Any]:
        """Return ASR of attacks without training, at few queries, on the first held-out seeds."""
        costs, families = list[dict[str, float]](), dict[str, Any]()
        for family, budget in SEARCHES.items():
            words = ("attack", self.run.folder, "--families", family, *budget)
            costs.append(self.study.sparring(*words))
            evidence = json.loads(self.run.path("evidence", "attack.json").read_bytes())
            families |= {name: evidence["families"][name] for name in family.split(",")}
        total = round(sum(cost["cpu_seconds"] for cost in costs), 1)
        return {"cpu_seconds": total, "peak_gib": max(c["peak_gib"] for c in costs)}, families

    def exploit(self) -> tuple[dict[str, float], Any]:
        """Return the curve of the run's attacker, trained on against the frozen defender."""
        cost = self.study.sparring("exploit", self.run.folder, *EXPLOIT)
        return cost, json.loads(self.run.path("evidence", "exploit.json").read_bytes())


PARTS = {"exam": Cell.train, "eval": Cell.evaluate, "attack": Cell.attack, "exploit": Cell.exploit}


def won(sets: Mapping[str, Mapping[str, State]]) -> dict[str, dict[str, bool | None]]:
    """Return whether each game of a rate counts for it, by rate and prompt; None is unscored."""
    named = outcomes(sets, {}, LinearJudge.fills)
    return {
        rate: {key.rsplit("/", 1)[1]: item.happened for key, item in items.items()}
        for rate, items in named.items()
    }


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
    play([(cell.name, cell.play) for cell in cells], options.jobs)


if __name__ == "__main__":
    main()
