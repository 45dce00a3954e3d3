"""What every verb speaks through: safe lines, notes on stderr, JSON."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value or --key value, such as learner.beta=0.05")
]
TrustEndpoints = Annotated[
    bool,
    typer.Option("--trust-endpoints", help="use the servers and key variables that the run names"),
]
Json = Annotated[bool, typer.Option("--json", help="for machines")]
Run = Annotated[Path, typer.Argument(help="a run's folder")]


def console() -> Any:
    """Where people read."""
    from rich.console import Console

    width = int(os.environ.get("COLUMNS", "0")) or (None if sys.stdout.isatty() else 120)
    return Console(width=width)


def say(*words: str) -> None:
    """One line for a person; no word can change the others, begin a line or pass for markup."""
    from rich.text import Text

    from sparring.report.escape import line

    console().print(Text(" ".join(line(word) for word in words)), soft_wrap=True)


def note(text: str) -> None:
    """Something to know, beside the output; nothing if there is nothing."""
    from rich.console import Console

    from sparring.report.escape import safe

    if text:
        Console(stderr=True).print(safe(text), style="yellow", highlight=False, markup=False)


def print_json(told: Any, indent: int | None = 2) -> None:
    """For machines."""
    import json

    sys.stdout.write(json.dumps(told, indent=indent) + "\n")


def end(text: str, code: int) -> NoReturn:
    """Errors quote data."""
    from sparring.report.escape import safe

    sys.stderr.write(safe(text))
    sys.exit(code)
