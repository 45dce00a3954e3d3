"""What a page is made of, as plain data, and text as a page, a figure or a terminal may show it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]?"
)
UNSEEN = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff"
    # Unicode's Default_Ignorable_Code_Point: whatever is drawn as nothing
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
"""A character class: what moves a cursor, reorders text, or is drawn as nothing."""
_CONTROLS = re.compile(UNSEEN)


def safe(text: str) -> str:
    """`text` without escape sequences, control, bidi, invisible or unpaired characters.

    New lines and tabs stay. Idempotent.
    """
    while True:
        cleaner = _CONTROLS.sub("", _SEQUENCES.sub("", text))
        if cleaner == text:
            return text
        text = cleaner


def line(text: str) -> str:
    """`safe(text)` on one line."""
    return safe(text).replace("\n", " ")


_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    chr(0x10000 * plane + last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)
"""Valid in Python, but neither in XML nor in HTML."""
_RUN = re.compile(f"{UNSEEN[:-1]}{_NONCHARACTERS}]+")
_EACH = 3
LONGEST_NAME = 120


def visible(text: str) -> str:
    """`text` with every control, bidi, invisible or unpaired character as `⟦U+202E⟧`.

    A run of more than three is told by its first one and their number. New lines and tabs stay.
    Text without such characters stays as it is, so whatever is shown can be read back.
    """
    return _RUN.sub(lambda found: _spelled(found[0]), text)


def hidden(text: str) -> int:
    """How many characters of `text` would hide or reorder."""
    return sum(len(found[0]) for found in _RUN.finditer(text))


def name(text: str, longest: int = LONGEST_NAME) -> str:
    """A name on one line, cut where it is longer than any name should be."""
    shown = " ".join(visible(text[: 2 * longest]).split())
    cut = len(text) > 2 * longest or len(shown) > longest
    return f"{shown[:longest]}… ({len(text):,} characters)" if cut else shown


def _spelled(run: str) -> str:
    told = "".join(f"⟦U+{ord(c):04X}⟧" for c in run[:_EACH])
    return told if len(run) <= _EACH else f"⟦U+{ord(run[0]):04X} and {len(run) - 1} more⟧"


@dataclass(frozen=True, slots=True)
class Rated:
    """A rate as it was written: its value and 95 % interval (None: unscored), n, and causes.

    `bounds` counts all unscored items once one way and once the other.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    total: int
    unscored: Mapping[str, int] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None


def number(told: Any) -> float | None:
    """`told` as a finite float; None where it is anything else."""
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    try:
        value = float(told)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def whole(told: Any) -> int:
    """`told` as a count; 0 where it is none."""
    value = number(told)
    return int(value) if value is not None and value >= 0 else 0


def mapping(told: Any) -> Mapping[str, Any]:
    """`told` where it has names and values, else nothing."""
    return told if isinstance(told, Mapping) else {}


def listed(told: Any) -> list[Any]:
    """`told` where it is a list, else nothing."""
    return told if isinstance(told, list) else []


def rated(told: Any) -> Rated | None:
    """A rate as `Rate.to_json` wrote it; None where there is none."""
    if not isinstance(told, Mapping):
        return None
    value, interval = number(told.get("value")), _pair(told.get("ci95"))
    low, high = interval or (None, None)
    n = whole(told.get("n_scored"))
    causes = {str(k): whole(v) for k, v in mapping(told.get("unscored")).items() if whole(v)}
    total = max(n, whole(told.get("n_total")))
    return Rated(value, low, high, n, total, causes, _pair(told.get("bounds")))


def _pair(told: Any) -> tuple[float, float] | None:
    """Two numbers; None where there are not exactly two."""
    values = [value for value in map(number, listed(told)) if value is not None]
    return (values[0], values[1]) if len(values) == len(listed(told)) == 2 else None


def rates(told: Any) -> dict[str, Rated]:
    """Every rate by `metric/set`."""
    found = {str(key): rated(value) for key, value in mapping(told).items()}
    return {key: value for key, value in found.items() if value is not None}


POOLED = ("adversarial", "wrapped", "rewritten")
"""Sets that stand for others, in the order in which they are preferred."""


def families(keys: Iterable[str], metric: str) -> list[str]:
    """The sets that a metric was measured on, pooled ones first."""
    names = [key.split("/", 1)[1] for key in keys if key.startswith(f"{metric}/")]
    return sorted(names, key=lambda name: name not in POOLED)


def headline_key(keys: Iterable[str], metric: str) -> str | None:
    """The rate that stands for a metric; None where it was not measured."""
    names = families(keys, metric)
    if not names:
        return None
    pooled = [name for name in POOLED if name in names]
    other = [name for name in names if name != "plain"]
    return f"{metric}/{(pooled or other or names)[0]}"


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
