"""Verbs that look: at runs, configurations and this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli.speech import ANYTHING, Json, Overrides, Run, print_json, say

if TYPE_CHECKING:
    from sparring.records import RunDir

runs_app = typer.Typer(no_args_is_help=True, help="Look at recorded runs.")
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")


@runs_app.command("list")
def list_runs(folder: Path = Path("runs"), json: Json = False) -> None:
    """Every run below a folder and how it stands; exit code 1 where one is damaged."""
    from sparring.records import RunDir
    from sparring.types import CorruptError

    rows = [_row(RunDir(path.parent)) for path in sorted(folder.glob("*/config.yaml"))]
    if json:
        print_json(rows)
    for row in rows if not json else []:
        rounds = "?" if row["rounds"] is None else row["rounds"]
        why = f": {row['damage']}" if row["rounds"] is None else ""
        say(f"{row['run']:32s}", f"{rounds:>5} rounds ", f"{row['status']}{why}")
    if damaged := sum(row["rounds"] is None for row in rows):
        raise CorruptError(f"{folder}: {damaged} of {len(rows)} runs cannot be read")


def _row(run: RunDir) -> dict[str, Any]:
    """How a run stands, and what is wrong with one that cannot tell."""
    from sparring.types import SparringError

    name = str(run.folder)
    try:
        return {**run.status, "run": name, "rounds": len(run.rounds())}
    except (SparringError, OSError) as error:
        why = str(error).removeprefix(f"{name}/")
        return {"run": name, "rounds": None, "status": "damaged", "damage": why}


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
