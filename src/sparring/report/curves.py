"""Figures over rounds: what happened live, what exams said, and whose turn it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from statistics import fmean
from typing import Any

import yaml

from sparring.report.plots import (
    STYLES,
    Drawing,
    Theme,
    axes_in,
    label,
    legend,
    packaged,
    with_intervals,
)
from sparring.report.run_report import Points, RunReport, headline_key
from sparring.stats.rates import Rate
from sparring.store.records import ExamResults

MOST = 300
"""Points of a curve, and turns, that are drawn; more are averaged in equal blocks of rounds."""


@dataclass(frozen=True, slots=True)
class FigurePanel:
    """One small figure, as `templates/panels.yaml` describes it."""

    name: str
    title: str
    live: Mapping[str, str]
    exam: str = ""
    caption: str = ""
    share: bool = True
    dots: bool = False


@cache
def _panels() -> Mapping[str, Sequence[FigurePanel]]:
    groups: Mapping[str, Any] = yaml.safe_load(packaged("panels.yaml"))
    return {group: [FigurePanel(**panel) for panel in panels] for group, panels in groups.items()}


def panels(group: str, runs: Sequence[RunReport]) -> list[Drawing]:
    """Return the figures of a group that any of the runs has something for."""
    return [_drawing(p, runs) for p in _panels()[group] if any(_has(p, run) for run in runs)]


def _has(panel: FigurePanel, run: RunReport) -> bool:
    exams = panel.exam and panel.exam != "unscored" and any(_exam(panel, run))
    return bool(exams) or any(metric in run.curves for metric in panel.live)


def differ(runs: Sequence[RunReport]) -> bool:
    """Say whether the runs' turns are not the same, so that one shading cannot stand for all."""
    return len({run.turns for run in runs}) > 1


def shade(
    axes: Any,
    turns: Sequence[str],
    theme: Theme,
    lane: tuple[int, int] = (0, 1),
    height: tuple[float, float] | None = None,
) -> None:
    """Tint the rounds by who learned.

    The whole height for one run, a lane at the foot for each of several; or between two heights,
    as shares of the axes.
    """
    place, lanes = lane
    low, high = height or ((0.0, 1.0) if lanes == 1 else (0.045 * place, 0.045 * (place + 1)))
    for player, colour in (("attacker", theme.attacker), ("defender", theme.defender)):
        axes.broken_barh(
            [(start, stop - start) for who, start, stop in blocks(turns) if who == player],
            (low, high - low),
            transform=axes.get_xaxis_transform(),
            color=colour,
            lw=0,
            zorder=0.5,
            clip_on=height is None,
        )


def blocks(turns: Sequence[str]) -> list[tuple[str, float, float]]:
    """Return (who learned, from, to) in rounds; of more than MOST, who learned most in a block."""
    size = block_of(len(turns)) if sum(1 for _ in groupby(turns)) > MOST else 1
    grouped = [turns[i : i + size] for i in range(0, len(turns), size)]
    most = [max(sorted(set(group)), key=group.count) for group in grouped]
    spans, at = [], 0
    for who, run in groupby(most):
        stop = min(at + size * len(list(run)), len(turns))
        spans.append((who, at + 0.5, stop + 0.5))
        at = stop
    return spans


