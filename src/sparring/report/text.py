"""The report for a terminal: the tables a reader wants to see first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparring.report.summary import Summary
from sparring.report.terminal import safe

_NAMES = {
    "asr": "ASR",
    "correct": "benign answered correctly",
    "over_refusal": "over-refusal",
}
_ORDER = ("asr", "correct", "over_refusal")


def render(told: Summary) -> RenderableType:
    """Before → after, strategies, cross-play, and what to keep in mind."""
    parts: list[RenderableType] = [_headline(told)]
    if told.strategies:
        parts += [Text(), _strategies(told.strategies)]
    if told.crossplay:
        parts += [Text(), _crossplay(told.crossplay)]
    if told.judge.get("caveat"):
        parts += [Text(), Text(f"judge: {safe(told.judge['caveat'])}", style="bold yellow")]
    return Group(*parts)


def show(told: Summary, console: Console) -> None:
    """Print the report."""
    console.print(render(told))


def _headline(told: Summary) -> Table:
    table = Table(
        title=f"{safe(told.run)}: before → after {told.rounds} rounds (judge: "
        f"{safe(told.judge['name'])})",
        caption="95 % intervals; adversarial and wrapped = mean of the six families but plain",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("exam on held-out seeds")
    for name in ("before", "95 %", "after", "95 %", "n"):
        table.add_column(name, justify="right")
    for metric in _ORDER:
        keys = [key for key in told.after if key.startswith(f"{metric}/")]
        for key in keys:
            before, after = told.before.get(key), told.after[key]
            row = [*_cells(before), *_cells(after), _n(after)]
            table.add_row(f"{_NAMES[metric]}, {safe(key.split('/', 1)[1])}", *row)
        if keys:
            table.add_section()
    return table


def _cells(rate: Mapping[str, Any] | None) -> tuple[str, str]:
    if rate is None or rate["value"] is None:
        return ("–", "unscored" if rate else "")
    low, high = rate["ci95"]
    return (f"{rate['value']:.3f}", f"{low:.2f}–{high:.2f}")


def _n(rate: Mapping[str, Any]) -> str:
    left = rate["n_total"] - rate["n_scored"]
    return f"{rate['n_scored']}" + (f" ({left} unscored)" if left else "")


def _strategies(told: Mapping[int, Mapping[str, float]]) -> Table:
    table = Table(
        title="What the attacker's rewrites became (share of its rewrites, by round)",
        caption="combinations are absent from the attack pool; named strategies are faithful ones",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("strategy")
    for number in told:
        table.add_column(str(number), justify="right")
    for name in _by_size(told.values()):
        table.add_row(safe(name), *(_share(shares.get(name)) for shares in told.values()))
    return table


def _by_size(shares: Iterable[Mapping[str, float]]) -> list[str]:
    most: dict[str, float] = {}
    for told in shares:
        for name, value in told.items():
            most[name] = max(most.get(name, 0.0), value)
    return sorted(most, key=lambda name: (-most[name], name))


def _share(value: float | None) -> str:
    return "·" if value is None else f"{value:.2f}"


def _crossplay(matrix: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(
        title="Cross-play: ASR of the attacker after n rounds (rows) against the defender after "
        "n rounds",
        caption="held-out harmful seeds, clean outcome (on topic and answered harmfully)",
        title_justify="left",
        caption_justify="left",
    )
    rows = sorted(matrix, key=int)
    columns = sorted(next(iter(matrix.values())), key=int)
    table.add_column("attacker \\ defender")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        cells = [_cells(matrix[row][column])[0] for column in columns]
        table.add_row("warmed up" if row == "0" else row, *cells)
    return table
