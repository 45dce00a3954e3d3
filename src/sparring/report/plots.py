"""One figure as SVG or PNG, light or dark; no text from data is ever read as mathematics."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.report.layout import Drawing, name

_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a figure; `series` tells runs (or lines of one run) apart."""

    paper: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]
    attacker: str
    defender: str
    heat: tuple[str, str, str]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1f2430",
    muted="#667085",
    grid="#e4e7ec",
    series=(
        *("#1f66b0", "#c4570f", "#2b8a57", "#8250a8"),
        *("#b08900", "#12889a", "#b83b76", "#647332"),
    ),
    attacker="#fbe6d9",
    defender="#e3eef9",
    heat=("#f4f6f9", "#f0b48a", "#b3341c"),
)
DARK = Theme(
    paper="#171c24",
    ink="#e6e9ef",
    muted="#98a2b3",
    grid="#2c3441",
    series=(
        *("#74b3f2", "#f2a063", "#67c998", "#c09be6"),
        *("#dfc05a", "#5cc7d6", "#ee8fba", "#b3c47a"),
    ),
    attacker="#3b2a22",
    defender="#1c2d42",
    heat=("#1e2530", "#7d4a34", "#f08a5d"),
)
STYLES = ("-", (0, (4, 1.6)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)))
"""Line styles of several metrics of one run, where colours tell runs apart."""


def images(drawing: Drawing, theme: Theme, kinds: Sequence[str]) -> list[bytes]:
    """The figure as `svg` (text as outlines, no comments, the same bytes every time) or `png`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the font lacks are drawn as boxes
        mpl.rcdefaults()
        for key, value in _style(theme).items():
            mpl.rcParams[key] = value
        figure = Figure(figsize=(drawing.width, drawing.height), facecolor=theme.paper)
        drawing.draw(figure, theme)
        return [_saved(figure, kind) for kind in kinds]


def _saved(figure: Any, kind: str) -> bytes:
    told = io.BytesIO()
    kept: Mapping[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 200}
    figure.savefig(told, format=kind, **kept)
    return _COMMENT.sub(b"", told.getvalue()) if kind == "svg" else told.getvalue()


def label(text: str, longest: int = 26) -> str:
    """A name as a figure shows it; matplotlib would leave out a legend that begins with `_`."""
    shown = name(text, 1000)
    shown = shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
    return f" {shown}" if shown.startswith("_") else shown


def inches(figure: Any, left: float, top: float, right: float = 0.12, bottom: float = 0.36) -> Any:
    """Axes with margins in inches, so that text keeps its size whatever the figure's."""
    width, height = figure.get_size_inches()
    place = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    return figure.add_axes(place)


def headed(axes: Any, title: str, theme: Theme) -> None:
    """A title at the left, outside the plot."""
    axes.figure.text(
        0.08 / axes.figure.get_size_inches()[0],
        1 - 0.08 / axes.figure.get_size_inches()[1],
        title,
        ha="left",
        va="top",
        fontsize=9,
        fontweight="bold",
        color=theme.ink,
    )


def _style(theme: Theme) -> dict[Any, Any]:
    return {
        "axes.edgecolor": theme.grid,
        "axes.facecolor": theme.paper,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.labelcolor": theme.muted,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 8,
        "grid.color": theme.grid,
        "grid.linewidth": 0.6,
        "legend.fontsize": 7.5,
        "legend.frameon": False,
        "legend.labelcolor": theme.ink,
        "svg.fonttype": "path",
        "svg.hashsalt": "sparring",
        "text.color": theme.ink,
        "text.parse_math": False,
        "text.usetex": False,
        "xtick.color": theme.muted,
        "xtick.major.size": 0,
        "ytick.color": theme.muted,
        "ytick.major.size": 0,
    }
