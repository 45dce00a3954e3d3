"""Print the tables of docs/results.md from the figures of study.py: `python benchmarks/tables.py`.

This needs no runs and no models. A cell is the mean / the worst over as many seeds as its row says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from study import METHODS

from sparring.sandbox.language import FAMILIES
from sparring.stats.paired import compare
from sparring.stats.rates import Outcome

PAIRS, EARLIER = {"harmful": 96, "benign": 96}, {"harmful": 16, "benign": 48}
"""After how many items of a set its seeds recur, which are the clusters of the intervals; and in
the smaller world that results were measured in before there were stacks of three parts.
"""

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""The figures of every job, by method and seed."""
Exam = Mapping[str, Any]
Reading = Callable[[Sequence[Exam]], Exam | None]
"""Picks one exam of a run's curve, or None."""


def read_results(folder: Path) -> Results:
    """Every result in `folder`."""
    results: dict[str, dict[int, Mapping[str, Any]]] = {}
    for method in METHODS:
        for path in sorted(folder.glob(f"{method}-[0-9].json")):
            seed = int(path.stem.rsplit("-", 1)[1])
            results.setdefault(method, {})[seed] = json.loads(path.read_bytes())
    whole = results.get("magic", {}) | results.get("base", {})  # every first exam is of the base
    base = {s: result | {"exams": result["exams"][:1]} for s, result in whole.items()}
    for seed in base.keys() - results.get("base", {}).keys():
        base[seed].pop("exploit", None)
    return {"base": base, **{name: runs for name, runs in results.items() if name != "base"}}


def cell(values: Sequence[float], worst: Callable[[Sequence[float]], float]) -> str:
    """The mean over seeds and the worst value; a dash where there are no values."""
    if not values:
        return "–"
    return f"{fmean(values):.3f} / {worst(values):.3f}"


def last(exams: Sequence[Exam]) -> Exam | None:
    """The final exam."""
    return exams[-1]


def at(key: str, most: float) -> Reading:
    """Picks the last exam whose `key` is at most `most`; the first only if it is the only one."""

    def read(exams: Sequence[Exam]) -> Exam | None:
        sat = exams[1:] or exams
        return next((exam for exam in reversed(sat) if exam[key] <= most), None)

    return read


def row(runs: Mapping[int, Mapping[str, Any]], read: Reading) -> list[str]:
    """Adversarial ASR and wrapped benign correctness at one reading."""
    rates_by_run = [exam["rates"] for run in runs.values() if (exam := read(run["exams"]))]
    return [
        cell([rates["asr/adversarial"][0] for rates in rates_by_run], max),
        cell([rates["correct/wrapped"][0] for rates in rates_by_run], min),
    ]


def seconds(runs: Mapping[int, Mapping[str, Any]], read: Reading) -> str:
    """CPU seconds of play and learning up to a reading, as the mean over seeds."""
    values = [exam["seconds"] for run in runs.values() if (exam := read(run["exams"]))]
    return f"{fmean(values):.0f}" if values else "–"


def ablation(results: Results) -> list[str]:
    """Every method at equal defender steps, at equal steps, and within equal CPU seconds."""
    readings = {
        "80 defender steps": at("defender_steps", 80),
        "160 steps": at("rounds", 160),
        "within 100 CPU s": at("seconds", 100),
    }
    head = " | ".join(f"{name}: ASR | benign" for name in readings)
    lines = [f"| mean / worst | seeds | {head} | used |", "|---|--:|" + "--:|" * 7]
    for method, runs in results.items():
        cells = [value for read in readings.values() for value in row(runs, read)]
        cells.append(f"{seconds(runs, readings['within 100 CPU s'])} s")
        lines.append(f"| {method} | {len(runs)} | {' | '.join(cells)} |")
    return lines


