"""Safety against helpfulness of several models: ASR against over-refusal, with intervals."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sparring.evals.results import Results
from sparring.evals.tasks import EVERY_BENIGN
from sparring.report.plots import COLUMN, LIGHT, Drawing, Theme, images, label
from sparring.stats.rates import Rate, grouped
from sparring.store.files import write_atomic

PANELS = 6
"""Harmful sets of one figure; results.json has all."""


class Point(NamedTuple):
    """One model: both rates are better where they are lower."""

    model: str
    over_refusal: Rate
    asr: Rate

    @property
    def at(self) -> tuple[float, float]:
        return self.over_refusal.value or 0.0, self.asr.value or 0.0


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in one rate without losing in the other."""
    places = {point.at for point in points}
    return [
        point
        for point in points
        if not any(x <= point.at[0] and y <= point.at[1] for x, y in places - {point.at})
    ]


def panels(finished: Results) -> dict[str, list[Point]]:
    """Return, by harmful set, a point for each model that has both rates."""
    benign = [m for m in finished.measured if m.reported.metric == "over_refusal"]
    groups = [m.reported.group for m in benign if len(finished.spec.names) > 1]
    group = EVERY_BENIGN if EVERY_BENIGN in groups else next(iter(groups), "")
    scored = [m for m in finished.measured if m.rate.value is not None]
    refusals = {m.model: m.rate for m in benign if m.reported.group == group and m in scored}
    sets = grouped(
        (m.reported.group.split("/", 1)[1], Point(m.model, refusals[m.model], m.rate))
        for m in scored
        if m.reported.metric == "asr" and m.model in refusals
    )
    return dict(islice(sets.items(), PANELS))


def pareto(sets: Mapping[str, Sequence[Point]]) -> Drawing:
    """Return the figure: a panel for each harmful set, filled dots for the front."""
    rows, columns = (len(sets) + 2) // 3, min(len(sets), 3)

    def draw(figure: Any, theme: Theme) -> None:
        for place, (name, points) in enumerate(sets.items(), 1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set_title(label(name, 30), fontsize=9, color=theme.ink, loc="left")
            _panel(axes, theme, points)
        figure.subplots_adjust(left=0.14 / columns + 0.02, bottom=0.14, wspace=0.3, hspace=0.4)

    words = "; ".join(
        f"{name}: " + ", ".join(f"{p.model} {p.asr} against {p.over_refusal}" for p in points)
        for name, points in sets.items()
    )
    alt = f"ASR against over-refusal. {words}"
    caption = (
        "Lines are 95 % intervals. Filled: no other model is better in one rate and at least as "
        "good in the other."
    )
    return Drawing("pareto", alt, draw, caption, COLUMN * columns, 3.4 * rows)


def _panel(axes: Any, theme: Theme, points: Sequence[Point]) -> None:
    best = front(points)
    for place, point in enumerate(points):
        colour, (x, y) = theme.colour(place), point.at
        axes.plot(point.over_refusal.ci95 or (x, x), (y, y), color=colour, lw=1.2, alpha=0.6)
        axes.plot((x, x), point.asr.ci95 or (y, y), color=colour, lw=1.2, alpha=0.6)
        fill = colour if point in best else theme.paper
        axes.plot(x, y, "o", ms=5, mfc=fill, mec=colour, label=label(point.model, 34), zorder=3)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel("over-refusal (lower is better)", fontsize=7)
    axes.set_ylabel("ASR (lower is better)", fontsize=7)
    axes.legend(loc="upper right", fontsize=6)


def drawn(finished: Results) -> list[Path]:
    """Write `pareto.svg` and `pareto.png` beside results of several models; return their paths."""
    sets = {name: points for name, points in panels(finished).items() if len(points) > 1}
    if not sets:
        return []
    kinds = ("svg", "png")
    paths = [finished.folder.folder / f"pareto.{kind}" for kind in kinds]
    for path, data in zip(paths, images(pareto(sets), LIGHT, kinds), strict=True):
        write_atomic(path, data)
    return paths
