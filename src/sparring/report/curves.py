"""Figures over rounds: what happened live, what exams said, and whose turn it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from sparring.report.gather import Points, Sat, Story
from sparring.report.layout import Drawing, Rated, headline_key
from sparring.report.plots import STYLES, Theme, headed, inches, label


@dataclass(frozen=True, slots=True)
class Panel:
    """One small figure: live metrics as (name, label), and a rate of the exams beside them.

    `share`: the values lie between 0 and 1. `dots`: points that are no curve.
    """

    name: str
    title: str
    live: tuple[tuple[str, str], ...]
    exam: str = ""
    caption: str = ""
    share: bool = True
    dots: bool = False


PANELS = (
    Panel(
        "asr",
        "Attack success (ASR)",
        live=(("asr", "live"),),
        exam="asr",
        caption="Live: today's attacker against today's defender, so it moves with both; rounds "
        "against a past self are left out. Exam: fixed attacks on held-out seeds, with 95 % "
        "intervals.",
    ),
    Panel(
        "over-refusal",
        "Over-refusal of benign seeds",
        live=(("over_refusal", "live"),),
        exam="over_refusal",
        caption="A low ASR beside a high over-refusal is a broken assistant.",
    ),
    Panel(
        "correct",
        "Benign seeds answered correctly",
        live=(("correct", "live"),),
        exam="correct",
        caption="The reply holds what the seed asked for, and nothing else.",
    ),
    Panel(
        "format",
        "Attacks that parse, and stay faithful",
        live=(("parsed", "parsed"), ("faithful", "faithful")),
        caption="Parsed: the attacker kept its format. Faithful: the rewrite still asks for the "
        "seed's content.",
    ),
    Panel(
        "diversity",
        "Diversity of attacks",
        live=(
            ("diversity", "1 − mean cosine"),
            ("self_bleu", "self-BLEU"),
            ("strategy_entropy", "strategy entropy"),
        ),
        caption="Among sibling attacks, so only where the attacker forked. Self-BLEU rises where "
        "the others fall: towards a few attacks.",
        share=False,
    ),
    Panel(
        "unscored",
        "Unscored share",
        live=(("unscored", "live"),),
        exam="unscored",
        caption="Games that the judge could not tell; they teach nothing.",
    ),
)
POOL = (
    Panel(
        "pool-size",
        "Experience pool",
        live=(("replay/size", "size"), ("replay/asleep", "retired")),
        caption="Failures kept to be asked again; retired ones sleep.",
        share=False,
    ),
    Panel("pool-visits", "Visits", live=(("replay/visits", "visits"),), share=False),
    Panel("pool-share", "Share of replayed openings", live=(("replay/share", "replayed"),)),
    Panel(
        "league",
        "League: which past self played",
        live=(("league/attacker", "attacker"), ("league/defender", "defender")),
        caption="The round that a past self stems from; no dot: the present one played.",
        share=False,
        dots=True,
    ),
)


MOST = 300
"""Points of a curve, and turns, that are drawn; more are averaged in equal blocks of rounds."""


def differ(stories: Sequence[Story]) -> bool:
    """Whether the runs' turns are not the same, so that one shading cannot stand for all."""
    return len({story.turns for story in stories}) > 1


def shade(
    axes: Any,
    turns: Sequence[str],
    theme: Theme,
    lane: tuple[int, int],
    height: tuple[float, float] | None = None,
) -> None:
    """Tint the rounds by who learned: the whole height for one run, a lane at the foot for each of
    several; or between two heights, as shares of the axes."""
    place, lanes = lane
    low, high = height or ((0.0, 1.0) if lanes == 1 else (0.045 * place, 0.045 * (place + 1)))
    colours: Mapping[str, str] = {"attacker": theme.attacker, "defender": theme.defender}
    for who, colour in colours.items():
        spans = [(start, stop - start) for told, start, stop in blocks(turns) if told == who]
        axes.broken_barh(
            spans,
            (low, high - low),
            transform=axes.get_xaxis_transform(),
            color=colour,
            lw=0,
            zorder=0.5,
            clip_on=height is None,
        )


def blocks(turns: Sequence[str]) -> list[tuple[str, float, float]]:
    """(who learned, from, to) in rounds; more than MOST are told by whoever learned most."""
    size = block_of(len(turns)) if sum(1 for _ in groupby(turns)) > MOST else 1
    grouped = [turns[i : i + size] for i in range(0, len(turns), size)]
    most = [max(sorted(set(told)), key=told.count) for told in grouped]
    spans, at = [], 0
    for who, run in groupby(most):
        stop = min(at + size * len(list(run)), len(turns))
        spans.append((who, at + 0.5, stop + 0.5))
        at = stop
    return spans


def block_of(rounds: int) -> int:
    """Rounds that are averaged into one point."""
    return max(1, -(-rounds // MOST))


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
