"""One figure as SVG or PNG, light or dark; no text from data is ever read as mathematics."""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparring import packaged
from sparring.report.escape import name
from sparring.stats.rates import Rate

_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
COLUMN = 4.0
"""Inches of a figure in one column; a wider one takes them all."""
FEWEST_JOINED = 3
"""Measured points from which on a line joins them."""
STYLES = ("-", (0, (4, 1.6)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)))
"""Line styles of several metrics of one run, where colours tell runs apart."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a figure; `series` tells runs, or the lines of one run, apart."""

    paper: str
    ink: str
    muted: str
    grid: str
    series: Sequence[str]
    attacker: str
    defender: str
    heat: Sequence[str]

    def colour(self, place: int) -> str:
        return self.series[place % len(self.series)]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure: what draws it into a matplotlib `Figure` in a theme; sizes are in inches."""

    name: str
    alt: str
    draw: Callable[[Any, Theme], None]
    caption: str = ""
    width: float = COLUMN
    height: float = 2.5


_SETTINGS: Mapping[str, Any] = packaged.table("report/templates/themes.yaml")
LIGHT, DARK = Theme(**_SETTINGS["light"]), Theme(**_SETTINGS["dark"])


def images(drawing: Drawing, theme: Theme, kinds: Sequence[str]) -> list[bytes]:
    """Draw a figure as `svg` (text as outlines, the same bytes every time) or `png`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the font lacks are drawn as boxes
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS["style"])
        mpl.rcParams.update({key: getattr(theme, c) for key, c in _SETTINGS["coloured"].items()})
        figure = Figure(figsize=(drawing.width, drawing.height), facecolor=theme.paper)
        drawing.draw(figure, theme)
        return [_saved(figure, kind) for kind in kinds]


def _saved(figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    options: Mapping[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 200}
    figure.savefig(buffer, format=kind, **options)
    return _COMMENT.sub(b"", buffer.getvalue()) if kind == "svg" else buffer.getvalue()


def label(text: str, longest: int = 26) -> str:
    """Return a name as a figure shows it.

    matplotlib would leave out a legend that begins with `_`.
    """
    shown = name(text, 1000)
    shown = shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
    return f" {shown}" if shown.startswith("_") else shown


def axes_in(figure: Any, theme: Theme, title: str, margins: Sequence[float]) -> Any:
    """Add axes below a title, so that text keeps its size in every figure.

    `margins` are left, top, right and bottom, in inches.
    """
    left, top, right, bottom = margins
    width, height = figure.get_size_inches()
    place = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    look = {"va": "top", "fontsize": 9, "fontweight": "bold", "color": theme.ink}
    figure.text(0.08 / width, 1 - 0.08 / height, title, **look)
    return figure.add_axes(place)


def legend_above(figure: Any, axes: Any, columns: int = 3) -> None:
    """Put what is drawn and has a label into a legend below the title, and make room for it."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        width, height = figure.get_size_inches()
        place = {"loc": "upper left", "bbox_to_anchor": (0.06 / width, 1 - 0.22 / height)}
        spaces = {"borderpad": 0.2, "columnspacing": 1.2, "handlelength": 1.8}
        figure.legend(handles, labels, ncols=columns, **place, **spaces)
        left, bottom, wide, high = axes.get_position().bounds
        room = 0.17 * -(-len(handles) // columns) / height
        axes.set_position((left, bottom, wide, high - room))


def with_intervals(
    axes: Any, points: Sequence[tuple[float, Rate]], colour: str, text: str, hollow: bool = False
) -> None:
    """Draw scored rates with their 95 % intervals: as bars, or as a band where they are many.

    Two are not joined: nobody knows how fast the one became the other.
    """
    x = [at for at, _ in points]
    y = np.array([rate.value or 0.0 for _, rate in points])
    low, high = np.transpose([rate.ci95 or (rate.value, rate.value) for _, rate in points])
    style = "none" if len(points) < FEWEST_JOINED else "--" if hollow else "-"
    look: dict[str, Any] = {"color": colour, "label": text, "lw": 1.4, "ls": style, "zorder": 3}
    if len(points) > 40:
        axes.fill_between(x, low, high, color=colour, alpha=0.25, lw=0)
        axes.plot(x, y, **look)
        return
    beside = np.maximum(0.0, (y - low, high - y))
    fill = axes.get_facecolor() if hollow else colour
    axes.errorbar(x, y, beside, fmt="o", ms=3.4, mfc=fill, elinewidth=0.9, clip_on=False, **look)
