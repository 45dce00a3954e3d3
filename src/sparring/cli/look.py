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
from sparring.data.rows import located
from sparring.types import CorruptError, SparringError, UsageError

if TYPE_CHECKING:
    from sparring.data.tally import Tally
    from sparring.store.folder import RunDir

runs_app = Typer(no_args_is_help=True, help="Look at recorded runs.")
config_app = Typer(no_args_is_help=True, help="Look at configurations.")
data_app = Typer(no_args_is_help=True, help="Look at files of seeds.")
APPS = {"runs": runs_app, "config": config_app, "data": data_app}
_MOST_SHOWN = 30
_SIBLING = 36
"""Columns of a terminal that a game takes beside its siblings."""
_FILE = Argument(metavar="FILE", help="a file, or OWNER/NAME:FILE@REVISION on the hub")
Map = Annotated[
    list[str] | None,
    Option("--map", help="of unknown columns: prompt=COLUMN,harmful=COLUMN|true|false,…"),
]


@runs_app.command("list")
def list_runs(folder: Path = Path("runs"), json: Json = False) -> None:
    """Every run below a folder and how it stands; exit code 1 where one is damaged."""
    from sparring.store.folder import RunDir

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

    name = str(run.folder)
    try:
        return {**run.status.to_json(), "run": name, "rounds": run.last_rounds(0)[0]}
    except (SparringError, OSError) as error:
        why = str(error).removeprefix(f"{name}/")
        return {"run": name, "rounds": None, "status": "damaged", "damage": why}


