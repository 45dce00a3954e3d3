"""The study behind docs/results.md: `python benchmarks/study.py` continues where it stopped.

A job is one method on one seed: its base (shared by all methods of that seed), one run with its
exams, and the measured best response to its last defender. The figures of a job are stored in
`benchmarks/results/<method>-<seed>.json`, so the tables need no runs and a job is never done twice.
Comparisons at equal defender steps, equal total steps and equal seconds are all read from one exam
curve.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.store.files import sha256
from sparring.store.folder import RunDir

LATEST = "memory.league.opponents=latest"
NARROW = ("warm_up.pool=narrow", "game.diversity=0", LATEST)
BROAD = ("warm_up.pool=broad", "game.diversity=0", LATEST)
DIVERSE = ("warm_up.pool=narrow", LATEST)
MANY = ("warm_up.pool_encodings=0.2",)
UNIFORM = ("memory.league.opponents=uniform",)
UCB = ("memory.experience.sampler=ucb",)
METHODS: Mapping[str, Sequence[str]] = {
    "base": ("magic", "rounds=1"),
    "magic": ("magic",),
    "magic-narrow": ("magic", *NARROW),
    "defender_only-narrow": ("defender_only", *NARROW),
    "ssp": ("ssp",),
    "ssp-narrow": ("ssp", *NARROW),
    "magic-diverse": ("magic", *DIVERSE),
    "magic-broad": ("magic", *BROAD),
    "defender_only": ("defender_only", *BROAD),
    "no_game": ("no_game",),
    "magic-latest": ("magic", LATEST),
    "magic-league": ("magic", *NARROW, *UNIFORM),
    "magic-nash": ("magic", *NARROW, "memory.league.opponents=nash"),
    "magic-replay": ("magic", *NARROW, *UCB),
    "ssp-league": ("ssp", *NARROW, *UNIFORM),
    "ssp-none": ("ssp", *NARROW, "memory.experience.sampler=none"),
    "ssp-uniform": ("ssp", *NARROW, "memory.experience.sampler=uniform"),
    "ssp-reflect": ("ssp", *NARROW, "memory.experience.reflect=true"),
    "ssp-diverse": ("ssp", *DIVERSE),
    "self_redteam": ("self_redteam", *NARROW),
    "defender_only-20": ("defender_only", *NARROW, *MANY),
    "magic-20": ("magic", *NARROW, *MANY),
    "magic-league-20": ("magic", *NARROW, *UNIFORM, *MANY),
    "magic-replay-20": ("magic", *NARROW, *UCB, *MANY),
    "ssp-20": ("ssp", *NARROW, *MANY),
    "self_redteam-20": ("self_redteam", *NARROW, *MANY),
    "defender_only-timed": ("defender_only", *BROAD, "rounds=420", "exam.every=140"),
    "magic-narrow-timed": ("magic", *NARROW, "rounds=310", "exam.every=155"),
    "ssp-timed": ("ssp", "rounds=115", "exam.every=115"),
    "ssp-narrow-timed": ("ssp", *NARROW, "rounds=250", "exam.every=125"),
    "magic_hardened": ("magic_hardened", "exam.every=0"),
    "ssp_hardened": ("ssp_hardened", "exam.every=0"),
    "magic-both": ("magic", "schedule.kind=both", LATEST),
    "magic-wide": ("magic", "learner.num_generations={attacker: 8, defender: 16}"),
    "magic-shared": ("magic", "weights=shared", "warm_up.chat=0.5", "warm_up.steps=375"),
}
"""The recipe and settings of each method. Of `base`, only the exam before its round counts.

A name without a suffix is a recipe with its defaults. Those of magic and ssp include the broad
attack pool and the diversity term, and that of magic the league too. A frozen attacker has no use
for the last two, and self_redteam runs on the narrow pool.

