"""Figures over rounds: what happened live, what exams measured, and whose turn it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from math import nan
from statistics import fmean
from typing import Any

import yaml

from sparring.report import plots
from sparring.report.plots import Drawing, Theme
from sparring.report.run_report import Points, RunReport, headline_key
from sparring.stats.rates import Rate

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

    @property
    def judges(self) -> Sequence[bool]:
        """Return for every judge whose exam rates are drawn whether it is the held-out one."""
        return () if not self.exam else (False,) if self.exam == "unscored" else (False, True)


@cache
def _panels() -> Mapping[str, Sequence[FigurePanel]]:
    groups: Mapping[str, Any] = yaml.safe_load(plots.packaged("panels.yaml"))
    return {group: [FigurePanel(**panel) for panel in panels] for group, panels in groups.items()}


def panels(group: str, runs: Sequence[RunReport]) -> list[Drawing]:
    """Return the figures of a group that any of the runs has something for."""
    return [_drawing(p, runs) for p in _panels()[group] if any(_has(p, run) for run in runs)]


def _has(panel: FigurePanel, run: RunReport) -> bool:
    exams = panel.exam != "unscored" and _exams(panel, run)
    return bool(exams) or any(metric in run.curves for metric in panel.live)


def differ(runs: Sequence[RunReport]) -> bool:
    """Say whether the runs' turns are not the same, so that one shading cannot stand for all."""
    return len({run.turns for run in runs}) > 1


def shade(axes: Any, turns: Sequence[str], theme: Theme, low: float, high: float) -> None:
    """Tint the rounds by who learned, between two heights as shares of the axes."""
    look = {"transform": axes.get_xaxis_transform(), "lw": 0, "zorder": 0.5, "clip_on": high <= 1}
    for player, colour in (("attacker", theme.attacker), ("defender", theme.defender)):
        spans = [(start, stop - start) for who, start, stop in blocks(turns) if who == player]
        axes.broken_barh(spans, (low, high - low), color=colour, **look)


def blocks(turns: Sequence[str]) -> list[tuple[str, float, float]]:
    """Return (who learned, from, to) in rounds; of more than MOST, who learned most in a block."""
    size = block_of(len(turns)) if sum(1 for _ in groupby(turns)) > MOST else 1
    grouped = [turns[i : i + size] for i in range(0, len(turns), size)]
    most = [max(sorted(set(group)), key=group.count) for group in grouped]
    spans, start = [], 0
    for who, run in groupby(most):
        stop = min(start + size * len(list(run)), len(turns))
        spans.append((who, start + 0.5, stop + 0.5))
        start = stop
    return spans


