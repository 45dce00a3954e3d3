"""From runs to one HTML page that needs nothing but itself, and what a terminal is told."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from sparring.report.gather import Story, Summary, gather, summarize
from sparring.report.layout import COLUMN, line, name, visible
from sparring.report.plots import DARK, LIGHT, images
from sparring.report.reproduce import judged, played
from sparring.report.sections import cards, sections
from sparring.report.text import show
from sparring.store.files import write_atomic, writing
from sparring.store.folder import RunDir
from sparring.types import UsageError

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


@dataclass(frozen=True, slots=True)
class Asked:
    """What to report on, and how much of it to show; `output` is the page, or its folder."""

    runs: Sequence[Path]
    output: Path | None = None
    public: bool = False
    include_harmful: bool = False


def report(asked: Asked, console: Console, as_json: bool) -> None:
    """Write the page and tell a person what came of it; or only tell a machine."""
    runs = _opened(asked)
    if as_json:
        told = [summarize(run).to_json() for run in runs]
        console.file.write(json.dumps(told if len(told) > 1 else told[0], indent=2) + "\n")
        if asked.output:
            write_report(asked)
        return
    page = write_report(asked)
    for run in runs:
        show(summarize(run), console)
    console.print(Text(f"\nreport     {line(str(page))}"), soft_wrap=True)


def write_report(asked: Asked) -> Path:
    """Write `index.html`, and beside it `figures/` as SVG and PNG; returns the page's path.

    UsageError where `public` and `include_harmful` are both asked for, or a run has no exam yet.
    """
    runs = _opened(asked)
    target = _target(asked)
    stories = [
        gather(run, label, asked.include_harmful)
        for run, label in zip(runs, labels(asked.runs), strict=True)
    ]
    page = render(stories, asked.public, asked.include_harmful)
    figures = target.parent / "figures"
    if figures.is_symlink():
        raise UsageError(f"{figures}: is a link; nothing is written through it")
    with writing(target.parent.parent):
        figures.mkdir(parents=True, exist_ok=True)
    for file, data in page.figures.items():
        write_atomic(figures / file, data)
    write_atomic(target, page.html.encode("utf-8"))
    return target


def _opened(asked: Asked) -> list[RunDir]:
    if asked.public and asked.include_harmful:
        raise UsageError("--public shows no harmful text; leave out --include-harmful")
    if not asked.runs:
        raise UsageError("RUN: name at least one run's folder")
    return [RunDir.open(run) for run in asked.runs]


def _target(asked: Asked) -> Path:
    """Where the page goes; a link in somebody else's run is not followed."""
    if asked.output is None:
        folder = asked.runs[0] / "report"
        if folder.is_symlink():
            raise UsageError(f"{folder}: is a link; say with --output where the page should go")
        return folder / "index.html"
    is_page = asked.output.suffix in (".html", ".htm") and not asked.output.is_dir()
    return asked.output if is_page else asked.output / "index.html"


def labels(runs: Sequence[Path]) -> list[str]:
    """The runs' own names, or where two have the same, their paths."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


__all__ = ["Asked", "Summary", "labels", "report", "write_report"]
