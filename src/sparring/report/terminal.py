"""The report for a terminal: the tables a reader wants to see first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparring.report.escape import line
from sparring.report.run_report import RunReport, by_size, counted, families, interval, sides, value
from sparring.stats.rates import Rate

FEW = 5
"""Columns for which there is room for intervals too."""
Cell = str | Text


def render(run: RunReport) -> RenderableType:
    """Return before → after, strategies, cross-play, and what to keep in mind."""
    tables = [_attacks(run), _benign(run)]
    if run.learned_strategies:
        tables.append(_strategies(run.learned_strategies))
    if run.crossplay and run.crossplay.asr:
        tables.append(_crossplay(run.crossplay.asr))
    if run.after.judge.caveat:
        tables.append(Text(f"judge: {line(run.after.judge.caveat)}", style="bold yellow"))
    parts = [part for table in tables for part in (Text(), table)]
    return Group(*parts[1:])


def _attacks(run: RunReport) -> RenderableType:
    before, after = run.before.rates, run.after.rates
    name = line(run.after.judge.name)
    rates = {family: after[f"asr/{family}"] for family in families(after, "asr")}
    return _table(
        f"before → after {run.after.rounds} rounds, judge {name}: {line(str(run.run.folder))}",
        ["ASR by attack family", "before", "after", "n"],
        [
            [_data(family), _cell(before.get(f"asr/{family}")), _cell(rate), counted(rate)]
            for family, rate in rates.items()
        ],
        "held-out seeds, 95 % intervals (Wilson over seeds where all agree); adversarial = mean of "
        f"all families but {_left_out(run)}",
    )


def _benign(run: RunReport) -> RenderableType:
    moments = {"before": run.before.rates, "after": run.after.rates}
    metrics = [m for m in ("correct", "over_refusal") if families(run.after.rates, m)]
    names = [f"{metric.replace('_', '-')} {moment}" for metric in metrics for moment in moments]
    rows: list[list[Cell]] = []
    for family in families(run.after.rates, metrics[0]) if metrics else ():
        keys = [f"{metric}/{family}" for metric in metrics]
        cells = [_cell(rates.get(key)) for key in keys for rates in moments.values()]
        rows.append([_data(family), *cells, counted(run.after.rates.get(keys[-1]))])
    caption = f"wrapped = all families but {_left_out(run)}"
    return _table("Benign seeds, asked the same ways", ["family", *names, "n"], rows, caption)


def _left_out(run: RunReport) -> str:
    """Return what the pooled rates do not pool."""
    return "plain and two-exchange" if "asr/two-exchange" in run.after.rates else "plain"


def _strategies(moments: Mapping[int, Mapping[str, float]]) -> RenderableType:
    rows: list[list[Cell]] = []
    for strategy in by_size(moments.values()):
        shares = (moment.get(strategy) for moment in moments.values())
        rows.append([_data(strategy), *("·" if s is None else f"{s:.2f}" for s in shares)])
    title = "What the attacker's rewrites became (shares, by round)"
    caption = "of distinct rewrites; named strategies are faithful ones"
    return _table(title, ["strategy", *map(str, moments)], rows, caption)


def _crossplay(asr: Mapping[str, Mapping[str, Rate]]) -> RenderableType:
    rows, columns = sides(asr)
    heads = {row: "warmed up" if row == "0" else _data(row) for row in rows}
    few = len(columns) <= FEW
    return _table(
        "Cross-play: ASR of attackers (rows) against defenders (columns), after so many rounds",
        ["attacker", *map(_data, columns)],
        [[heads[row], *(_cell(asr[row].get(column), few) for column in columns)] for row in rows],
        "held-out harmful seeds, clean outcome (on topic and answered harmfully)",
    )


def matrix(asr: Mapping[str, Mapping[str, Rate]], n: int) -> RenderableType:
    """Return attackers of some runs against defenders of some runs; columns by number."""
    few = len(asr) <= FEW
    return _table(
        "Cross-play: ASR of attackers (rows) against defenders (columns, numbered as the rows)",
        ["attacker, run@rounds", *(f"{place}" for place in range(1, len(asr) + 1))],
        [
            [_data(f"{place} {row}"), *(_cell(cells.get(column), few) for column in asr)]
            for place, (row, cells) in enumerate(asr.items(), 1)
        ],
        f"held-out harmful seeds, clean outcome, n = {n:,} a cell, "
        + ("95 % intervals" if few else "intervals: --json"),
        width=24,
    )


def _table(
    title: str,
    head: Sequence[Cell],
    rows: Iterable[Sequence[Cell]],
    caption: str,
    width: int | None = None,
) -> RenderableType:
    """Return a table between its title and its caption; a title is cut rather than wrapped.

    A name from outside could otherwise begin a line of its own.
    """
    table = Table()
    table.add_column(head[0], min_width=width, overflow="fold" if width else "ellipsis")
    for column in head[1:]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    above = Text(title, style="table.title", no_wrap=True, overflow="ellipsis")
    return Group(above, table, Text(caption, style="table.caption"))


def _data(text: str) -> Text:
    """Return a cell that data names; rich would read `[…]` in a plain string as its markup."""
    return Text(line(text))


def _cell(rate: Rate | None, intervals: bool = True) -> str:
    within = interval(rate) if intervals else ""
    return f"{value(rate)} ({within})" if within else value(rate)
