"""From runs to one HTML page that needs nothing but itself: no script, no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sparring.report.gather import Story
from sparring.report.layout import COLUMN
from sparring.report.plots import DARK, LIGHT, images
from sparring.report.reproduce import judged, played
from sparring.report.sections import cards, sections
from sparring.report.visible import name, visible

SECURITY = (
    "default-src 'none'; img-src data:; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, slots=True)
class Page:
    """The page, and its figures as files by name."""

    html: str
    figures: dict[str, bytes]


def render(stories: Sequence[Story], public: bool, include_harmful: bool) -> Page:
    """The page of one or several runs."""
    told = sections(stories, public)
    drawings = [drawing for section in told for drawing in section.figures]
    drawn = {
        d.name: (images(d, LIGHT, ("svg", "png")), images(d, DARK, ("svg",))) for d in drawings
    }
    figures = {f"{key}.svg": light[0] for key, (light, _) in drawn.items()}
    figures |= {f"{key}.png": light[1] for key, (light, _) in drawn.items()}
    css = _packaged("report.css")
    html = _template().render(
        css=Markup(css),
        security=SECURITY.format(_sha256(css)),
        title=" · ".join(name(story.label, 60) for story in stories),
        runs=[(name(story.label), f"c{i}", played(story)) for i, story in enumerate(stories)],
        judges=judged(stories),
        kind="harmful" if include_harmful else "public" if public else "redacted",
        cards=cards(stories),
        sections=told,
        column=COLUMN,
        images={key: (_uri(light[0]), _uri(dark[0])) for key, (light, dark) in drawn.items()},
    )
    return Page(html, figures)


def _template() -> Any:
    """Every value is spelled out where it would hide, then escaped; ours is the template alone."""
    environment = Environment(
        autoescape=True, finalize=_shown, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.from_string(_packaged("report.html.j2"))


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _packaged(file: str) -> str:
    return (files("sparring.report") / "templates" / file).read_text("utf-8")


def _sha256(css: str) -> str:
    return base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()


def _uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
