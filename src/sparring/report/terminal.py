"""The report for a terminal: the tables a reader wants to see first."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparring.report.escape import line, visible
from sparring.report.games import Game
from sparring.report.run_report import RunReport, cell, counted, families, family_name, value
from sparring.stats.rates import Rate

FEW = 5
"""Columns for which there is room for intervals too."""
Cell = str | Text


def render(run: RunReport) -> RenderableType:
    """Return what came out in words and as before → after, and what to keep in mind."""
    after, judge = run.after, run.after.judge
    pooled = "all families but plain"
    if "asr/two-exchange" in after.rates and "asr/stack of three" not in after.rates:
        pooled += " and two-exchange"  # in the smaller sandbox of earlier versions
    intervals = "held-out seeds, 95 % intervals (Wilson over seeds where all agree)"
    title = f"{line(str(run.run.folder))}: {after.rounds} rounds, judge {line(judge.name)}"
    attacks, benign = ["asr"], ["correct", "over_refusal"]
    within = f"{intervals}; adversarial = mean of {pooled}"
    parts = [
        Text(title, style="bold", no_wrap=True, overflow="ellipsis"),
        Text(line(run.summary)),
        _rates(run, "ASR by attack family", attacks, "Harmful seeds, before → after", within),
        _rates(run, "family", benign, "Benign seeds, asked the same ways", f"wrapped = {pooled}"),
        Text(f"judge: {line(judge.caveat)}", style="bold yellow") if judge.caveat else None,
    ]
    return Group(*(shown for part in parts if part for shown in (part, Text())))


def _rates(
    run: RunReport, head: str, metrics: Sequence[str], title: str, caption: str
) -> RenderableType | None:
    """Return the families' rates before and after, with n; None where none was measured."""
    moments = {"before": run.before.rates, "after": run.after.rates}
    metrics = [metric for metric in metrics if families(run.after.rates, metric)]
    names = [f"{metric.replace('_', '-')} {moment}" for metric in metrics for moment in moments]
    rows: list[list[Cell]] = []
    for family in families(run.after.rates, metrics[0]) if metrics else ():
        keys = [f"{metric}/{family}" for metric in metrics]
        cells = [cell(rates.get(key)) for key in keys for rates in moments.values()]
        n = counted(run.after.rates.get(keys[-1]))
        rows.append([_data(family_name([run], family)), *cells, n])
    return _table(title, [head, *names, "n"], rows, caption) if rows else None


def matrix(asr: Mapping[str, Mapping[str, Rate]], n: int) -> RenderableType:
    """Return attackers of some runs against defenders of some runs; columns by number."""
    few = len(asr) <= FEW
    shown = cell if few else value
    return _table(
        "Cross-play: ASR of attackers (rows) against defenders (columns, numbered as the rows)",
        ["attacker, run@rounds", *(f"{place}" for place in range(1, len(asr) + 1))],
        [
            [_data(f"{place} {row}"), *(shown(cells.get(column)) for column in asr)]
            for place, (row, cells) in enumerate(asr.items(), 1)
        ],
        f"held-out harmful seeds, clean outcome, n = {n:,} a cell, "
        + ("95 % intervals" if few else "intervals: --json"),
        width=24,
    )


def siblings(group: Sequence[Game], columns: int) -> RenderableType:
    """Return games about one seed, so many of them side by side."""
    parts: list[RenderableType] = [Text(f"\n{visible(group[0].seed)}", style="bold")]
    for start in range(0, len(group), columns):
        games = [{"": game.outcome} | game.lines for game in group[start : start + columns]]
        table = Table.grid(padding=(0, 2, 0, 0))
        for name in dict.fromkeys(name for game in games for name in game):
            texts = [visible(game.get(name, "")) for game in games]
            table.add_row(Text(name, style="dim"), *map(Text, texts))
        parts += [table, Text()]
    return Group(*parts)


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
