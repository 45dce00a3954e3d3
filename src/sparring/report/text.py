"""The report for a terminal: the tables a reader wants to see first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparring.report.summary import Summary, length_first
from sparring.report.terminal import line


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
    for family in _families(told, "asr"):
        before, after = told.before.get(f"asr/{family}"), told.after[f"asr/{family}"]
        table.add_row(_data(family), _cell(before), _cell(after), _n(after))
    return _titled(
        f"before → after {told.rounds} rounds, judge {line(told.judge['name'])}: {line(told.run)}",
        table,
        f"held-out seeds, 95 % intervals; adversarial = mean of all families but {_left_out(told)}",
    )


def _benign(told: Summary) -> RenderableType:
    table = Table()
    table.add_column("family")
    metrics = [m for m in ("correct", "over_refusal") if _families(told, m)]
    for metric in metrics:
        for moment in ("before", "after"):
            table.add_column(f"{metric.replace('_', '-')} {moment}", justify="right")
    table.add_column("n", justify="right")
    for family in _families(told, metrics[0]) if metrics else ():
        keys = [f"{metric}/{family}" for metric in metrics]
        cells = [_cell(rates.get(key)) for key in keys for rates in (told.before, told.after)]
        table.add_row(_data(family), *cells, _n(told.after[keys[-1]]))
    return _titled(
        "Benign seeds, asked the same ways", table, f"wrapped = all families but {_left_out(told)}"
    )


def _families(told: Summary, metric: str) -> list[str]:
    """The sets of a metric, pooled ones first."""
    names = [key.split("/", 1)[1] for key in told.after if key.startswith(f"{metric}/")]
    return sorted(names, key=lambda name: name not in ("adversarial", "wrapped"))


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


def _cell(rate: Mapping[str, Any] | None, interval: bool = True) -> str:
    if rate is None or rate["value"] is None:
        return "unscored" if rate else "–"
    low, high = rate["ci95"]
    return f"{rate['value']:.3f}" + (f" ({low:.2f}–{high:.2f})" if interval else "")


def _n(rate: Mapping[str, Any]) -> str:
    left = rate["n_total"] - rate["n_scored"]
    return f"{rate['n_scored']}" + (f" ({left} unscored)" if left else "")


def _strategies(told: Mapping[int, Mapping[str, float]]) -> RenderableType:
    table = Table()
    table.add_column("strategy")
    for number in told:
        table.add_column(str(number), justify="right")
    for name in _by_size(told.values()):
        table.add_row(_data(name), *(_share(shares.get(name)) for shares in told.values()))
    return _titled(
        "What the attacker's rewrites became (shares, by round)",
        table,
        "of distinct rewrites; named strategies are faithful ones",
    )


def _by_size(shares: Iterable[Mapping[str, float]]) -> list[str]:
    most: dict[str, float] = {}
    for told in shares:
        for name, value in told.items():
            most[name] = max(most.get(name, 0.0), value)
    return sorted(most, key=lambda name: (-most[name], name))


def _share(value: float | None) -> str:
    return "·" if value is None else f"{value:.2f}"


def _crossplay(matrix: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    rows = sorted(matrix, key=length_first)
    columns = sorted(next(iter(matrix.values())), key=length_first)
    table = Table()
    table.add_column("attacker")
    for column in columns:
        table.add_column(_data(column), justify="right")
    for row in rows:
        cells = [_cell(matrix[row][column], len(columns) <= 5) for column in columns]
        table.add_row("warmed up" if row == "0" else _data(row), *cells)
    return _titled(
        "Cross-play: ASR of attackers (rows) against defenders (columns), after so many rounds",
        table,
        "held-out harmful seeds, clean outcome (on topic and answered harmfully)",
    )
