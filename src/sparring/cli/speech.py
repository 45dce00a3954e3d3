"""What all commands share: argument types, and output that is safe to print."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Self

from typer import Argument, Option

from sparring.pulse import BEGAN, SILENCE
from sparring.report.escape import line, safe

if TYPE_CHECKING:
    from sparring.store.folder import RunDir

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of a command that reads `--key value` overrides itself."""
RecipeOrConfig = Annotated[
    str, Argument(metavar="RECIPE|CONFIG", help="a recipe such as magic, or a YAML file")
]
Overrides = Annotated[
    list[str] | None, Argument(help="key=value or --key value, such as learner.beta=0.05")
]
TrustEndpoints = Annotated[
    bool, Option("--trust-endpoints", help="use the servers and key variables that the run names")
]
Json = Annotated[bool, Option("--json", help="for machines")]
UNBROKEN = 10_000
"""Width of output into a file or a pipe, so that searches find whole lines."""
RunFolder = Annotated[Path, Argument(help="a run's folder")]
RunFolders = Annotated[list[Path], Argument(metavar="RUN...", help="runs' folders")]


def console(stderr: bool = False) -> Any:
    """Return the console that people read; in a file or a pipe no line is broken."""
    from rich.console import Console

    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, emoji=False, width=None if is_terminal else UNBROKEN)


def say(*words: str) -> None:
    """Print one line for a person; line breaks, control characters and markup are escaped."""
    from rich.text import Text

    console().print(Text(" ".join(line(word) for word in words)), soft_wrap=True)


def is_first_process() -> bool:
    """Return whether this is the one of a run's processes that speaks."""
    return os.environ.get("RANK", "0") == "0"


def note(*texts: str) -> None:
    """Print what a person should know on stderr, beside the output; an empty text is left out."""
    for text in filter(None, texts if is_first_process() else ()):
        how: dict[str, Any] = dict.fromkeys(("highlight", "markup", "emoji"), False)
        console(stderr=True).print(safe(text), style="yellow", **how)


def program() -> str:
    """Return how to call this program again: as `sparring` only if PATH finds it."""
    called, on_path = sys.argv[0], shutil.which("sparring")
    if called.endswith("__main__.py"):
        return f"{sys.executable} -m sparring"
    is_same = on_path and Path(called).exists() and Path(on_path).samefile(called)
    return "sparring" if is_same else called


class Pulse:
    """Prints on stderr what is under way whenever four seconds have passed without a line.

    A thread of its own does, because one pass over a large batch takes longer on a slow processor.
    Whoever shows the work in another way beats with no work, before it prints and at its end.
    """

    def __init__(self) -> None:
        self.printed = BEGAN
        self.text = ""
        self.ended = Event()

    def __call__(self, work: str, done: int, total: int) -> None:
        self.text = f"{work} {done}/{total}" if work else ""
        if not work:
            self.printed = time.monotonic()

    def __enter__(self) -> Self:
        self.printed = time.monotonic()
        Thread(target=self._remind, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()

    def _remind(self) -> None:
        while not self.ended.wait(SILENCE / 8):
            now = time.monotonic()
            if self.text and now - self.printed > SILENCE:
                self.printed = now
                note(f"{now - BEGAN:6.0f}s  {self.text}")


def run_dir(folder: Path) -> RunDir:
    """Return a run's folder; UsageError where there is no run."""
    from sparring.store.folder import RunDir

    return RunDir.open(folder)


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print a value for machines."""
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")


def answer(as_json: bool, value: Any, lines: Iterable[str]) -> None:
    """Print the result of a verb: as JSON for machines, or line by line for a person."""
    if as_json:
        print_json(value)
        return
    for text in lines:
        say(text)


def end(text: str, code: int) -> NoReturn:
    """Leave with an error's text and exit code; the text is made safe, as it may quote data."""
    sys.stderr.write(safe(text))
    sys.exit(code)
