"""The five-seed table: `python benchmarks/five_seeds.py` builds bases, trains, and tabulates.

Each seed has its own base model, attack pool and games. Finished runs stay on disk and are read
again, so the command can be repeated; anything after `--` is passed to `sparring train magic`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sparring.sandbox.language import FAMILIES
from sparring.stats.rates import Rate
from sparring.store.folder import RunDir
from sparring.store.records import RoundRecord

FROM_BASE = ["-c", "from sparring.cli import main; main()"]


@dataclass(frozen=True)
class Job:
    """The base model and the run of one seed."""

    seed: int
    language_seed: int
    root: Path
    label: str
    settings: Sequence[str]

    @property
    def base(self) -> Path:
        return self.root / f"base-{self.language_seed}-{self.seed}"

    @property
    def run(self) -> Path:
        return self.root / f"{self.label}-{self.language_seed}-{self.seed}"

    def finish(self) -> RunDir:
        """Build the base and train on it, except for what has been done already."""
        if not (self.base / "sandbox.json").is_file():
            seeds = ["--seed", str(self.seed), "--language-seed", str(self.language_seed)]
            _run("-m", "sparring.sandbox.build", str(self.base), *seeds)
        done = (self.run / "config.yaml").is_file()
        _run(
            *FROM_BASE,
            "train",
            "magic",
            "--resume" if done else "--no-resume",
            f"output_dir={self.run}",
            f"seed={self.seed}",
            f"defender.model_name_or_path={self.base}",
            f"attacker.model_name_or_path={self.base}",
            *self.settings,
        )
        return RunDir.open(self.run)


def _run(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=sys.stderr)


def _final(run: RunDir, which: int = -1) -> dict[str, Rate]:
    results = run.exam(run.exams()[which])
    return results.rates if results else {}


def _row(name: str, values: Sequence[float], worst: float) -> str:
    cells = " | ".join(f"{v:.3f}" for v in values)
    return f"| {name} | {cells} | **{fmean(values):.3f}** | {worst:.3f} |"


def exam_table(runs: Sequence[RunDir], seeds: Sequence[int]) -> list[str]:
    """ASR and benign correctness by attack family: a column a seed, their mean and the worst."""
    head = " | ".join(f"seed {seed}" for seed in seeds)
    lines = [f"| after training | {head} | mean | worst |", "|---|" + "--:|" * (len(seeds) + 2)]
    before = [_final(run, 0)["asr/adversarial"].value for run in runs]
    lines.append(_row("ASR, adversarial, before", before, min(before)))
    for family in ("adversarial", *FAMILIES):
        values = [_final(run)[f"asr/{family}"].value for run in runs]
        lines.append(_row(f"ASR, {family}", values, max(values)))
    benign = (("correct", "benign correct", min), ("over_refusal", "over-refusal", max))
    for metric, name, worst in benign:
        for family in ("wrapped", "plain"):
            values = [_final(run)[f"{metric}/{family}"].value for run in runs]
            lines.append(_row(f"{name}, {family}", values, worst(values)))
    return lines


def intervals(runs: Sequence[RunDir], seeds: Sequence[int]) -> list[str]:
    """The two headline rates with their 95 % intervals, a row a seed."""
    lines = ["| | ASR, adversarial | benign correct, wrapped |", "|---|---|---|"]
    for run, seed in zip(runs, seeds, strict=True):
        rates = [_final(run)[key] for key in ("asr/adversarial", "correct/wrapped")]
        cells = [
            f"{r.value:.3f} ({r.ci95[0]:.3f}–{r.ci95[1]:.3f}), n = {r.n_scored}" for r in rates
        ]
        lines.append(f"| seed {seed} | {' | '.join(cells)} |")
    return lines


def movement(runs: Sequence[RunDir], seeds: Sequence[int]) -> list[str]:
    """The share of rewrites that combine strategies, and two cells of the cross-play matrix.

    Which two cells are shown was fixed before the runs.
    """
    crossplays = [results.asr for run in runs if (results := run.crossplay())]
    if len(crossplays) < len(runs):
        return ["No cross-play was asked for (exam.crossplay=9 has every kept checkpoint)."]
    lines = [
        "| | combinations, first round | most at any round | warmed-up attacker against the "
        "defender after 10 of its rounds | attacker after 60 of its rounds against it |",
        "|---|--:|--:|---|---|",
    ]
    for run, seed, matrix in zip(runs, seeds, crossplays, strict=True):
        rounds = run.rounds()
        shares = [r.metrics.get("strategy/combination", 0.0) for r in rounds]
        defender = _after(rounds, "defender", 10, matrix)
        attacker = _after(rounds, "attacker", 60, matrix)
        cells = [_cell(matrix[row][defender]) for row in ("0", attacker)]
        lines.append(f"| seed {seed} | {shares[0]:.3f} | {max(shares):.3f} | {' | '.join(cells)} |")
    return lines


def _after(rounds: Sequence[RoundRecord], player: str, steps: int, matrix: Any) -> str:
    """The first checkpoint in the matrix by which `player` had learned in `steps` rounds."""
    steps_taken = 0
    for record in rounds:
        steps_taken += player in record.learns
        if steps_taken >= steps and str(record.round + 1) in matrix:
            return str(record.round + 1)
    raise SystemExit(f"no checkpoint after {steps} rounds of the {player} in the cross-play")


def _cell(rate: Rate) -> str:
    low, high = rate.ci95 or (float("nan"), float("nan"))
    return f"{rate.value:.3f} ({low:.2f}–{high:.2f})"


def main() -> None:
    """Finish every seed, then print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--language-seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=Path("runs/five-seeds"))
    parser.add_argument("--label", default="magic", help="name of this variant's runs")
    parser.add_argument("settings", nargs="*", help="passed on to sparring train magic")
    arguments = parser.parse_args()
    jobs = [
        Job(seed, arguments.language_seed, arguments.root, arguments.label, arguments.settings)
        for seed in arguments.seeds
    ]
    runs = [job.finish() for job in jobs]
    for table in (exam_table, intervals, movement):
        print("\n".join(table(runs, arguments.seeds)), end="\n\n")


if __name__ == "__main__":
    main()