def block_of(rounds: int) -> int:
    """Return how many rounds are averaged into one point."""
    return max(1, -(-rounds // MOST))


def _exam(panel: FigurePanel, run: RunReport, held_out: bool = False) -> Iterator[tuple[int, Rate]]:
    """Yield (rounds, rate) of every exam that has the panel's rate, scored."""
    for exam in run.exams:
        rates = _rates(exam, held_out)
        if panel.exam == "unscored":
            rate = _unscored(exam) if not held_out else None
        else:
            rate = rates.get(headline_key(rates, panel.exam) or "")
        if rate is not None and rate.value is not None:
            yield exam.rounds, rate


def _rates(exam: ExamResults, held_out: bool) -> Mapping[str, Rate]:
    judge = exam.held_out_judge if held_out else exam
    return judge.rates if judge else {}


def _unscored(exam: ExamResults) -> Rate | None:
    """Return the share of an exam's items that was not scored; None where it had no items."""
    total = sum(rate.n_total for rate in exam.rates.values())
    left = total - sum(rate.n_scored for rate in exam.rates.values())
    share = left / total if total else 0.0
    return Rate(share, None, "count", total, total, 0, (share, share)) if total else None


def _drawing(panel: FigurePanel, runs: Sequence[RunReport]) -> Drawing:
    def draw(figure: Any, theme: Theme) -> None:
        handles = _handles(panel, runs, theme)
        top = 0.3 + 0.17 * -(-len(handles) // 3)
        axes = axes_in(figure, theme, panel.title, (0.42, top, 0.12, 0.36))
        apart = differ(runs)
        for place, run in enumerate(runs):
            shade(axes, run.turns, theme, (place, len(runs)) if apart else (0, 1))
            _lines(axes, panel, run, theme, theme.colour(place) if len(runs) > 1 else "")
        last = max(1, *(len(run.turns) for run in runs))
        axes.set_xlim(-0.015 * last, 1.015 * last + 0.5)
        _limit(axes, panel)
        axes.set_xlabel("rounds played", fontsize=7, labelpad=2)
        if handles:
            legend(figure, handles, [h.get_label() for h in handles], handlelength=1.8)

    return Drawing(panel.name, _in_words(panel, runs), draw, panel.caption)


def _lines(axes: Any, panel: FigurePanel, run: RunReport, theme: Theme, colour: str) -> None:
    """Draw a run's live metrics and exams; `colour` is the run's, where there are several."""
    for place, metric in enumerate(panel.live):
        points = run.curves.get(metric, ())
        own = colour or _metric_colour(panel, place, theme)
        if panel.dots:
            drawn = points[:: max(1, len(points) // MOST)]
            axes.plot([at for at, _ in drawn], [v for _, v in drawn], ".", color=own, ms=3.5)
            continue
        x, y, alone = _averaged(points, block_of(len(run.turns)))
        style = STYLES[place % len(STYLES)] if colour else "-"
        faint = 0.6 if panel.exam and colour else 1.0
        marker = "." if alone else None
        axes.plot(x, y, ls=style, marker=marker, ms=2.5, color=own, lw=1.0, alpha=faint)
    for held_out in (False, True) if panel.exam else ():
        if exams := list(_exam(panel, run, held_out)):
            with_intervals(axes, exams, colour or theme.series[held_out], held_out)


def _metric_colour(panel: FigurePanel, place: int, theme: Theme) -> str:
    return theme.muted if panel.exam else theme.colour(place)


def _handles(panel: FigurePanel, runs: Sequence[RunReport], theme: Theme) -> list[Any]:
    """Return legend handles: runs by colour, metrics by colour (one run) or style (several)."""
    from matplotlib.lines import Line2D

    many = len(runs) > 1
    handles = [
        Line2D([], [], color=theme.colour(i), lw=2, label=label(run.label, 20))
        for i, run in enumerate(runs if many else ())
    ]
    for place, (metric, text) in enumerate(panel.live.items()):
        if any(metric in run.curves for run in runs):
            own = theme.muted if many else _metric_colour(panel, place, theme)
            look: dict[str, Any] = {"ls": STYLES[place % len(STYLES)] if many else "-"}
            look = {"ls": "", "marker": "."} if panel.dots else look
            handles.append(Line2D([], [], color=own, lw=1, label=text, **look))
    for held_out in (False, True) if panel.exam else ():
        keys = [key for run in runs for key in _exam_sets(panel, run, held_out)]
        if keys:
            text = f"exam, {label(keys[0], 14)}" if keys[0] else "exam"
            own = theme.muted if many else theme.series[held_out]
            look = {"ls": "--", "mfc": theme.paper} if held_out else {"ls": "-", "mfc": own}
            text += " (held-out judge)" if held_out else ""
            handles.append(Line2D([], [], color=own, label=text, marker="o", ms=3.4, **look))
    return handles


def _exam_sets(panel: FigurePanel, run: RunReport, held_out: bool) -> list[str]:
    """Return the sets that stand for the panel's rate in a run's exams."""
    if panel.exam == "unscored":
        return [""] * (not held_out)
    keys = [headline_key(_rates(exam, held_out), panel.exam) for exam in run.exams]
    return [key.split("/", 1)[1] for key in keys if key]


def _limit(axes: Any, panel: FigurePanel) -> None:
    """From 0 to the first round number above the data; never a range that makes noise look big."""
    top = axes.dataLim.y1
    if panel.share:
        axes.set_ylim(0, next((t for t in (0.1, 0.25, 0.5) if top <= t * 0.96), 1.02))
    else:
        axes.set_ylim(0, max(1.0, top * 1.08))


def _in_words(panel: FigurePanel, runs: Sequence[RunReport]) -> str:
    """Return the figure in words, for whoever cannot see it."""
    words = []
    for run in runs:
        lines = {text: run.curves.get(metric, ()) for metric, text in panel.live.items()}
        for text, points in lines.items():
            if points:
                words.append(f"{run.label}, {text}: {points[0][1]:.3f} → {points[-1][1]:.3f}")
        exams = list(_exam(panel, run)) if panel.exam else []
        if exams:
            words.append(f"{run.label}, exam: {exams[0][1].value:.3f} → {exams[-1][1].value:.3f}")
    return f"{panel.title}. " + "; ".join(words)


def _averaged(points: Points, size: int) -> tuple[list[float], list[float], bool]:
    """Return means over blocks of `size` rounds, with a gap wherever a block has no point.

    Also whether any point stands alone, so that a line would not show it.
    """
    x: list[float] = []
    y: list[float] = []
    last, length, alone = None, 0, False
    for block, group in groupby(points, key=lambda point: (point[0] - 1) // size):
        members = list(group)
        if last is not None and block > last + 1:
            x.append(float("nan"))
            y.append(float("nan"))
            alone, length = alone or length == 1, 0
        x.append(fmean(at for at, _ in members))
        y.append(fmean(value for _, value in members))
        last, length = block, length + 1
    return x, y, alone or length == 1
