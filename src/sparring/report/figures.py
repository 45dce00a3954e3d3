"""The figures of a page: curves over rounds, families, cross-play, strategies, exploitability."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import nan
from statistics import fmean
from typing import Any, TypeVar

from sparring import packaged
from sparring.report import plots
from sparring.report import run_report as reading
from sparring.report.plots import Drawing, Theme, axes_in, label
from sparring.report.run_report import Points, RunReport, families, family_name, value
from sparring.stats.rates import Rate, grouped
from sparring.store.records import CrossplayResults, ExploitResults

Item = TypeVar("Item", bound=tuple[int, Any])
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


_GROUPS: Mapping[str, Any] = packaged.table("report/templates/panels.yaml")
_PANELS = {group: [FigurePanel(**entry) for entry in rows] for group, rows in _GROUPS.items()}


def panels(group: str, runs: Sequence[RunReport]) -> list[Drawing]:
    """Return the figures of a group that any of the runs has something for."""
    return [_drawing(p, runs) for p in _PANELS[group] if any(_has(p, run) for run in runs)]


def _has(panel: FigurePanel, run: RunReport) -> bool:
    exams = _exams(panel, run)
    if panel.exam == "unscored":  # a panel of zeros would say in a picture what a word says
        live = [value for _, value in run.curves.get("unscored", ())]
        return any(live) or any(rate.value for _, rate, _ in exams)
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
        key = reading.headline_key(rates, panel.exam) or ""
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
        axes = axes_in(figure, theme, panel.title, (0.42, 0.3, 0.12, 0.36))
        if not differ(runs):
            shade(axes, runs[0].turns, theme, 0.0, 1.0)
        for place, run in enumerate(runs):
            _lines(axes, panel, run, theme, place if len(runs) > 1 else None)
        last = max(1, *(len(run.turns) for run in runs))
        axes.set_xlim(-0.015 * last, 1.015 * last + 0.5)
        # From 0 to the first round number above the data: no range makes noise look big.
        low, high = min(0.0, axes.dataLim.y0), max(0.0, axes.dataLim.y1)
        shares = next((t for t in (0.1, 0.25, 0.5) if high <= t * 0.96), 1.02)
        free = (1.08 * low, 1.08 * high) if low < high else (0.0, 1.0)
        axes.set_ylim((0.0, shares) if panel.share else free)
        axes.yaxis.set_major_formatter("{x:g}")  # no factor above the axis, beside the legend
        axes.set_xlabel("rounds played", fontsize=7, labelpad=2)
        plots.legend_above(figure, axes, 2 if len(runs) > 1 else 3)

    return Drawing(panel.name, _in_words(panel, runs), draw, panel.caption)


def _lines(axes: Any, panel: FigurePanel, run: RunReport, theme: Theme, of: int | None) -> None:
    """Draw a run's live metrics and exams; of several runs, in the colour of the place `of`."""
    whose = "" if of is None else f"{label(run.label, 16)}, "
    for place, (metric, text) in enumerate(panel.live.items()):
        if not (points := run.curves.get(metric, ())):
            continue
        own = theme.muted if panel.exam else theme.colour(place)
        look = {"color": own if of is None else theme.colour(of), "label": f"{whose}{text}"}
        if panel.dots:
            few = points[:: max(1, len(points) // MOST)]
            axes.plot(*zip(*few, strict=True), "." if place == 0 else "x", ms=3.5, **look)
            continue
        x, y, alone = _averaged(points, len(run.turns))
        style = "-" if of is None else plots.STYLES[place % len(plots.STYLES)]
        alpha, marker = 0.6 if panel.exam and whose else 1.0, "." if alone else None
        axes.plot(x, y, ls=style, ms=2.5, lw=1.0, alpha=alpha, marker=marker, **look)
    for held_out in panel.judges:
        if exams := _exams(panel, run, held_out):
            named = f"exam, {label(exams[0][2], 14)}" if exams[0][2] else "exam"
            text = f"{whose}{named}{' (held-out judge)' if held_out else ''}"
            colour = theme.colour(held_out if of is None else of)
            measured = [(rounds, rate) for rounds, rate, _ in exams]
            plots.with_intervals(axes, measured, colour, text, held_out)


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


def in_blocks(items: Sequence[Item], rounds: int) -> dict[int, list[Item]]:
    """Return what was played after so many rounds, the first part of each item, by its block."""
    return grouped(((item[0] - 1) // block_of(rounds), item) for item in items)


def _averaged(points: Points, rounds: int) -> tuple[list[float], list[float], bool]:
    """Return means over blocks of rounds, with a gap wherever a block has no point.

    Also whether any point stands alone, so that a line would not show it.
    """
    members = in_blocks(points, rounds)
    spread = range(min(members), max(members) + 1) if members else ()
    rows = [members.get(block, [(nan, nan)]) for block in spread]
    alone = any(block - 1 not in members and block + 1 not in members for block in members)
    x, y = ([fmean(point[axis] for point in row) for row in rows] for axis in (0, 1))
    return x, y, alone


ROWS = 20
"""Families of a figure; the tables have all."""
NAMED = 7
"""Strategies that keep a colour of their own."""
_NOT_STRATEGIES = ("unfaithful", "unparseable")
_AXIS = {"fontsize": 7, "labelpad": 2}


def family_figure(runs: Sequence[RunReport], metric: str, title: str) -> Drawing:
    """Draw a rate of every family before and after, with intervals; two dots for each run."""
    rows = families(runs[0].after.rates, metric)[:ROWS]
    names = [family_name(runs, row) for row in rows]
    height = 0.62 + len(rows) * (0.13 + 0.13 * len(runs))

    def rates(run: RunReport, family: str) -> list[Rate | None]:
        return [exam.rates.get(f"{metric}/{family}") for exam in (run.before, run.after)]

    def draw(figure: Any, theme: Theme) -> None:
        left = min(1.7, 0.2 + 0.067 * max((len(label(name, 22)) for name in names), default=1))
        head = f"{title}:  ○ before   ● after"
        axes = axes_in(figure, theme, head, (left, 0.42, 0.2, 0.36))
        for row, family in enumerate(rows):
            for place, run in enumerate(runs):
                y = row + (place - (len(runs) - 1) / 2) * 0.8 / len(runs)
                _before_after(axes, rates(run, family), y, theme.colour(place))
        axes.set_yticks(range(len(rows)), [label(name, 22) for name in names], color=theme.ink)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(visible=False, axis="y")

    words = (
        f"{row}: " + " → ".join(value(rate, 3, "–") for rate in rates(runs[0], row)) for row in rows
    )
    caption = "Lines are 95 % intervals. Held-out seeds, the same openings every time."
    alt = f"{title}. {'; '.join(words)}"
    return Drawing(f"families-{metric}", alt, draw, caption, height=height)


def _before_after(axes: Any, rates: Sequence[Rate | None], y: float, colour: str) -> None:
    for rate, fill, alpha in zip(rates, (axes.get_facecolor(), colour), (0.55, 1.0), strict=True):
        if rate is None or rate.value is None:
            continue
        if rate.ci95:
            axes.plot(rate.ci95, (y, y), color=colour, lw=1.6, alpha=alpha * 0.6)
        axes.plot(rate.value, y, "o", ms=4.6, mfc=fill, mec=colour, mew=1.1, zorder=3)


def crossplay_figure(results: CrossplayResults, title: str, file: str) -> Drawing:
    """Draw ASR of past attackers (rows) against past defenders (columns), numbers in the cells."""
    rows, columns = reading.sides(results.asr)
    cells = [[results.asr[row].get(column) for column in columns] for row in rows]
    width = min(9.0, max(plots.COLUMN, 0.9 + 0.52 * len(columns)))
    height = 1.0 + max(0.27, min(0.42, 0.42 * 7 / len(rows))) * len(rows)

    def draw(figure: Any, theme: Theme) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        head = f"Cross-play ASR: {label(title, 34)}"
        axes = axes_in(figure, theme, head, (0.85, 0.34, 0.12, 0.42))
        heat = LinearSegmentedColormap.from_list("heat", theme.heat)
        values = [[nan if not r or r.value is None else r.value for r in row] for row in cells]
        axes.imshow(values, cmap=heat, vmin=0, vmax=1, aspect="auto")
        look = {"ha": "center", "va": "center", "fontsize": 8 if len(columns) <= 8 else 6}
        for y, row in enumerate(cells):
            for x, rate in enumerate(row):
                red, green, blue = heat(rate.value or 0.0 if rate else 0.0)[:3]
                bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
                axes.text(
                    x, y, value(rate, 2, "–"), color="#11151b" if bright else "#ffffff", **look
                )
        axes.set_xticks(range(len(columns)), [_after(column) for column in columns])
        axes.set_yticks(range(len(rows)), [_after(row) for row in rows])
        axes.set_xlabel("defender after rounds", **_AXIS)
        axes.set_ylabel("attacker after rounds", **_AXIS)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    words = "; ".join(
        f"attacker {row} against defender {column}: {value(results.asr[row].get(column), 2, '–')}"
        for row in rows
        for column in columns
    )
    caption = (
        "Read a column downwards: does a later attacker still get through? Read a row rightwards: "
        "does a later defender hold against it?"
    )
    return Drawing(file, f"Cross-play. {words}", draw, caption, width, height)


def _after(rounds: str) -> str:
    return "start" if rounds == "0" else label(rounds, 8)


def strategy_figure(run: RunReport, file: str, names: Sequence[str]) -> Drawing:
    """Draw shares of the attacker's rewrites by strategy, stacked, over rounds.

    `names` are all strategies, the ones that get a colour first; the same for every run of a page.
    """
    strategies = [n for n in names if n not in _NOT_STRATEGIES]
    named, rest = strategies[:NAMED], strategies[NAMED:]
    groups = {n: [n] for n in named} | ({"others": rest} if rest else {})
    groups |= {n: [n] for n in _NOT_STRATEGIES if n in names}

    def draw(figure: Any, theme: Theme) -> None:
        head = f"What rewrites became: {label(run.label, 24)}"
        axes = axes_in(figure, theme, head, (0.42, 0.42, 0.12, 0.36))
        grey = {"others": theme.grid, "unfaithful": theme.muted, "unparseable": theme.ink}
        colours = [*theme.series[: len(named)], *(grey[n] for n in [*groups][len(named) :])]
        blocks = in_blocks(run.strategies, len(run.turns)).values()
        x = [fmean(done for done, _ in block) for block in blocks]
        stacks = [
            [fmean(sum(shares.get(n, 0.0) for n in group) for _, shares in b) for b in blocks]
            for group in groups.values()
        ]
        look = {"colors": colours, "ec": theme.paper, "lw": 0.4, "alpha": 0.92}
        axes.stackplot(x, stacks, labels=[label(group, 17) for group in groups], **look)
        shade(axes, run.turns, theme, 1.02, 1.055)
        axes.set_xlim(min(x, default=0), max(x, default=1))
        axes.set_ylim(0, 1)
        axes.set_xlabel("rounds played", **_AXIS)
        plots.legend_above(figure, axes)

    last = run.strategies[-1][1]
    shares = ", ".join(f"{n} {last.get(n, 0.0):.2f}" for n in named)
    caption = (
        "Shares of distinct rewrites; the strip above shows whose turn it was. A strategy counts "
        "by name only where the rewrite is faithful."
    )
    return Drawing(file, f"Attack strategies; last round: {shares}", draw, caption, height=2.9)


def exploit_figure(results: ExploitResults, file: str) -> Drawing:
    """Draw ASR of fresh attackers by steps of training; of one that learns nothing, a level."""
    attackers = results.attackers

    def draw(figure: Any, theme: Theme) -> None:
        axes = axes_in(figure, theme, "ASR of fresh attackers", (0.42, 0.3, 0.12, 0.36))
        for (name, curve), colour in zip(attackers.items(), theme.series, strict=False):
            points = list(zip(curve.steps, curve.asr, strict=False))
            scored = [(step, rate) for step, rate in points if rate.value is not None]
            if len(points) == 1:
                look = {"color": colour, "lw": 1.4, "ls": "--", "zorder": 3}
                for _, rate in scored:
                    axes.axhline(rate.value, label=label(name, 20), **look)
            elif scored:
                plots.with_intervals(axes, scored, colour, label(name, 20))
        axes.set_ylim(0, 1.02)
        axes.margins(x=0.02)
        axes.set_xlabel("steps of training", **_AXIS)
        plots.legend_above(figure, axes)

    last = {who: curve.asr[-1] for who, curve in attackers.items() if curve.asr}
    words = "; ".join(f"{who}: {value(rate, 2, '–')}" for who, rate in last.items())
    caption = "With 95 % intervals. Dashed: learns nothing, the best of what was tried."
    return Drawing(file, f"Exploitability. {words}", draw, caption)
