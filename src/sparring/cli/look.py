"""Verbs that look: at runs, configurations and data sets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from sparring.cli import speech
from sparring.cli.speech import PASS_THROUGH, Json, Overrides, RunFolder, answer, note, say

if TYPE_CHECKING:
    from sparring.data.tally import Tally
    from sparring.store.folder import RunDir

runs_app = Typer(no_args_is_help=True, help="Look at recorded runs.")
config_app = Typer(no_args_is_help=True, help="Look at configurations.")
data_app = Typer(no_args_is_help=True, help="Look at files of seeds.")
APPS = {"runs": runs_app, "config": config_app, "data": data_app}
_MOST_SHOWN = 30
_FILE = Argument(metavar="FILE", help="a file, or OWNER/NAME:FILE@REVISION on the hub")
Map = Annotated[
    list[str] | None,
    Option("--map", help="of unknown columns: prompt=COLUMN,harmful=COLUMN|true|false,…"),
]


@runs_app.command("list")
def list_runs(folder: Path = Path("runs"), json: Json = False) -> None:
    """Every run below a folder and how it stands; exit code 1 where one is damaged."""
    from sparring.store.folder import RunDir
    from sparring.types import CorruptError

    rows = [_row(RunDir(path.parent)) for path in sorted(folder.glob("*/config.yaml"))]
    lines = (
        f"{row['run']:32s} {row['rounds']:>5} rounds  {row['status']}"
        if row["rounds"] is not None
        else f"{row['run']:32s} {'?':>5} rounds  damaged: {row['damage']}"
        for row in rows
    )
    answer(json, rows, lines)
    if damaged := sum(row["rounds"] is None for row in rows):
        raise CorruptError(f"{folder}: {damaged} of {len(rows)} runs cannot be read")


def _row(run: RunDir) -> dict[str, Any]:
    """Return how a run stands, and what is wrong with one that cannot tell."""
    from sparring.types import SparringError

    name = str(run.folder)
    try:
        return {**run.status.to_json(), "run": name, "rounds": len(run.rounds())}
    except (SparringError, OSError) as error:
        why = str(error).removeprefix(f"{name}/")
        return {"run": name, "rounds": None, "status": "damaged", "damage": why}


@runs_app.command("show")
def show_run(
    run: RunFolder,
    pool: Annotated[bool, Option("--pool", help="the experience pool instead")] = False,
    content: Annotated[bool, Option("--content", help="its texts too: untrusted")] = False,
    json: Json = False,
) -> None:
    """A run's status, checkpoints and last round."""
    from sparring.report.run_report import pool_entries

    opened = speech.run_dir(run)
    if pool:
        entries = pool_entries(opened, content)
        answer(json, entries, _pool_lines(entries))
        return
    rounds = opened.rounds()
    facts = {
        "run": str(run),
        **opened.status.to_json(),
        "rounds": len(rounds),
        "checkpoints": opened.checkpoints.numbers(),
        "exams": opened.exams(),
        "last": rounds[-1].metrics if rounds else {},
    }
    lines = (
        f"{f'{key} {name}'.strip():40s} {number}"
        for key, value in facts.items()
        for name, number in (value.items() if isinstance(value, dict) else [("", value)])
    )
    answer(json, facts, lines)


def _pool_lines(pool: dict[str, Any]) -> Iterator[str]:
    """Yield the hardest, the most visited and the retired attacks of the last checkpoint."""
    yield f"{pool['size']} awake, {pool['asleep']} retired, {pool['visits']} visits"
    for name in ("hardest", "most visited", "retired"):
        yield f"{name}:"
        for row in pool[name]:
            label = "harmful" if row["harmful"] else "benign"
            head = f"  m {row['mean']:.2f}  n {row['visits']:3d}  {label:7s}"
            yield f"{head}  {row['seed']}  {row['attack']}"


@runs_app.command("tail")
def tail_run(run: RunFolder, n: Annotated[int, Option(min=1, help="rounds")] = 10) -> None:
    """The metrics of the last rounds, one JSON line each."""
    for record in speech.run_dir(run).rounds()[-n:]:
        speech.print_json(record.to_json(), indent=None)


@config_app.command("show", context_settings=PASS_THROUGH)
def show_config(what: str, overrides: Overrides = None) -> None:
    """The resolved configuration: defaults < file < command line."""
    from sparring.runs.recipes import configured
    from sparring.settings.config import to_yaml

    sys.stdout.write(to_yaml(configured(what, overrides or [])))


@config_app.command("schema")
def show_schema() -> None:
    """The JSON schema of a configuration."""
    from sparring.settings.config import RunConfig

    speech.print_json(RunConfig.model_json_schema())


@data_app.command("list")
def list_schemas(json: Json = False) -> None:
    """Every known file by its columns."""
    from sparring.data.schemas import SCHEMAS

    rows = [{"name": s.name, "columns": s.header, "file": s.named} for s in SCHEMAS]
    lines = (
        f"{s.name:40s} {s.header}" + (f" (in a file called {s.named})" if s.named else "")
        for s in SCHEMAS
    )
    answer(json, rows, lines)


@data_app.command("show")
def show_data(file: Annotated[str, _FILE], map: Map = None, json: Json = False) -> None:
    """Which schema matches, how many of each label, repeats, clusters, categories."""
    from sparring.data.mapping import parsed
    from sparring.data.tally import tally

    counts = tally(file, parsed(map or []))
    lines = (f"{name:26s} {value}" for name, value in _tally_rows(counts))
    answer(json, {"file": file, **asdict(counts)}, lines)
    if not json:
        note(counts.note)


def _tally_rows(counts: Tally) -> Iterator[tuple[str, str]]:
    """Yield what is shown of a file of seeds, by name."""
    share = counts.harmful / counts.seeds
    yield "schema", counts.schema
    yield "seeds", f"{counts.seeds}"
    yield "labels", f"{counts.harmful} harmful ({share:.1%}), {counts.benign} benign"
    yield "repeated ids", f"{counts.repeated_ids}"
    yield "repeated prompts", f"{counts.repeated_prompts} (case, punctuation and spaces aside)"
    yield "with both labels", f"{counts.contradicting} prompts"
    yield "clusters", f"{counts.clusters}, the largest of {counts.largest_cluster}"
    yield "with a goal of their own", f"{counts.with_goal}"
    yield "longest prompt", f"{counts.longest} characters"
    for why, n in counts.left_out.items():
        yield "left out", f"{n}: {why}"
    for name, n in list(counts.categories.items())[:_MOST_SHOWN]:
        yield "category", f"{n:6d}  {name or '(none)':.60s}"
    if len(counts.categories) > _MOST_SHOWN:
        yield "category", f"and {len(counts.categories) - _MOST_SHOWN} more (--json)"


@data_app.command("validate")
def validate(
    files: Annotated[list[str], Argument(metavar="FILE...", help="as for `data show`")],
    map: Map = None,
) -> None:
    """Read files whole; exit code 2 with the file and line of the first thing that is wrong."""
    from sparring.data.mapping import parsed
    from sparring.data.readers import summary
    from sparring.data.tally import tally

    for file in files:
        counts = tally(file, parsed(map or []))
        read, *left = summary(file, counts.schema, counts.seeds, "seeds", counts.left_out)
        both = [f"{counts.contradicting} requests have both labels"] if counts.contradicting else []
        say(f"{file}: {'; '.join([read, *left, *both])}")
