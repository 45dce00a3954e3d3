"""Verbs that look: at runs, configurations and this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sparring.cli.speech import ANYTHING, Json, Overrides, Run, print_json, say

runs_app = typer.Typer(no_args_is_help=True, help="Look at recorded runs.")
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")


@runs_app.command("list")
def list_runs(folder: Path = Path("runs"), json: Json = False) -> None:
    """Every run below a folder and how it stands."""
    from sparring.records import RunDir

    found = [RunDir(path.parent) for path in sorted(folder.glob("*/config.yaml"))]
    told = [{"run": str(r.folder), "rounds": len(r.rounds()), **r.status} for r in found]
    if json:
        print_json(told)
    for row in told if not json else []:
        say(f"{row['run']:32s}", f"{row['rounds']:5d} rounds ", f"{row['status']}")


@runs_app.command("show")
def show_run(
    run: Run,
    pool: Annotated[bool, typer.Option("--pool", help="the experience pool instead")] = False,
    content: Annotated[bool, typer.Option("--content", help="its texts too: untrusted")] = False,
    json: Json = False,
) -> None:
    """A run's status, checkpoints and last round."""
    from sparring.records import RunDir

    if pool:
        _show_pool(run, content, json)
        return

    opened = RunDir.open(run)
    rounds = opened.rounds()
    told = {
        "run": str(run),
        **opened.status,
        "rounds": len(rounds),
        "checkpoints": opened.checkpoints.numbers(),
        "exams": opened.exams(),
        "last": rounds[-1]["metrics"] if rounds else {},
    }
    if json:
        print_json(told)
    for key, value in told.items() if not json else ():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for name, number in rows:
            say(f"{f'{key} {name}'.strip():40s}", f"{number}")


def _show_pool(run: Path, content: bool, json: bool) -> None:
    """The hardest, the most visited and the retired attacks of the last checkpoint."""
    from sparring.records import RunDir
    from sparring.report.pool import listed

    told = listed(RunDir.open(run), content)
    if json:
        print_json(told)
        return
    say(f"{told['size']} awake, {told['asleep']} retired, {told['visits']} visits")
    for name in ("hardest", "most visited", "retired"):
        say(f"{name}:")
        for row in told[name]:
            label = "harmful" if row["harmful"] else "benign"
            head = f"  m {row['mean']:.2f}  n {row['visits']:3d}  {label:7s}"
            say(f"{head}  {row['seed']}  {row['attack']}")


@runs_app.command("tail")
def tail_run(run: Run, n: Annotated[int, typer.Option(min=1, help="rounds")] = 10) -> None:
    """The metrics of the last rounds, one JSON line each."""
    from sparring.records import RunDir

    for record in RunDir.open(run).rounds()[-n:]:
        print_json(record, indent=None)


@config_app.command("show", context_settings=ANYTHING)
def show_config(what: str, overrides: Overrides = None) -> None:
    """The resolved configuration: defaults < file < command line."""
    from sparring import recipes
    from sparring.config import to_yaml

    sys.stdout.write(to_yaml(recipes.configured(what, overrides or [])))


@config_app.command("schema")
def show_schema() -> None:
    """The JSON schema of a configuration."""
    from sparring.settings import RunConfig

    print_json(RunConfig.model_json_schema())
