"""The tables of benchmarks/real_table.py, from what it stored.

A rate on prompts is pooled over the seeds of a row, and its 95 % interval counts prompts, not
games: it says where other prompts might bring it, and not where other runs might. It stands beside
its difference from `aligned` on the same prompts, and beside the rate that it would be without its
judge's errors (Rogan and Gladen), whose interval has those errors in it. Of attacks and costs there
are the mean over seeds, the least and the most.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sparring.evals.judging import read_calibrations, without_errors
from sparring.stats.agreement import Corrected
from sparring.stats.paired import compare
from sparring.stats.rates import Outcome, Rate, rate

ROWS = ("raw", "aligned", "no_game", "defender_only", "magic", "ssp", "magic_hardened")
PARTS = ("exam", "eval", "attack", "exploit")
Cell = Mapping[str, Any]
Item = tuple[int, str, str]
"""Which run of a row, which rate, which prompt."""
OWN, PUBLIC = "exam", "eval"
FAMILIES = "*"
"""Stands for every family of the exam, and not the requests as they stand."""
SUCCESS = {
    "own, as they stand": (OWN, "asr/plain"),
    "own, in held-out families": (OWN, "asr/*"),
    "HarmBench": (PUBLIC, "asr/harmbench"),
    "StrongREJECT": (PUBLIC, "asr/strongreject"),
    "XSTest, not refused": (PUBLIC, "asr/xstest"),
}
BENIGN = {
    "own benign refused": (OWN, "over_refusal/plain"),
    "in held-out families": (OWN, "over_refusal/*"),
    "XSTest's safe refused": (PUBLIC, "over_refusal/xstest"),
    "own benign answered": (OWN, "correct/plain"),
}


def outcomes(
    cells: Sequence[Cell], part: str, name: str, judge: str = "won"
) -> dict[Item, Outcome]:
    """Return every game of a rate, of all runs of a row; the games about a prompt are a cluster."""
    metric, wanted = name.split("/", 1)
    items = {}
    for run, cell in enumerate(cells):
        for stored, games in cell[part][judge].items():
            kind, family = stored.split("/", 1)
            if kind == metric and (family == wanted or (wanted == FAMILIES and family != "plain")):
                for prompt, happened in games.items():
                    items[run, stored, prompt] = Outcome(happened, prompt)
    return items


def pooled(cells: Sequence[Cell], part: str, name: str) -> Rate:
    """Return a rate over all runs of a row."""
    return rate([*outcomes(cells, part, name).values()])


def difference(cells: Sequence[Cell], base: Cell, part: str, name: str) -> str:
    """Return a row's rate minus that of the model that its games began with, prompt by prompt."""
    before = outcomes([base] * len(cells), part, name)
    paired = compare(before, outcomes(cells, part, name))
    if paired.difference is None or paired.ci95 is None:
        return "–"
    low, high = paired.ci95
    return f"{paired.difference:+.2f} [{low:+.2f}, {high:+.2f}]"


def shown(measured: Rate | Corrected | None) -> str:
    """Return a rate with its interval."""
    if measured is None or measured.value is None or measured.ci95 is None:
        return "–"
    return f"{measured.value:.2f} [{measured.ci95[0]:.2f}, {measured.ci95[1]:.2f}]"