`magic-both`, `-wide` and `-shared` vary what MAGIC and SSP differ in: who learns in a round, the
replies to an attack, and shared weights. The others vary one thing about the narrow pool. `-20`
encodes a fifth of the pool instead of 4 %; `-timed` plays as many rounds as take the computing time
of 160 rounds of `magic`.
"""
EXPLOITED = [name for name in METHODS if not name.endswith("-20")]
SPARRING = (sys.executable, "-c", "from sparring.cli import main; main()")


@dataclass(frozen=True)
class Job:
    """One method, trained from the base of one seed."""

    method: str
    seed: int
    root: Path
    results: Path
    redraw: bool = False
    attackers: str = ""

    @property
    def language(self) -> int:
        """The seed of the language: 0, or redrawn with the base and the run."""
        return self.seed if self.redraw else 0

    @property
    def base(self) -> Path:
        return self.root / f"base-{self.language}-{self.seed}"

    @property
    def run(self) -> RunDir:
        return RunDir(self.root / f"{self.method}-{self.seed}")

    @property
    def result(self) -> Path:
        return self.results / f"{self.method}-{self.seed}.json"

    def finish(self, exploit: bool) -> None:
        """Do whatever of this job has not been done, and store its figures."""
        record = json.loads(self.result.read_bytes()) if self.result.is_file() else {}
        if "exams" not in record:
            self._train()
            record |= read_off(self.run) | {"base": self.base_digest()}
            self._write(record)
        if exploit and "exploit" not in record and self.method in EXPLOITED:
            self._train()
            words = [str(self.run.folder), f"--cache={self.root}/warm-{self.seed}"]
            words += ["--attackers", self.attackers] if self.attackers else []
            call(*SPARRING, "exploit", *words, *(["--at=0"] if self.method == "base" else []))
            evidence = self.run.folder / "evidence" / "exploit.json"
            self._write(record | {"exploit": json.loads(evidence.read_bytes())})

    def base_digest(self) -> str:
        """sha256 of the base's weights, which differ in bits between kinds of machine."""
        return sha256(self.base / "model.safetensors")

    def check(self) -> None:
        """Refuse to set a method beside others that were trained from another base."""
        for path in self.results.glob(f"*-{self.seed}.json"):
            other = json.loads(path.read_bytes())["base"]
            if other != self.base_digest():
                raise SystemExit(
                    f"{path} rests on another base of seed {self.seed} than {self.base}: bases "
                    "differ between kinds of machine; do all methods on one, into other --results"
                )

    def _train(self) -> None:
        folder, (recipe, *words) = self.run.folder, METHODS[self.method]
        begun = (folder / "config.yaml").is_file()
        if begun and self.run.status.status == "complete":
            return
        models = [f"{who}.model_name_or_path={self.base}" for who in ("attacker", "defender")]
        resume = "--resume" if begun else "--no-resume"
        fixed = [f"output_dir={folder}", f"seed={self.seed}", "exam.every=40", "exam.crossplay=0"]
        call(*SPARRING, "train", recipe, resume, *fixed, *models, *words)

    def _write(self, record: Mapping[str, Any]) -> None:
        self.result.parent.mkdir(parents=True, exist_ok=True)
        made = self.result.with_suffix(".tmp")
        made.write_text(json.dumps(record) + "\n", "utf-8")
        made.replace(self.result)


def call(*words: str) -> None:
    """Run one command in its own process; its output is only shown if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[3:])}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def read_off(run: RunDir) -> dict[str, Any]:
    """A run's exams with their defender steps, rounds and CPU seconds, and curves of its metrics.

    Every exam but the first also has the outcome of each of its items.
    """
    rounds = run.rounds()
    exams = []
    for number in run.exams():
        past = rounds[:number]
        results = run.exam(number)
        rates = {
            name: [rate.value, *(rate.ci95 or (None, None)), rate.n_scored]
            for name, rate in (results.rates if results else {}).items()
        }
        exams.append(
            {
                "rounds": number,
                "defender_steps": sum("defender" in record.learns for record in past),
                "seconds": round(sum(record.cpu_seconds for record in past), 1),
                "rates": rates,
                "items": dict(_items(run, number)) if number else {},
            }
        )
    curve_names = ("asr", "strategy/combination", "diversity", "replay/share", "replay/size")
    curves = {
        name: [round(r.metrics[name], 3) if name in r.metrics else None for r in rounds]
        for name in curve_names
        if any(name in r.metrics for r in rounds)
    }
    return {"exams": exams, "curves": curves}


def _items(run: RunDir, number: int) -> Iterator[tuple[str, str]]:
    """The items of an exam by set, one character each.

    1: the attack succeeded, or the benign seed was answered correctly; 0: it was not; ?: unscored.
    """
    path = run.folder / "exams" / run.checkpoints.name(number) / "samples.jsonl.gz"
    sets: dict[str, list[str]] = {}
    for line in gzip.decompress(path.read_bytes()).splitlines():
        row = json.loads(line)
        verdict, harmful = row["verdict"], row["seed"]["harmful"]
        outcome = verdict.get("reply_harm") != "safe" if harmful else verdict.get("helpful")
        sets.setdefault(row["set"], []).append("?" if outcome is None else str(int(outcome)))
    yield from ((name, "".join(items)) for name, items in sets.items())


def build_base(job: Job) -> None:
    """Build the base of the job's seed unless it exists."""
    if not (job.base / "sandbox.json").is_file():
        seeds = ("--seed", str(job.seed), "--language-seed", str(job.language))
        call(sys.executable, "-m", "sparring.sandbox.build", str(job.base), *seeds)


def main() -> None:
    """Do every job that has not been done, seed by seed, so that all methods have as many seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--root", type=Path, default=Path("runs/study"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--jobs", type=int, default=2, help="at once, one thread each")
    parser.add_argument("--no-exploit", action="store_true")
    parser.add_argument("--attackers", default="", help="of sparring exploit; default: its own")
    parser.add_argument("--redraw", action="store_true", help="each seed has its own language")
    arguments = parser.parse_args()
    jobs = [
        Job(
            method,
            int(seed),
            arguments.root,
            arguments.results,
            arguments.redraw,
            arguments.attackers,
        )
        for seed in arguments.seeds.split(",")
        for method in arguments.methods.split(",")
    ]
    bases = {job.seed: job for job in jobs if not job.result.is_file()}.values()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(build_base, bases))
    for job in bases:
        job.check()

    def run(job: Job) -> None:
        job.finish(not arguments.no_exploit)
        print(f"{job.method} {job.seed}: done", flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run, jobs))


if __name__ == "__main__":
    main()
