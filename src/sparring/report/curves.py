"""Figures over rounds: what happened live, what exams said, and whose turn it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from sparring.report.gather import Points, Sat, Story
from sparring.report.headline import headline_key
from sparring.report.layout import Drawing
from sparring.report.panels import Panel
from sparring.report.plots import STYLES, Theme, headed, inches, label
from sparring.report.reading import Rated
from sparring.report.shading import MOST, block_of, differ, shade


def panels(kinds: Sequence[Panel], stories: Sequence[Story]) -> tuple[Drawing, ...]:
    """The figures that any of the runs has something for."""
    return tuple(_drawing(p, stories) for p in kinds if any(_has(p, s) for s in stories))


def _has(panel: Panel, story: Story) -> bool:
    exams = panel.exam and panel.exam != "unscored" and any(_exam(panel, story))
    return bool(exams) or any(metric in story.curves for metric, _ in panel.live)


def _exam(panel: Panel, story: Story, held_out: bool = False) -> Iterator[tuple[int, Rated]]:
    """(rounds, rate) of every exam that has the panel's rate."""
    for sat in story.exams:
        if panel.exam == "unscored":
            yield from ((sat.rounds, rate) for rate in _unscored(sat))
            continue
        rates = sat.held_out if held_out else sat.rates
        key = headline_key(rates, panel.exam)
        if key and rates[key].value is not None:
            yield sat.rounds, rates[key]


def _unscored(sat: Sat) -> list[Rated]:
    """The share of an exam's items that was not scored; none where nothing was asked."""
    total = sum(rate.total for rate in sat.rates.values())
    left = total - sum(rate.n for rate in sat.rates.values())
    return [Rated(left / total, None, None, total, total)] if total else []


