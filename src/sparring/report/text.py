"""The report for a terminal: the tables a reader wants to see first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparring.report.figures import by_size, sides
from sparring.report.gather import Summary
from sparring.report.layout import Rated, counted, families, line, rates, ratio, share

FEW = 5
"""Columns for which there is room for intervals too."""


def render(told: Summary) -> RenderableType:
    """Before → after, strategies, cross-play, and what to keep in mind."""
    parts: list[RenderableType] = [_attacks(told), Text(), _benign(told)]
    if told.strategies:
        parts += [Text(), _strategies(told.strategies)]
    if told.crossplay:
        parts += [Text(), _crossplay(told.crossplay)]
    if told.judge.get("caveat"):
        parts += [Text(), Text(f"judge: {line(told.judge['caveat'])}", style="bold yellow")]
    return Group(*parts)


def show(told: Summary, console: Console) -> None:
    """Print the report."""
    console.print(render(told))


def _attacks(told: Summary) -> RenderableType:
    table = Table()
    table.add_column("ASR by attack family")
    for name in ("before", "after", "n"):
        table.add_column(name, justify="right")
    before, after = rates(told.before), rates(told.after)
    for family in families(after, "asr"):
        first, last = before.get(f"asr/{family}"), after[f"asr/{family}"]
        table.add_row(_data(family), _cell(first), _cell(last), counted(last))
    return _titled(
        f"before → after {told.rounds} rounds, judge {line(told.judge['name'])}: {line(told.run)}",
        table,
        "held-out seeds, 95 % intervals (Wilson over seeds where all agree); adversarial = mean of "
        f"all families but {_left_out(told)}",
    )


def _benign(told: Summary) -> RenderableType:
    table = Table()
    table.add_column("family")
    moments = rates(told.before), rates(told.after)
    metrics = [m for m in ("correct", "over_refusal") if families(moments[1], m)]
    for metric in metrics:
        for moment in ("before", "after"):
            table.add_column(f"{metric.replace('_', '-')} {moment}", justify="right")
    table.add_column("n", justify="right")
    for family in families(moments[1], metrics[0]) if metrics else ():
        keys = [f"{metric}/{family}" for metric in metrics]
        cells = [_cell(found.get(key)) for key in keys for found in moments]
        table.add_row(_data(family), *cells, counted(moments[1].get(keys[-1])))
    return _titled(
        "Benign seeds, asked the same ways", table, f"wrapped = all families but {_left_out(told)}"
    )


def _left_out(told: Summary) -> str:
    """What the pooled rates do not pool."""
    return "plain and two-exchange" if "asr/two-exchange" in told.after else "plain"


def _titled(title: str, table: Table, caption: str) -> RenderableType:
    """A table between its title and its caption; a title is cut rather than wrapped.

    A name from outside could otherwise begin a line of its own.
    """
    head = Text(title, style="table.title", no_wrap=True, overflow="ellipsis")
    return Group(head, table, Text(caption, style="table.caption"))


def _data(text: str) -> Text:
    """A cell that data names; rich would read `[…]` in a plain string as its markup."""
    return Text(line(text))


def _cell(rate: Rated | None, interval: bool = True) -> str:
    told = ratio(rate)
    return f"{told.value} ({told.aside})" if told.aside and interval else told.value


def _strategies(told: Mapping[int, Mapping[str, float]]) -> RenderableType:
    table = Table()
    table.add_column("strategy")
    for number in told:
        table.add_column(str(number), justify="right")
    for name in by_size(told.values()):
        table.add_row(_data(name), *(share(shares.get(name)) for shares in told.values()))
    return _titled(
        "What the attacker's rewrites became (shares, by round)",
        table,
        "of distinct rewrites; named strategies are faithful ones",
    )


def _crossplay(told: Mapping[str, Any]) -> RenderableType:
    return _titled(
        "Cross-play: ASR of attackers (rows) against defenders (columns), after so many rounds",
        _matrix(told, *sides({row: rates(cells) for row, cells in told.items()})),
        "held-out harmful seeds, clean outcome (on topic and answered harmfully)",
    )


def matrix(told: Mapping[str, Any], n: int) -> RenderableType:
    """Attackers of some runs against defenders of some runs, all of them; columns by number."""
    table = Table()
    table.add_column("attacker, run@rounds", overflow="fold", min_width=24)
    few = len(told) <= FEW
    for place in range(1, len(told) + 1):
        table.add_column(f"{place}", justify="right")
    for place, (row, cells) in enumerate(told.items(), 1):
        found = rates(cells)
        table.add_row(_data(f"{place} {row}"), *(_cell(found.get(c), few) for c in told))
    return _titled(
        "Cross-play: ASR of attackers (rows) against defenders (columns, numbered as the rows)",
        table,
        f"held-out harmful seeds, clean outcome, n = {n:,} a cell, "
        + ("95 % intervals" if few else "intervals: --json"),
    )


def _matrix(told: Mapping[str, Any], rows: Sequence[str], columns: Sequence[str]) -> Table:
    cells = {row: rates(found) for row, found in told.items()}
    table = Table()
    table.add_column("attacker")
    for column in columns:
        table.add_column(_data(column), justify="right")
    for row in rows:
        shown = [_cell(cells[row].get(column), len(columns) <= FEW) for column in columns]
        table.add_row("warmed up" if row == "0" else _data(row), *shown)
    return table