def table(head: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the lines of a table, and an empty one after them."""
    lines = [f"| {head} | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    return [*lines, *(f"| {row} | {' | '.join(texts)} |" for row, texts in rows.items()), ""]


def on_prompts(
    cells: Mapping[str, Sequence[Cell]], rates: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    """Yield the table of some rates, and that of their differences from `aligned`."""
    sizes = [len(outcomes([next(iter(cells.values()))[0]], *which)) for which in rates.values()]
    columns = [f"{name}, n = {n}" for name, n in zip(rates, sizes, strict=True)]
    rows = {
        f"{row} ({len(own)})": [shown(pooled(own, *which)) for which in rates.values()]
        for row, own in cells.items()
    }
    yield from table("row (runs), n of a run", columns, rows)
    if base := cells.get("aligned"):
        rows = {
            row: [difference(own, base[0], *which) for which in rates.values()]
            for row, own in cells.items()
            if row != "aligned"
        }
        yield from table("minus aligned", list(rates), rows)


def without_judge_errors(cells: Mapping[str, Sequence[Cell]], calibration: Path) -> Iterator[str]:
    """Yield how often the judge that pays errs, and the rates as they would be without that."""
    measured = [c for c in read_calibrations(calibration) if c.judge.startswith("linear/words")]
    own = {each.field: each for each in measured}
    rates = {**SUCCESS, **{name: BENIGN[name] for name in list(BENIGN)[:3]}}
    rows = {
        row: [
            shown(without_errors(name, pooled(runs, part, name), own))
            for part, name in rates.values()
        ]
        for row, runs in cells.items()
    }
    yield from table("without the judge's errors", list(rates), rows)
    for each in own.values():
        yield f"{each}."
    yield ""


def by_the_other_judge(cells: Mapping[str, Sequence[Cell]]) -> Iterator[str]:
    """Yield rates by the judge that never pays: of the exam the mean of runs, else pooled."""
    exams = {
        "own, in held-out families": "asr/adversarial",
        "refused there": "over_refusal/wrapped",
    }
    prompts = {
        "HarmBench": "asr/harmbench",
        "StrongREJECT": "asr/strongreject",
        "XSTest, not refused": "asr/xstest",
        "XSTest's safe refused": "over_refusal/xstest",
    }
    rows = {
        row: [
            *(
                spread([cell["exam"]["hidden"][name]["value"] for cell in own])
                for name in exams.values()
            ),
            *(
                shown(rate([*outcomes(own, PUBLIC, name, "hidden").values()]))
                for name in prompts.values()
            ),
        ]
        for row, own in cells.items()
    }
    yield from table("by the judge that never pays", [*exams, *prompts], rows)


Figure = Callable[[Cell], float | None]


def fallen(family: str) -> Figure:
    """The share of seeds about which an attack of a family succeeded within all of its queries."""
    return lambda cell: list(cell["attack"][family]["asr"].values())[-1]["value"]


ATTACKS: Mapping[str, Figure] = {
    "draws, 16 queries": fallen("draws"),
    "prefill, 16": fallen("prefill"),
    "gradient, 4": fallen("gradient"),
    "own attacker": lambda cell: cell["exploit"]["attackers"]["own"]["asr"][0]["value"],
    "trained on": lambda cell: cell["exploit"]["attackers"]["own"]["asr"][-1]["value"],
}
COSTS: Mapping[str, Figure] = {
    "agreement": lambda cell: cell["eval"]["utility"]["utility/agreement"]["value"],
    "reading": lambda cell: cell["eval"]["utility"]["utility/reading"]["value"],
    "rounds": lambda cell: cell["exam"]["rounds"],
    "CPU minutes of the game": lambda cell: cell["costs"]["exam"]["game"] / 60,
    "of its attacks": lambda cell: sum(
        cell["costs"][part]["cpu_seconds"] / 60 for part in ("attack", "exploit")
    ),
    "peak GiB": lambda cell: cell["costs"]["exam"]["peak_gib"],
}


def spread(values: Sequence[float | None]) -> str:
    """Return the mean, and the least and the most where there are several."""
    scored = [value for value in values if value is not None]
    if len(scored) < 2:
        return f"{scored[0]:.2f}" if scored else "–"
    return f"{fmean(scored):.2f} ({min(scored):.2f}–{max(scored):.2f})"


def finished(results: Path) -> dict[str, list[Cell]]:
    """Return the stored cells of every row, without those that are under way."""
    stored = {
        row: [json.loads(path.read_bytes()) for path in sorted(results.glob(f"{row}-[0-9]*.json"))]
        for row in ROWS
    }
    whole = {row: [c for c in own if all(p in c for p in PARTS)] for row, own in stored.items()}
    return {row: own for row, own in whole.items() if own}


def tables(results: Path) -> list[str]:
    """Return the stored figures as tables."""
    cells = finished(results)
    if not cells:
        return ["Nothing has been played to its end."]
    lines = [*on_prompts(cells, SUCCESS), *on_prompts(cells, BENIGN)]
    for figures in (ATTACKS, COSTS):
        rows = {
            row: [spread([figure(cell) for cell in own]) for figure in figures.values()]
            for row, own in cells.items()
        }
        lines += table("mean (least–most) of runs", list(figures), rows)
    lines += by_the_other_judge(cells)
    if (calibration := results / "calibration.json").is_file():
        lines += without_judge_errors(cells, calibration)
    codes = {cell["code"] for own in cells.values() for cell in own}
    return [*lines, f"Played by code {', '.join(sorted(codes))}."]