def block_of(rounds: int) -> int:
    """Return how many rounds are averaged into one point."""
    return max(1, -(-rounds // MOST))


def _exams(
    panel: FigurePanel, run: RunReport, held_out: bool = False
) -> list[tuple[int, Rate, str]]:
    """Return (rounds, rate, its set) of every exam that has the panel's rate, scored."""
    exams = []
    for exam in run.exams:
        judge = exam.held_out_judge if held_out else exam
        rates = judge.rates if judge else {}
        key = headline_key(rates, panel.exam) or ""
        rate = _unscored(rates.values()) if panel.exam == "unscored" else rates.get(key)
        if rate is not None and rate.value is not None:
            exams.append((exam.rounds, rate, key.partition("/")[2]))
    return exams


def _unscored(rates: Collection[Rate]) -> Rate | None:
    """Return the share of an exam's items that was not scored; None where it had no items."""
    total = sum(rate.n_total for rate in rates)
    share = 1 - sum(rate.n_scored for rate in rates) / total if total else 0.0
    return Rate(share, None, "count", total, total, 0, (share, share)) if total else None


def _drawing(panel: FigurePanel, runs: Sequence[RunReport]) -> Drawing:
    def draw(figure: Any, theme: Theme) -> None:
        handles = _handles(panel, runs, theme)
        top = 0.3 + 0.17 * -(-len(handles) // 3)
        axes = plots.axes_in(figure, theme, panel.title, (0.42, top, 0.12, 0.36))
        for place, run in enumerate(runs):
            # the whole height for all, or a lane at the foot for each
            lane = (0.045 * place, 0.045 * (place + 1)) if differ(runs) else (0.0, 1.0)
            shade(axes, run.turns, theme, *lane)
            _lines(axes, panel, run, theme, theme.colour(place) if len(runs) > 1 else "")
        last = max(1, *(len(run.turns) for run in runs))
        axes.set_xlim(-0.015 * last, 1.015 * last + 0.5)
        # From 0 to the first round number above the data: no range makes noise look big.
        top = axes.dataLim.y1
        shares = next((t for t in (0.1, 0.25, 0.5) if top <= t * 0.96), 1.02)
        axes.set_ylim(0, shares if panel.share else max(1.0, top * 1.08))
        axes.set_xlabel("rounds played", fontsize=7, labelpad=2)
        if handles:
            plots.legend(figure, handles, [h.get_label() for h in handles], handlelength=1.8)

    return Drawing(panel.name, _in_words(panel, runs), draw, panel.caption)


def _lines(axes: Any, panel: FigurePanel, run: RunReport, theme: Theme, colour: str) -> None:
    """Draw a run's live metrics and exams; `colour` is the run's, where there are several."""
    for place, metric in enumerate(panel.live):
        points = run.curves.get(metric, ())
        own = colour or (theme.muted if panel.exam else theme.colour(place))
        if panel.dots:
            shown = points[:: max(1, len(points) // MOST)]
            axes.plot([done for done, _ in shown], [v for _, v in shown], ".", color=own, ms=3.5)
            continue
        x, y, alone = _averaged(points, block_of(len(run.turns)))
        style = plots.STYLES[place % len(plots.STYLES)] if colour else "-"
        look = {"alpha": 0.6 if panel.exam and colour else 1.0, "marker": "." if alone else None}
        axes.plot(x, y, ls=style, ms=2.5, color=own, lw=1.0, **look)
    for held_out in panel.judges:
        if exams := [(rounds, rate) for rounds, rate, _ in _exams(panel, run, held_out)]:
            plots.with_intervals(axes, exams, colour or theme.series[held_out], held_out)


def _handles(panel: FigurePanel, runs: Sequence[RunReport], theme: Theme) -> list[Any]:
    """Return legend handles: runs by colour, metrics by colour (one run) or style (several)."""
    from matplotlib.lines import Line2D

    many = len(runs) > 1
    looks: list[dict[str, Any]] = [
        {"color": theme.colour(place), "lw": 2, "label": plots.label(run.label, 20)}
        for place, run in enumerate(runs if many else ())
    ]
    for place, (metric, text) in enumerate(panel.live.items()):
        if any(metric in run.curves for run in runs):
            own = theme.muted if many or panel.exam else theme.colour(place)
            style = "" if panel.dots else plots.STYLES[place % len(plots.STYLES)] if many else "-"
            marker = "." if panel.dots else None
            looks.append({"color": own, "lw": 1, "label": text, "ls": style, "marker": marker})
    for held_out in panel.judges:
        if sets := [name for run in runs for *_, name in _exams(panel, run, held_out)]:
            text = f"exam, {plots.label(sets[0], 14)}" if sets[0] else "exam"
            text += " (held-out judge)" if held_out else ""
            own = theme.muted if many else theme.series[held_out]
            style, face = ("--", theme.paper) if held_out else ("-", own)
            look = {"color": own, "ls": style, "mfc": face, "marker": "o", "ms": 3.4}
            looks.append({"label": text, **look})
    return [Line2D([], [], **look) for look in looks]


def _in_words(panel: FigurePanel, runs: Sequence[RunReport]) -> str:
    """Return the figure in words, for whoever cannot see it."""
    words = []
    for run in runs:
        series = {text: run.curves.get(metric, ()) for metric, text in panel.live.items()}
        values = {text: [value for _, value in points] for text, points in series.items()}
        values["exam"] = [rate.value or 0.0 for _, rate, _ in _exams(panel, run)]
        for text, numbers in values.items():
            if numbers:
                words.append(f"{run.label}, {text}: {numbers[0]:.3f} → {numbers[-1]:.3f}")
    return f"{panel.title}. " + "; ".join(words)


def _averaged(points: Points, size: int) -> tuple[list[float], list[float], bool]:
    """Return means over blocks of `size` rounds, with a gap wherever a block has no point.

    Also whether any point stands alone, so that a line would not show it.
    """
    groups = groupby(points, key=lambda point: (point[0] - 1) // size)
    members = {block: list(group) for block, group in groups}
    spread = range(min(members), max(members) + 1) if members else ()
    rows = [members.get(block, [(nan, nan)]) for block in spread]
    alone = any(block - 1 not in members and block + 1 not in members for block in members)
    x, y = ([fmean(point[axis] for point in row) for row in rows] for axis in (0, 1))
    return x, y, alone
