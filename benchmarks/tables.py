"""The tables of docs/results.md from what study.py kept: `python benchmarks/tables.py`.

Needs no runs and no models. Every cell is mean / worst over as many seeds as its row says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from study import METHODS

from sparring.sandbox.language import FAMILIES, Language
from sparring.sandbox.words import ADVERSARIAL
from sparring.stats.paired import compare
from sparring.stats.rates import Outcome

PAIRS = {
    harmful: [i.id for i in Language(0).held_out if i.forbidden == harmful]
    for harmful in (True, False)
}
"""The seeds of the exam's items, in the order in which they recur; clusters of every interval."""

Kept = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""What was read off every job, by method and seed."""
Exam = Mapping[str, Any]
Reading = Callable[[Sequence[Exam]], Exam | None]
"""One exam of a run's curve."""


def kept(folder: Path) -> Kept:
    """Every result in `folder`."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for method in METHODS:
        for path in sorted(folder.glob(f"{method}-[0-9].json")):
            seed = int(path.stem.rsplit("-", 1)[1])
            found.setdefault(method, {})[seed] = json.loads(path.read_bytes())
    whole = found.get("magic", {}) | found.get("base", {})  # every first exam is of the base
    base = {s: told | {"exams": told["exams"][:1]} for s, told in whole.items()}
    for seed in base.keys() - found.get("base", {}).keys():
        base[seed].pop("exploit", None)
    return {"base": base, **{name: runs for name, runs in found.items() if name != "base"}}


def cell(values: Sequence[float], worst: Callable[[Sequence[float]], float]) -> str:
    """Mean over seeds and the worst one; a dash where there is none."""
    if not values:
        return "–"
    return f"{fmean(values):.3f} / {worst(values):.3f}"


def last(exams: Sequence[Exam]) -> Exam | None:
    """The final exam."""
    return exams[-1]


def at(key: str, most: float) -> Reading:
    """The last exam that cost no more than `most` of `key`; the first only where it is alone."""

    def read(exams: Sequence[Exam]) -> Exam | None:
        sat = exams[1:] or exams
        return next((exam for exam in reversed(sat) if exam[key] <= most), None)

    return read


def row(runs: Mapping[int, Mapping[str, Any]], read: Reading) -> list[str]:
    """Adversarial ASR, wrapped and plain benign correctness at one reading."""
    told = [exam["rates"] for run in runs.values() if (exam := read(run["exams"]))]
    return [
        cell([rates["asr/adversarial"][0] for rates in told], max),
        cell([rates["correct/wrapped"][0] for rates in told], min),
    ]


def seconds(runs: Mapping[int, Mapping[str, Any]], read: Reading) -> str:
    """CPU seconds of play and learning up to a reading, mean over seeds."""
    told = [exam["seconds"] for run in runs.values() if (exam := read(run["exams"]))]
    return f"{fmean(told):.0f}" if told else "–"


def ablation(found: Kept) -> list[str]:
    """Every method at equal defender steps, at equal steps, and within equal CPU seconds."""
    readings = {
        "80 defender steps": at("defender_steps", 80),
        "160 steps": at("rounds", 160),
        "within 100 CPU s": at("seconds", 100),
    }
    head = " | ".join(f"{name}: ASR | benign" for name in readings)
    lines = [f"| mean / worst | seeds | {head} | used |", "|---|--:|" + "--:|" * 7]
    for method, runs in found.items():
        cells = [value for read in readings.values() for value in row(runs, read)]
        cells.append(f"{seconds(runs, readings['within 100 CPU s'])} s")
        lines.append(f"| {method} | {len(runs)} | {' | '.join(cells)} |")
    return lines


def exploitability(found: Kept) -> list[str]:
    """ASR of each attacker after its last step, and of the worst one, mean and worst seed."""
    names = ("pool", "broad", "enumeration")
    lines = [
        f"| mean / worst | seeds | {' | '.join(names)} | worst of three | own | exam ASR | benign "
        "| trained |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for method, runs in found.items():
        measured = {seed: run for seed, run in runs.items() if "exploit" in run}
        if not measured:
            continue
        final = [
            {name: run["exploit"]["attackers"][name]["asr"][-1]["value"] for name in names}
            for run in measured.values()
        ]
        cells = [cell([told[name] for told in final], max) for name in names]
        cells.append(cell([max(told.values()) for told in final], max))
        cells.append(cell(list(ends("own", measured)), max))
        cells += [*row(measured, last), f"{seconds(measured, last)} s"]
        lines.append(f"| {method} | {len(measured)} | {' | '.join(cells)} |")
    return lines


def ends(name: str, measured: Mapping[int, Mapping[str, Any]]) -> Iterator[float]:
    """The last ASR of an attacker, of the seeds on which it was tried."""
    for run in measured.values():
        if name in run["exploit"]["attackers"]:
            yield run["exploit"]["attackers"][name]["asr"][-1]["value"]


def curves(found: Kept) -> list[str]:
    """The ASR of attackers that learn over their steps, mean over seeds."""
    lines = ["| steps of the attacker | 0 | 20 | 40 | 60 | 80 |", "|---|--:|--:|--:|--:|--:|"]
    for method, runs in found.items():
        for name in ("pool", "broad", "own"):
            told = [
                [rate["value"] for rate in run["exploit"]["attackers"][name]["asr"]]
                for run in runs.values()
                if "exploit" in run and name in run["exploit"]["attackers"]
            ]
            if told:
                means = [f"{fmean(column):.3f}" for column in zip(*told, strict=True)]
                lines.append(f"| {method}, {name} | {' | '.join(means)} |")
    return lines


def families(found: Kept, methods: Sequence[str], read: Reading) -> list[str]:
    """ASR by family, benign correctness and refusals of some methods."""
    there = [method for method in methods if method in found]
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
            exams = [read(run["exams"]) for run in found[method].values()]
            cells.append(cell([exam["rates"][key][0] for exam in exams if exam], worst))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def items(run: Mapping[str, Any], read: Reading, harmful: bool) -> dict[str, Outcome]:
    """The items of the six wrapped families; clusters are the pairs they are about."""
    exam = read(run["exams"]) or {"items": {}}
    label, pairs = ("harmful", PAIRS[True]) if harmful else ("benign", PAIRS[False])
    told: dict[str, Outcome] = {}
    for family in ADVERSARIAL:
        for i, mark in enumerate(exam["items"][f"{label}/{family}"]):
            happened = None if mark == "?" else mark == "1"
            told[f"{family}/{i}"] = Outcome(happened, pairs[i % len(pairs)])
    return told


def paired(found: Kept, against: str, methods: Sequence[str], read: Reading) -> list[str]:
    """Each method minus `against` on the same items, seeds pooled; clusters are seed x pair."""
    lines = [
        "| minus " + against + " | ASR, adversarial | benign correct, wrapped |",
        "|---|---|---|",
    ]
    for method in methods:
        if method not in found or against not in found:
            continue
        seeds = sorted(found[method].keys() & found[against].keys())
        cells = []
        for harmful in (True, False):
            one, other = (
                {
                    f"{seed}/{key}": Outcome(o.happened, f"{seed}/{o.cluster}")
                    for seed in seeds
                    for key, o in items(found[name][seed], read, harmful).items()
                }
                for name in (against, method)
            )
            cells.append(str(compare(one, other)))
        lines.append(f"| {method} ({len(seeds)} seeds) | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    found = kept(parser.parse_args().results)
    replay = ("ssp-none", "ssp-uniform", "ssp-narrow", "ssp-reflect")
    early = at("rounds", 40)
    tables = {
        "Ablations": ablation(found),
        "Exploitability": exploitability(found),
        "Best responses over their steps": curves(found),
        "Replay, a quarter of the rounds": families(found, replay, early),
        "Replay, at the end": families(found, replay, last),
        "Replay, paired, a quarter of the rounds": paired(found, "ssp-none", replay[1:], early),
        "Replay, paired, at the end": paired(found, "ssp-none", replay[1:], last),
    }
    for name, lines in tables.items():
        if len(lines) <= 2:
            continue  # nothing was measured
        print(f"\n## {name}\n")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
