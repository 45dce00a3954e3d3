"""Figures that are not curves over rounds: families, cross-play, strategies, exploitability."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from statistics import fmean
from typing import Any

from sparring.report import plots
from sparring.report.curves import in_blocks, shade
from sparring.report.plots import Drawing, Theme, axes_in, label
from sparring.report.run_report import RunReport, families, family_name, sides, value
from sparring.stats.rates import Rate
from sparring.store.records import CrossplayResults, ExploitResults

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
    rows, columns = sides(results.asr)
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
