"""`sparring report`: the page and its figures on disk, and what a terminal is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sparring.checkpoint import write_atomic, writing
from sparring.records import RunDir
from sparring.report.gather import gather
from sparring.report.page import render
from sparring.report.summary import Summary, summarize
from sparring.report.terminal import line
from sparring.report.text import show
from sparring.types import UsageError


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
    for name, data in page.figures.items():
        write_atomic(figures / name, data)
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
