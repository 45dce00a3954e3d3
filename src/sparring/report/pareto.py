"""Safety against helpfulness of several models: ASR over over-refusal, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.evals.finish import Finished
from sparring.evals.results import Measured
from sparring.evals.sheet import EVERY_BENIGN
from sparring.report.layout import COLUMN, Drawing
from sparring.report.plots import LIGHT, Theme, images, label
from sparring.stats.rates import Rate
from sparring.store.files import write_atomic

PANELS = 6
"""Harmful sets of one figure; results.json has all."""


@dataclass(frozen=True, slots=True)
class Point:
    """One model: both rates are better where they are lower."""

    model: str
    over_refusal: Rate
    asr: Rate

    @property
    def at(self) -> tuple[float, float]:
        return self.over_refusal.value or 0.0, self.asr.value or 0.0


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in one rate without losing in the other."""
    return [p for p in points if not any(_dominates(other.at, p.at) for other in points)]


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def panels(told: Finished) -> dict[str, list[Point]]:
    """By harmful set, a point for each model that has both rates."""
    benign = [one for one in told.measured if one.told.metric == "over_refusal"]
    groups = [one.told.group for one in benign if len(told.models) > 1]
    group = next((g for g in groups if g == EVERY_BENIGN), groups[0] if groups else "")
    refusals = {one.model: one.rate for one in benign if one.told.group == group}
    found: dict[str, list[Point]] = {}
    for one in told.measured:
        point = _point(one, refusals) if one.told.metric == "asr" else None
        if point:
            found.setdefault(one.told.group.split("/", 1)[1], []).append(point)
    return dict(list(found.items())[:PANELS])


def _point(one: Measured, refusals: dict[str, Rate]) -> Point | None:
    other = refusals.get(one.model)
    if other is None or other.value is None or one.rate.value is None:
        return None
    return Point(one.model, other, one.rate)


def pareto(told: dict[str, list[Point]]) -> Drawing:
    """The figure: a panel for each harmful set, filled dots for the front."""

    def draw(figure: Any, theme: Theme) -> None:
        for place, (name, points) in enumerate(told.items()):
            _panel(figure, theme, (place, len(told)), name, points)

    words = "; ".join(
        f"{name}: " + ", ".join(f"{p.model} {p.asr} against {p.over_refusal}" for p in points)
        for name, points in told.items()
    )
    return Drawing(
        "pareto",
        f"ASR against over-refusal. {words}",
        draw,
        "Lines are 95 % intervals. Filled: no other model is better in one and as good in both.",
        width=COLUMN * min(len(told), 3),
        height=3.4 * ((len(told) + 2) // 3),
    )


def _panel(
    figure: Any, theme: Theme, place: tuple[int, int], name: str, points: Sequence[Point]
) -> None:
    at, n = place
    axes = figure.add_subplot((n + 2) // 3, min(n, 3), at + 1)
    axes.set_title(label(name, 30), fontsize=9, color=theme.ink, loc="left")
    best = front(points)
    for i, point in enumerate(points):
        colour, (x, y) = theme.series[i % len(theme.series)], point.at
        for rate, along in ((point.over_refusal, True), (point.asr, False)):
            low, high = rate.ci95 or (rate.value, rate.value)
            ends = ((low, high), (y, y)) if along else ((x, x), (low, high))
            axes.plot(*ends, color=colour, lw=1.2, alpha=0.6)
        fill = colour if point in best else theme.paper
        axes.plot(x, y, "o", ms=5, mfc=fill, mec=colour, label=label(point.model, 34), zorder=3)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("over-refusal (lower is better)", fontsize=7)
    axes.set_ylabel("ASR (lower is better)", fontsize=7)
    axes.legend(loc="upper right", fontsize=6)
    figure.subplots_adjust(left=0.14 / min(n, 3) + 0.02, bottom=0.14, wspace=0.3, hspace=0.4)


def drawn(told: Finished) -> list[Path]:
    """`pareto.svg` and `pareto.png` beside the results, where there is something to compare."""
    found = {name: points for name, points in panels(told).items() if len(points) > 1}
    if not found:
        return []
    written = []
    for kind, data in zip(
        ("svg", "png"), images(pareto(found), LIGHT, ("svg", "png")), strict=True
    ):
        path = told.folder.folder / f"pareto.{kind}"
        write_atomic(path, data)
        written.append(path)
    return written