def view(
    run: RunFolder,
    done: Annotated[int | None, Option("--round", min=1, help="default: the last")] = None,
    exam: Annotated[int | None, Option(min=0, help="the exam after so many rounds")] = None,
    outcome: Annotated[str | None, Option(help="won (by the attacker) | lost | unscored")] = None,
    strategy: Annotated[str, Option(help="part of a strategy's or an exam family's name")] = "",
    limit: Annotated[int, Option(min=1, help="seeds, or games that are drawn")] = 5,
    draw: Annotated[int | None, Option(help="games at random, by this number")] = None,
    include_harmful: Annotated[
        bool, Option("--include-harmful", help="texts of real games in the clear")
    ] = False,
    json: Json = False,
) -> None:
    """Look at games: thought, what was sent, reply, verdict and payoff, siblings side by side."""
    from sparring.report import games, terminal

    if outcome not in (None, *games.OUTCOMES):
        raise UsageError(f"--outcome: {outcome!r:.40} is none of {', '.join(games.OUTCOMES)}")
    opened = speech.run_dir(run)
    shows_text = include_harmful or games.harmless(opened)
    everything = games.gathered(opened, done or exam, shows_text, exam=exam is not None)
    chosen = everything.only(outcome, strategy)
    drawn = chosen if draw is None else chosen.drawn(draw, limit)
    shown = drawn.groups[:limit]
    if json:
        speech.print_json([game.to_json() for group in shown for game in group])
        return
    of_all = f"; of {everything.counts}" if chosen.counts != everything.counts else ""
    say(f"{chosen.title}: {chosen.counts}{of_all} (won and lost: by the attacker)")
    screen = speech.console()
    for group in shown:
        columns = max(1, screen.width // _SIBLING) if screen.is_terminal else 1
        screen.print(terminal.siblings(group, columns))
    if len(shown) < len(drawn.groups):
        say(f"{len(drawn.groups) - len(shown)} seeds more (--limit)")
    note(games.unrecorded(opened), "" if shows_text else "texts: --include-harmful")


@runs_app.command("show")
def show_run(
    run: RunFolder,
    done: Annotated[int | None, Option("--round", min=1, help="its games: sparring view")] = None,
    pool: Annotated[bool, Option("--pool", help="the experience pool instead")] = False,
    content: Annotated[bool, Option("--content", help="its texts too: untrusted")] = False,
    json: Json = False,
) -> None:
    """A run's status, checkpoints and last round."""
    from sparring.report.run_report import pool_entries, settings_of

    if done:
        view(run, done, json=json)
        return
    opened = speech.run_dir(run)
    number, rounds = opened.last_rounds(1)
    facts = {
        "run": str(run),
        **opened.status.to_json(),
        "rounds": number,
        "of": settings.rounds if (settings := settings_of(opened)) else "?",
        "checkpoints": opened.checkpoints.numbers(),
        "exams": opened.exams(),
        "last": rounds[-1].metrics if rounds else {},
    }
    shown = pool_entries(opened, content) if pool else facts
    answer(json, shown, _fact_lines(shown))


def _fact_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yield every fact by its name; one that has parts, and an entry of the pool, part by part."""
    from sparring.report.progress import figure

    for key, value in facts.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        if isinstance(value, list) and value and isinstance(value[0], dict):
            parts = [("", "  ".join(f"{n} {figure(v)}" for n, v in row.items())) for row in value]
        for name, part in parts:
            yield f"{f'{key} {name}'.strip():40s} {figure(part)}"


@runs_app.command("tail")
def tail_run(
    run: RunFolder,
    n: Annotated[int, Option("-n", "--n", min=1, help="rounds")] = 10,
    json: Json = False,
) -> None:
    """The last rounds, one line each; as JSON with every metric."""
    from sparring.report.progress import in_a_line

    for record in speech.run_dir(run).last_rounds(n)[1]:
        if json:
            speech.print_json(record.to_json(), indent=None)
        else:
            say(f"round {record.round + 1}  {in_a_line(record.learns, record.metrics)}")


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
    """Which schema matches, how many of each label, repeats, clusters, categories.

    Of an attack pool: how many rewrites look like which family of attacks.
    """
    from sparring.data.pools import is_pool, pool_families
    from sparring.data.readers import parsed
    from sparring.data.tally import tally

    if not map and is_pool(file):
        families = pool_families(located(file))
        rows = [("schema", "attack pool"), ("rewrites", f"{families.total()}")]
        rows += [("family", f"{n:6d}  {name}") for name, n in families.most_common(_MOST_SHOWN)]
        row = {"file": file, "schema": "attack pool", "rewrites": families.total()}
        answer(json, row | {"families": families}, (f"{name:26s} {value}" for name, value in rows))
        return
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


@data_app.command("overlap")
def show_overlap(
    training: Annotated[str, Argument(help="a file of seeds that a model is trained on")],
    files: Annotated[list[str], Argument(metavar="FILE...", help="files of prompts")],
    json: Json = False,
) -> None:
    """How many prompts of each file overlap with training seeds; no prompt is shown."""
    from sparring.data.overlap import counted, described, overlap
    from sparring.data.readers import read

    seeds = read(training).seeds
    counts = {file: counted(overlap(read(file).seeds, seeds)) for file in files}
    answer(json, counts, (f"{file}: {described(count)}" for file, count in counts.items()))


@data_app.command("validate")
def validate(
    files: Annotated[list[str], Argument(metavar="FILE...", help="as for `data show`")],
    map: Map = None,
) -> None:
    """Read files whole; exit code 2 with the file and line of the first thing that is wrong."""
    from sparring.data.pools import is_pool, pool_families
    from sparring.data.readers import parsed, summary
    from sparring.data.tally import tally

    for file in files:
        if not map and is_pool(file):
            [read] = summary(
                file, "attack pool", pool_families(located(file)).total(), "rewrites", {}
            )
            say(f"{file}: {read}")
            continue
        counts = tally(file, parsed(map or []))
        read, *left = summary(file, counts.schema, counts.seeds, "seeds", counts.left_out)
        both = [f"{counts.contradicting} requests have both labels"] if counts.contradicting else []
        say(f"{file}: {'; '.join([read, *left, *both])}")
