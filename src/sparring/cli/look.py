"""Verbs that look: at runs, configurations, data sets and this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli.speech import ANYTHING, Json, Overrides, Run, note, print_json, say

if TYPE_CHECKING:
    from sparring.store.folder import RunDir

runs_app = typer.Typer(no_args_is_help=True, help="Look at recorded runs.")
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")


@runs_app.command("list")
def list_runs(folder: Path = Path("runs"), json: Json = False) -> None:
    """Every run below a folder and how it stands; exit code 1 where one is damaged."""
    from sparring.store.folder import RunDir
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
        return {**run.status.to_json(), "run": name, "rounds": len(run.rounds())}
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
    from sparring.store.folder import RunDir

    if pool:
        _show_pool(run, content, json)
        return

    opened = RunDir.open(run)
    rounds = opened.rounds()
    told = {
        "run": str(run),
        **opened.status.to_json(),
        "rounds": len(rounds),
        "checkpoints": opened.checkpoints.numbers(),
        "exams": opened.exams(),
        "last": rounds[-1].metrics if rounds else {},
    }
    if json:
        print_json(told)
    for key, value in told.items() if not json else ():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for name, number in rows:
            say(f"{f'{key} {name}'.strip():40s}", f"{number}")


def _show_pool(run: Path, content: bool, json: bool) -> None:
    """The hardest, the most visited and the retired attacks of the last checkpoint."""
    from sparring.report.run_report import pool_entries as listed
    from sparring.store.folder import RunDir

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
    from sparring.store.folder import RunDir

    for record in RunDir.open(run).rounds()[-n:]:
        print_json(record.to_json(), indent=None)


@config_app.command("show", context_settings=ANYTHING)
def show_config(what: str, overrides: Overrides = None) -> None:
    """The resolved configuration: defaults < file < command line."""
    from sparring.runs import recipes
    from sparring.settings.config import to_yaml

    sys.stdout.write(to_yaml(recipes.configured(what, overrides or [])))


@config_app.command("schema")
def show_schema() -> None:
    """The JSON schema of a configuration."""
    from sparring.settings.config import RunConfig

    print_json(RunConfig.model_json_schema())


data_app = typer.Typer(no_args_is_help=True, help="Look at files of seeds.")
_MOST_SHOWN = 30
_FILE = typer.Argument(metavar="FILE", help="a file, or OWNER/NAME:FILE@REVISION on the hub")
Map = Annotated[
    list[str] | None,
    typer.Option("--map", help="of unknown columns: prompt=COLUMN,harmful=COLUMN|true|false,…"),
]


@data_app.command("list")
def list_schemas(json: Json = False) -> None:
    """Every known file by its columns."""
    from sparring.data.schemas import SCHEMAS

    if json:
        print_json([{"name": s.name, "columns": s.header, "file": s.named} for s in SCHEMAS])
    for schema in SCHEMAS if not json else ():
        named = f" (in a file called {schema.named})" if schema.named else ""
        say(f"{schema.name:40s}", f"{schema.header}{named}")


@data_app.command("show")
def show_data(file: Annotated[str, _FILE], map: Map = None, json: Json = False) -> None:
    """Which schema matches, how many of each label, repeats, clusters, categories."""
    from dataclasses import asdict

    from sparring.data.readers import parsed
    from sparring.data.tally import tally

    told = tally(file, parsed(map or []))
    if json:
        print_json({"file": file, **asdict(told)})
        return
    share = told.harmful / told.seeds
    lines = {
        "schema": told.schema,
        "seeds": f"{told.seeds}",
        "labels": f"{told.harmful} harmful ({share:.1%}), {told.benign} benign",
        "repeated ids": f"{told.repeated_ids}",
        "repeated prompts": f"{told.repeated_prompts}",
        "clusters": f"{told.clusters}, the largest of {told.largest_cluster}",
        "with a goal of their own": f"{told.with_goal}",
        "longest prompt": f"{told.longest} characters",
    }
    for name, value in lines.items():
        say(f"{name:26s}", value)
    for why, n in told.left_out.items():
        say(f"{'left out':26s}", f"{n}: {why}")
    for name, n in list(told.categories.items())[:_MOST_SHOWN]:
        say(f"{'category':26s}", f"{n:6d}  {name or '(none)':.60s}")
    if len(told.categories) > _MOST_SHOWN:
        say(f"{'category':26s}", f"and {len(told.categories) - _MOST_SHOWN} more (--json)")
    note(told.note)


@data_app.command("validate")
def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="as for `data show`")],
    map: Map = None,
) -> None:
    """Read files whole; exit code 2 with the file and line of the first thing that is wrong."""
    from sparring.data.readers import parsed
    from sparring.data.tally import tally

    for file in files:
        told = tally(file, parsed(map or []))
        say(f"{file}: read as {told.schema}: {told.seeds} seeds")
