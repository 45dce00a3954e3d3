"""The rounds behind a figure: whose turn each was, and how many of them one point stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sparring.report.gather import Story
from sparring.report.plots import Theme

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
