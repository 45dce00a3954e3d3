"""Figures that are not curves over rounds: families, cross-play, strategies, exploitability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from sparring.report.curves import block_of, shade, with_intervals
from sparring.report.gather import Story
from sparring.report.layout import COLUMN, Drawing, Rated, families
from sparring.report.plots import Theme, headed, inches, label
from sparring.report.samples import spread

ROWS = 20
"""Families of a figure (the tables have all), and checkpoints of a side of the cross-play."""
NAMED = 7
"""Strategies that keep a colour of their own."""
_NOT_STRATEGIES = ("unfaithful", "unparseable")


def family_figure(stories: Sequence[Story], metric: str, title: str) -> Drawing:
    """A rate of every family before and after, with intervals; one pair of dots for each run."""
    rows = families(stories[0].exams[-1].rates, metric)[:ROWS]
    height = 0.62 + len(rows) * (0.13 + 0.13 * len(stories))

    def draw(figure: Any, theme: Theme) -> None:
        axes = inches(figure, _margin(rows), 0.42, right=0.2)
        headed(axes, f"{title}:  ○ before   ● after", theme)
        for at, family in enumerate(rows):
            for place, story in enumerate(stories):
                y = at + (place - (len(stories) - 1) / 2) * 0.8 / len(stories)
                _pair(axes, story, f"{metric}/{family}", y, theme.series[place % len(theme.series)])
        axes.set_yticks(range(len(rows)), [label(row, 20) for row in rows], color=theme.ink)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(visible=False, axis="y")

    told = "; ".join(f"{row}: {_before_after(stories[0], f'{metric}/{row}')}" for row in rows)
    caption = "Lines are 95 % intervals. Held-out seeds, the same openings every time."
    return Drawing(f"families-{metric}", f"{title}. {told}", draw, caption, height=height)


def _pair(axes: Any, story: Story, key: str, y: float, colour: str) -> None:
    for sat, face, alpha in ((story.exams[0], "none", 0.55), (story.exams[-1], colour, 1.0)):
        rate = sat.rates.get(key)
        if rate is None or rate.value is None:
            continue
        if rate.low is not None and rate.high is not None:
            axes.plot((rate.low, rate.high), (y, y), color=colour, lw=1.6, alpha=alpha * 0.6)
        fill = axes.get_facecolor() if face == "none" else face
        axes.plot(rate.value, y, "o", ms=4.6, mfc=fill, mec=colour, mew=1.1, zorder=3)


def _before_after(story: Story, key: str) -> str:
    told = [sat.rates.get(key) for sat in (story.exams[0], story.exams[-1])]
    return " → ".join("–" if r is None or r.value is None else f"{r.value:.3f}" for r in told)


def crossplay_figure(story: Story, file: str) -> Drawing:
    """ASR of past attackers (rows) against past defenders (columns), numbers in the cells."""
    rows, columns = sides(story.crossplay)
    width = min(9.0, max(COLUMN, 0.9 + 0.52 * len(columns)))
    height = 1.0 + max(0.27, min(0.42, 0.42 * 7 / len(rows))) * len(rows)

    def draw(figure: Any, theme: Theme) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        axes = inches(figure, 0.85, 0.34, bottom=0.42)
        headed(axes, f"Cross-play ASR: {label(story.label, 34)}", theme)
        heat = LinearSegmentedColormap.from_list("heat", theme.heat)
        values = [[_value(story.crossplay[row].get(c)) for c in columns] for row in rows]
        shown = [[float("nan") if v is None else v for v in line] for line in values]
        axes.imshow(shown, cmap=heat, vmin=0, vmax=1, aspect="auto")
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                told = "–" if value is None else f"{value:.2f}"
                colour = _on(heat(value or 0.0), theme)
                size = 8 if len(columns) <= 8 else 6
                axes.text(x, y, told, ha="center", va="center", color=colour, fontsize=size)
        axes.set_xticks(range(len(columns)), [_after(c) for c in columns])
        axes.set_yticks(range(len(rows)), [_after(r) for r in rows])
        axes.set_xlabel("defender after rounds", fontsize=7, labelpad=2)
        axes.set_ylabel("attacker after rounds", fontsize=7, labelpad=2)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)

    told = "; ".join(
        f"attacker {row} against defender {c}: {_word(story.crossplay[row].get(c))}"
        for row in rows
        for c in columns
    )
    caption = (
        "Read a column downwards: does a later attacker still get through? Read a row rightwards: "
        "does a later defender hold against it?"
    )
    return Drawing(file, f"Cross-play. {told}", draw, caption, width, height)


def sides(matrix: Mapping[str, Mapping[str, Rated]]) -> tuple[list[str], list[str]]:
    """Attackers and defenders of the cross-play, by rounds played; at most ROWS of each."""
    columns = {column for cells in matrix.values() for column in cells}
    attackers, defenders = (sorted(told, key=_length_first) for told in (matrix, columns))
    return spread(attackers, ROWS), spread(defenders, ROWS)


def _length_first(number: str) -> tuple[int, str]:
    """Orders numbers that are written as text, and whatever else is written there."""
    return len(number), number


def _value(rate: Rated | None) -> float | None:
    return None if rate is None else rate.value


def _word(rate: Rated | None) -> str:
    value = _value(rate)
    return "–" if value is None else f"{value:.2f}"


def _after(number: str) -> str:
    return "start" if number == "0" else label(number, 8)


def _on(colour: tuple[float, float, float, float], theme: Theme) -> str:
    """Ink that can be read on a colour."""
    red, green, blue = colour[:3]
    bright = 0.299 * red + 0.587 * green + 0.114 * blue
    return "#11151b" if bright > 0.5 else "#ffffff"


def strategy_figure(story: Story, file: str, names: Sequence[str]) -> Drawing:
    """Shares of the attacker's rewrites by strategy, stacked, over rounds.

    `names` are all strategies, the ones that get a colour first; the same for every run of a page.
    """
    named = [n for n in names if n not in _NOT_STRATEGIES][:NAMED]
    rest = [n for n in names if n not in named and n not in _NOT_STRATEGIES]
    told = [*((n, (n,)) for n in named), *([("others", tuple(rest))] if rest else [])]
    told += [(n, (n,)) for n in _NOT_STRATEGIES if n in names]

    def draw(figure: Any, theme: Theme) -> None:
        rows = -(-len(told) // 3)
        axes = inches(figure, 0.42, 0.42 + 0.16 * rows)
        headed(axes, f"What rewrites became: {label(story.label, 24)}", theme)
        grey = {"others": theme.grid, "unfaithful": theme.muted, "unparseable": theme.ink}
        colours = [
            theme.series[i] if i < len(named) else grey[name] for i, (name, _) in enumerate(told)
        ]
        x, stacks = _stacks(story, [members for _, members in told])
        axes.stackplot(x, stacks, colors=colours, ec=theme.paper, lw=0.4, alpha=0.92)
        shade(axes, story.turns, theme, (0, 1), (1.02, 1.055))
        axes.set_xlim(min(x, default=0), max(x, default=1))
        axes.set_ylim(0, 1)
        axes.set_xlabel("rounds played", fontsize=7, labelpad=2)
        _swatches(figure, [label(name, 17) for name, _ in told], colours)

    last = story.strategies[-1][1] if story.strategies else {}
    shares = ", ".join(f"{name} {last.get(name, 0.0):.2f}" for name in named)
    caption = (
        "Shares of distinct rewrites; the strip above shows whose turn it was. A strategy counts "
        "by name only where the rewrite is faithful."
    )
    return Drawing(file, f"Attack strategies; last round: {shares}", draw, caption, height=2.9)


def by_size(shares: Iterable[Mapping[str, float]]) -> list[str]:
    """Every strategy, the one with the largest sum of shares first."""
    total: dict[str, float] = {}
    for told in shares:
        for strategy, share in told.items():
            total[strategy] = total.get(strategy, 0.0) + share
    return sorted(total, key=lambda strategy: (-total[strategy], strategy))


def _stacks(story: Story, groups: Sequence[Sequence[str]]) -> tuple[list[float], list[list[float]]]:
    """Rounds, and the summed share of every group of strategies; blocks of rounds are averaged."""
    size = block_of(story.rounds)
    blocks = [list(b) for _, b in groupby(story.strategies, key=lambda told: (told[0] - 1) // size)]
    x = [fmean(done for done, _ in block) for block in blocks]
    stacks = [
        [fmean(sum(shares.get(n, 0.0) for n in group) for _, shares in block) for block in blocks]
        for group in groups
    ]
    return x, stacks


def _swatches(figure: Any, names: Sequence[str], colours: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour) for colour in colours]
    figure.legend(
        handles,
        list(names),
        loc="upper left",
        bbox_to_anchor=(0.06 / figure.get_figwidth(), 1 - 0.22 / figure.get_figheight()),
        ncols=3,
        borderpad=0.2,
        columnspacing=1.2,
        handlelength=1.0,
        handleheight=0.8,
    )


def exploit_figure(curves: Mapping[str, Sequence[tuple[float, Rated]]]) -> Drawing:
    """ASR of fresh attackers by steps of training; of one that learns nothing, a level."""
    shown = list(curves.items())[:8]

    def draw(figure: Any, theme: Theme) -> None:
        rows = -(-len(shown) // 3)
        axes = inches(figure, 0.42, 0.3 + 0.16 * rows)
        headed(axes, "ASR of fresh attackers", theme)
        for (_, points), colour in zip(shown, theme.series, strict=False):
            told = [(step, rate) for step, rate in points if rate.value is not None]
            if len(points) > 1:
                with_intervals(axes, told, colour)
            for _, rate in told if len(points) == 1 else ():
                axes.axhline(rate.value, color=colour, lw=1.4, ls="--", zorder=3)
        axes.set_ylim(0, 1.02)
        axes.margins(x=0.02)
        axes.set_xlabel("steps of training", fontsize=7, labelpad=2)
        _swatches(figure, [label(who, 20) for who, _ in shown], theme.series[: len(shown)])

    told = "; ".join(f"{who}: {_word(points[-1][1])}" for who, points in shown if points)
    caption = "With 95 % intervals. Dashed: learns nothing, the best of what was tried."
    return Drawing("exploit", f"Exploitability. {told}", draw, caption)


def _margin(names: Sequence[str]) -> float:
    """Inches that the longest of these names takes at the left."""
    return min(1.7, 0.2 + 0.067 * max((len(label(name, 20)) for name in names), default=1))