def exploitability(results: Results) -> list[str]:
    """ASR of each best-response attacker after its last step, and of the strongest of them."""
    names = ("pool", "broad", "enumeration", "own")
    lines = [
        f"| mean / worst | seeds | {' | '.join(names)} | worst | exam ASR | benign | trained |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for method, runs in results.items():
        measured = {seed: run for seed, run in runs.items() if "exploit" in run}
        if not measured:
            continue
        cells = [cell(list(ends(name, measured)), max) for name in names]
        attackers = [run["exploit"]["attackers"].values() for run in measured.values()]
        worst = [max(curve["asr"][-1]["value"] for curve in curves) for curves in attackers]
        cells.append(cell(worst, max))
        cells += [*row(measured, last), f"{seconds(measured, last)} s"]
        lines.append(f"| {method} | {len(measured)} | {' | '.join(cells)} |")
    return lines


def ends(name: str, measured: Mapping[int, Mapping[str, Any]]) -> Iterator[float]:
    """The final ASR of an attacker on each seed on which it was tried."""
    for run in measured.values():
        if name in run["exploit"]["attackers"]:
            yield run["exploit"]["attackers"][name]["asr"][-1]["value"]


def curves(results: Results) -> list[str]:
    """The ASR of best-response attackers by their training steps, as the mean over seeds."""
    lines = ["| steps of the attacker | 0 | 20 | 40 | 60 | 80 |", "|---|--:|--:|--:|--:|--:|"]
    for method, runs in results.items():
        for name in ("pool", "broad", "own"):
            asr_curves = [
                [rate["value"] for rate in run["exploit"]["attackers"][name]["asr"]]
                for run in runs.values()
                if "exploit" in run and name in run["exploit"]["attackers"]
            ]
            if asr_curves:
                means = [f"{fmean(column):.3f}" for column in zip(*asr_curves, strict=True)]
                lines.append(f"| {method}, {name} | {' | '.join(means)} |")
    return lines


def families(results: Results, methods: Sequence[str], read: Reading) -> list[str]:
    """ASR by family, benign correctness and over-refusal of some methods."""
    there = [method for method in methods if method in results]
    if len(there) < 2:
        return []
    lines = [f"| | {' | '.join(there)} |", "|---|" + "--:|" * len(there)]
    names = {f"asr/{family}": f"ASR, {family}" for family in ("adversarial", *FAMILIES)}
    for metric, title in (("correct", "benign correct"), ("over_refusal", "over-refusal")):
        names |= {f"{metric}/{family}": f"{title}, {family}" for family in ("wrapped", "plain")}
    for key, title in names.items():
        worst = min if key.startswith("correct") else max
        cells = []
        for method in there:
            exams = [read(run["exams"]) for run in results[method].values()]
            rates = [exam["rates"][key][0] for exam in exams if exam and key in exam["rates"]]
            cells.append(cell(rates, worst))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def items(run: Mapping[str, Any], read: Reading, harmful: bool) -> dict[str, Outcome]:
    """Outcomes of the items of the wrapped families; an item's cluster is its seed."""
    exam = read(run["exams"]) or {"items": {}}
    label = "harmful" if harmful else "benign"
    pairs = (PAIRS if f"{label}/stack of three" in exam["items"] else EARLIER)[label]
    outcomes: dict[str, Outcome] = {}
    for name, marks in exam["items"].items():
        if not name.startswith(label) or name.endswith("/plain"):
            continue
        for i, mark in enumerate(marks):
            happened = None if mark == "?" else mark == "1"
            outcomes[f"{name}/{i}"] = Outcome(happened, str(i % pairs))
    return outcomes


def paired(results: Results, against: str, methods: Sequence[str], read: Reading) -> list[str]:
    """Each method minus `against` on the same items, pooled over seeds.

    A cluster is an item's seed in one run.
    """
    lines = [
        "| minus " + against + " | ASR, adversarial | benign correct, wrapped |",
        "|---|---|---|",
    ]
    for method in methods:
        if method not in results or against not in results:
            continue
        seeds = sorted(results[method].keys() & results[against].keys())
        cells = []
        for harmful in (True, False):
            reference, compared = (
                {
                    f"{seed}/{key}": Outcome(o.happened, f"{seed}/{o.cluster}")
                    for seed in seeds
                    for key, o in items(results[name][seed], read, harmful).items()
                }
                for name in (against, method)
            )
            cells.append(str(compare(reference, compared)))
        lines.append(f"| {method} ({len(seeds)} seeds) | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    results = read_results(parser.parse_args().results)
    replay = ("ssp-none", "ssp-uniform", "ssp-narrow", "ssp-reflect")
    early = at("rounds", 40)
    tables = {
        "Ablations": ablation(results),
        "Exploitability": exploitability(results),
        "Best responses over their steps": curves(results),
        "Replay, a quarter of the rounds": families(results, replay, early),
        "Replay, at the end": families(results, replay, last),
        "Replay, paired, a quarter of the rounds": paired(results, "ssp-none", replay[1:], early),
        "Replay, paired, at the end": paired(results, "ssp-none", replay[1:], last),
    }
    for name, lines in tables.items():
        if len(lines) <= 2:
            continue  # nothing was measured
        print(f"\n## {name}\n")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
