"""What a page is made of: sections of figures, tables and folded text, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparring.report.reading import Rated
from sparring.report.visible import name

COLUMN = 4.0
"""Inches of a figure in one column; a wider one takes them all."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number to read first, and what stands small beside it."""

    value: str
    aside: str = ""


Cell = str | Number


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a head; `groups` are wider heads above it, as (text, columns, colour or '').

    `strong` rows are the ones to read first; `kind` is '', `words` (no numbers) or `narrow` (asides
    stand below).
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    caption: str = ""
    groups: tuple[tuple[str, int, str], ...] = ()
    strong: frozenset[int] = frozenset()
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure: what draws it into a matplotlib `Figure` in a theme; sizes are in inches."""

    name: str
    alt: str
    draw: Callable[[Any, Any], None]
    caption: str = ""
    width: float = COLUMN
    height: float = 2.5


@dataclass(frozen=True, slots=True)
class Folded:
    """Text that is there for whoever unfolds it; `kind` is '' or 'harmful'."""

    summary: str
    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a page; `legend` names colours, as (class, text).

    Figures come first, with the tables `beside` them; then what is below.
    """

    id: str
    title: str
    lead: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    figures: tuple[Drawing, ...] = ()
    beside: tuple[Table, ...] = ()
    command: str = ""
    tables: tuple[Table, ...] = ()
    folded: tuple[Folded, ...] = ()
    folded_tables: tuple[tuple[str, Table], ...] = ()


@dataclass(frozen=True, slots=True)
class Compared:
    """A run's headline number before and after; `apart`: the intervals do not touch.

    `held_out` is the number after by a judge that was never the reward. Some numbers have no
    `before`.
    """

    run: str
    colour: str
    before: Number | None
    after: Number
    n: str
    apart: bool
    held_out: Number | None


@dataclass(frozen=True, slots=True)
class Card:
    """One headline number of every run; `better` is the way it should go: lower or higher."""

    title: str
    family: str
    better: str
    runs: tuple[Compared, ...]


def ratio(rate: Rated | None) -> Number:
    """A rate and its interval, as a cell."""
    if rate is None:
        return Number("–")
    if rate.value is None:
        return Number("unscored")
    interval = f"{rate.low:.2f}–{rate.high:.2f}" if None not in (rate.low, rate.high) else ""
    return Number(f"{rate.value:.3f}", interval)


def share(value: float | None) -> str:
    """A strategy's share, as a cell."""
    return "·" if value is None else f"{value:.2f}"


def counted(rate: Rated | None) -> str:
    """How many were scored, of how many where that is not all."""
    if rate is None:
        return "–"
    return f"{rate.n:,}" if rate.n == rate.total else f"{rate.n:,} of {rate.total:,}"


def missing(rate: Rated | None) -> str:
    """Why some were not scored, and how far they could move the rate; '' where none is missing."""
    if rate is None or rate.n == rate.total:
        return ""
    causes = ", ".join(f"{name(cause)} {n}" for cause, n in rate.unscored.items())
    told = f"{rate.total - rate.n} unscored ({causes or 'cause unknown'})"
    if rate.bounds:
        told += f", {rate.bounds[0]:.3f}–{rate.bounds[1]:.3f} whichever way they count"
    return told