def _drawing(panel: Panel, stories: Sequence[Story]) -> Drawing:
    def draw(figure: Any, theme: Theme) -> None:
        handles = _legend(panel, stories, theme)
        rows = -(-len(handles) // 3)
        axes = inches(figure, 0.42, 0.3 + 0.17 * rows)
        headed(axes, panel.title, theme)
        apart = differ(stories)
        for place, story in enumerate(stories):
            shade(axes, story.turns, theme, (place, len(stories)) if apart else (0, 1))
            colour = theme.series[place % len(theme.series)] if len(stories) > 1 else ""
            _lines(axes, panel, story, theme, colour)
        last = max((story.rounds for story in stories), default=1)
        axes.set_xlim(-0.015 * max(1, last), 1.015 * max(1, last) + 0.5)
        _limit(axes, panel)
        axes.set_xlabel("rounds played", fontsize=7, labelpad=2)
        if handles:
            figure.legend(
                handles,
                [handle.get_label() for handle in handles],
                loc="upper left",
                bbox_to_anchor=(0.06 / figure.get_figwidth(), 1 - 0.22 / figure.get_figheight()),
                ncols=3,
                borderpad=0.2,
                columnspacing=1.2,
                handlelength=1.8,
            )

    return Drawing(panel.name, _told(panel, stories), draw, panel.caption)


def _lines(axes: Any, panel: Panel, story: Story, theme: Theme, colour: str) -> None:
    for place, (metric, _) in enumerate(panel.live):
        points = story.curves.get(metric, ())
        own = colour or _own_colour(panel, place, theme)
        if panel.dots:
            kept = points[:: max(1, len(points) // MOST)]
            axes.plot([at for at, _ in kept], [v for _, v in kept], ".", color=own, ms=3.5)
            continue
        x, y, alone = _broken(points, block_of(story.rounds))
        faint = 0.6 if panel.exam and colour else 1.0
        style = STYLES[place % len(STYLES)] if colour else "-"
        marker = "." if alone else None
        axes.plot(x, y, ls=style, marker=marker, ms=2.5, color=own, lw=1.0, alpha=faint)
    for held_out in (False, True):
        told = list(_exam(panel, story, held_out)) if panel.exam else []
        if told and not (held_out and panel.exam == "unscored"):
            with_intervals(axes, told, colour or theme.series[held_out], held_out)


def with_intervals(
    axes: Any, told: Sequence[tuple[float, Rated]], colour: str, hollow: bool = False
) -> None:
    """A curve of rates with their 95 % intervals: as bars, or as a band where they are many."""
    x = [at for at, _ in told]
    y = [rate.value or 0.0 for _, rate in told]
    low = [max(0.0, v - (v if r.low is None else r.low)) for v, (_, r) in zip(y, told, strict=True)]
    high = [
        max(0.0, (v if r.high is None else r.high) - v) for v, (_, r) in zip(y, told, strict=True)
    ]
    face: dict[str, Any] = {"mfc": axes.get_facecolor(), "ls": "--"} if hollow else {"ls": "-"}
    if len(told) > 40:
        ends = zip(y, low, high, strict=True)
        bottom, top = zip(*((v - down, v + up) for v, down, up in ends), strict=True)
        axes.fill_between(x, bottom, top, color=colour, alpha=0.25, lw=0)
        axes.plot(x, y, color=colour, lw=1.4, ls=face["ls"], zorder=3)
        return
    axes.errorbar(
        x,
        y,
        yerr=(low, high),
        fmt="o",
        ms=3.4,
        lw=1.4,
        elinewidth=0.9,
        color=colour,
        zorder=3,
        clip_on=False,
        **face,
    )


def _own_colour(panel: Panel, place: int, theme: Theme) -> str:
    return theme.muted if panel.exam else theme.series[place % len(theme.series)]


def _legend(panel: Panel, stories: Sequence[Story], theme: Theme) -> list[Any]:
    """Handles for runs by colour, and for metrics by colour (one run) or style (several)."""
    from matplotlib.lines import Line2D

    many = len(stories) > 1
    handles = [
        Line2D([], [], color=theme.series[i % len(theme.series)], lw=2, label=label(s.label, 20))
        for i, s in enumerate(stories if many else ())
    ]
    for place, (metric, told) in enumerate(panel.live):
        if any(metric in story.curves for story in stories):
            own = theme.muted if many else _own_colour(panel, place, theme)
            style = STYLES[place % len(STYLES)] if many else "-"
            look: dict[str, Any] = {"ls": "", "marker": "."} if panel.dots else {"ls": style}
            handles.append(Line2D([], [], color=own, lw=1, label=told, **look))
    for held_out, style in ((False, "-"), (True, "--")):
        if panel.exam and (panel.exam != "unscored" or not held_out):
            keys = [key for s in stories for key in _keys(panel, s, held_out)]
            if keys:
                told = f"exam, {label(keys[0], 14)}" if keys[0] else "exam"
                told += " (held-out judge)" if held_out else ""
                own = theme.muted if many else theme.series[held_out]
                look = {
                    "ls": style,
                    "marker": "o",
                    "ms": 3.4,
                    "mfc": theme.paper if held_out else own,
                }
                handles.append(Line2D([], [], color=own, label=told, **look))
    return handles


def _keys(panel: Panel, story: Story, held_out: bool) -> list[str]:
    if panel.exam == "unscored":
        return [""]
    found = [headline_key(s.held_out if held_out else s.rates, panel.exam) for s in story.exams]
    return [key.split("/", 1)[1] for key in found if key]


def _limit(axes: Any, panel: Panel) -> None:
    """From 0 to the first round number above the data; never a range that makes noise look big."""
    top = axes.dataLim.y1
    if panel.share:
        axes.set_ylim(0, next((t for t in (0.1, 0.25, 0.5) if top <= t * 0.96), 1.02))
    else:
        axes.set_ylim(0, max(1.0, top * 1.08))


def _told(panel: Panel, stories: Sequence[Story]) -> str:
    """The figure in words, for whoever cannot see it."""
    words = []
    for story in stories:
        for metric, told in panel.live:
            points = story.curves.get(metric)
            if points:
                words.append(f"{story.label}, {told}: {points[0][1]:.3f} → {points[-1][1]:.3f}")
        exams = list(_exam(panel, story)) if panel.exam else []
        if exams and exams[0][1].value is not None and exams[-1][1].value is not None:
            first, last = exams[0][1].value, exams[-1][1].value
            words.append(f"{story.label}, exam: {first:.3f} → {last:.3f}")
    return f"{panel.title}. " + "; ".join(words)


def _broken(points: Points, size: int) -> tuple[list[float], list[float], bool]:
    """Means over blocks of `size` rounds, with a gap wherever a block has no point.

    Also whether any point stands alone, so that a line would not show it.
    """
    x: list[float] = []
    y: list[float] = []
    last, length, alone = None, 0, False
    for block, told in groupby(points, key=lambda point: (point[0] - 1) // size):
        members = list(told)
        if last is not None and block > last + 1:
            x.append(float("nan"))
            y.append(float("nan"))
            alone, length = alone or length == 1, 0
        x.append(fmean(at for at, _ in members))
        y.append(fmean(value for _, value in members))
        last, length = block, length + 1
    return x, y, alone or length == 1
