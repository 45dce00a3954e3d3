"""What a user types; the only file that reads the environment and the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An attacker and a defender train against each other, and the defender gets safer.",
)
runs_app = typer.Typer(no_args_is_help=True, help="Look at recorded runs.")
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")
app.add_typer(runs_app, name="runs")
app.add_typer(config_app, name="config")

_ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value or --key value, such as learner.beta=0.05")
]
Json = Annotated[bool, typer.Option("--json", help="for machines")]
Run = Annotated[Path, typer.Argument(help="a run's folder")]


@app.command(context_settings=_ANYTHING)
def train(
    what: Annotated[str, typer.Argument(metavar="RECIPE|CONFIG", help="magic, or a YAML file")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="go on with the run in output_dir")] = False,
    dry_run: Annotated[bool, typer.Option(help="check everything, write nothing")] = False,
    max_rounds: Annotated[
        int | None, typer.Option(min=1, help="stop (resumable) after N rounds")
    ] = None,
) -> None:
    """Let an attacker and a defender train against each other."""
    from sparring import recipes
    from sparring.records import RunDir
    from sparring.report.progress import Trackers

    config = recipes.configured(what, overrides or [])
    _say(f"sparring train {config.recipe} → {config.folder}")
    if resume and not dry_run:
        recipes.check_resumable(RunDir.open(config.folder), config)
    elif not dry_run:
        RunDir.check_new(config.folder)
    Trackers.check(config.saving.report_to)
    match = recipes.known(config.recipe)(config)
    for note in match.notes:
        _note(note)
    if dry_run:
        _plan(match)
        return
    _play(match, resume, max_rounds)


def _play(match: Any, resume: bool, max_rounds: int | None) -> None:
    from sparring.config import to_yaml
    from sparring.records import RunDir
    from sparring.report.progress import ProgressWatch, Trackers
    from sparring.report.summary import summarize
    from sparring.report.text import show
    from sparring.training import train as play

    config, console = match.config, _console()
    run = RunDir.open(config.folder) if resume else RunDir.create(config.folder, to_yaml(config))
    trackers = Trackers(config.saving.report_to, run.folder, "sparring")
    with ProgressWatch(console, config.rounds, config.warm_up.steps, trackers) as watch:
        play(match, run, watch, max_rounds)
    show(summarize(run), console)
    newest = run.checkpoints.path(run.checkpoints.numbers()[-1])
    _say("")
    _say(f"run        {run.folder}")
    _say(f"defender   {newest / 'defender'}")
    if config.weights != "shared":
        _say(f"attacker   {newest / 'attacker'}  (do not publish)")
    _say(f"next       sparring report {run.folder}")
    _say(f"           sparring runs show {run.folder}")
    if config.in_sandbox and config.weights == "separate":
        _say(f"           sparring eval {newest / 'defender'} --tasks sandbox")


def _plan(match: Any) -> None:
    """What a run would do."""
    config = match.config
    for number in _first_turns(config):
        turn = match.plan.schedule(number, ())
        openings = match.plan.openings(number, turn)
        learns = ", ".join(sorted(turn.learns))
        widths = ", ".join(f"{player} x{width}" for player, width in sorted(turn.widths.items()))
        _say(f"round {number}: {learns} learns from {len(openings)} seeds; {widths}")
    for name, states in match.held_out.items():
        _say(f"exam {name}: {len(states)} openings")
    _say(f"{config.rounds} rounds into {config.folder}; nothing was written (--dry-run)")


def _first_turns(config: Any) -> list[int]:
    """The rounds in which each player first learns, as far as the clock alone decides."""
    every = config.schedule.every
    clock = config.schedule.kind == "alternate"
    return sorted({0, every.defender}) if clock and every.attacker else [0]


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="a model's folder or hub name, or `sandbox`")],
    tasks: Annotated[str, typer.Option(help="seed files or `sandbox`, separated by commas")],
    judge: Annotated[str, typer.Option(help="sandbox | keyword (a stand-in)")] = "sandbox",
    adapter: Annotated[str | None, typer.Option(help="a PEFT folder on top of the model")] = None,
    limit: Annotated[int, typer.Option(min=1, help="openings of each set")] = 192,
    max_completion_length: Annotated[int, typer.Option(help="tokens")] = 512,
    max_unscored: Annotated[float, typer.Option(help="share; above it exit code 3")] = 0.01,
    fail_if: Annotated[list[str] | None, typer.Option(help="such as 'asr/plain>0.05'")] = None,
    json: Json = False,
) -> None:
    """Test one model: ASR on harmful seeds, over-refusal on benign ones."""
    from sparring.evaluating import Asked, check_limits
    from sparring.evaluating import evaluate as ask
    from sparring.policies.local import Sampling

    sampling = Sampling(max_completion_length=max_completion_length)
    rates, judged = ask(Asked(model, adapter, tasks.split(","), judge, limit, sampling))
    if json:
        told = {name: rate.to_json() for name, rate in rates.items()}
        _print_json({"rates": told, "judge": {"name": judged.name, "caveat": judged.caveat}})
    else:
        for name, rate in rates.items():
            _say(f"{name:36s} {rate}")
        _note(judged.caveat)
    check_limits(rates, fail_if or [], max_unscored)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="runs' folders")],
    output: Annotated[Path | None, typer.Option(help="default: RUN/report/index.html")] = None,
    public: Annotated[bool, typer.Option("--public", help="hold no attack, no reply")] = False,
    include_harmful: Annotated[bool, typer.Option("--include-harmful")] = False,
    json: Json = False,
) -> None:
    """One HTML page of one or several runs: before → after, curves, cross-play, strategies."""
    from sparring.report.write import Asked
    from sparring.report.write import report as write

    write(Asked(runs, output, public, include_harmful), _console(), json)


@runs_app.command("list")
def list_runs(folder: Path = Path("runs"), json: Json = False) -> None:
    """Every run below a folder and how it stands."""
    from sparring.records import RunDir

    found = [RunDir(path.parent) for path in sorted(folder.glob("*/config.yaml"))]
    told = [{"run": str(r.folder), "rounds": len(r.rounds()), **r.status} for r in found]
    if json:
        _print_json(told)
    for row in told if not json else []:
        _say(f"{row['run']:32s}", f"{row['rounds']:5d} rounds ", f"{row['status']}")


@runs_app.command("show")
def show_run(run: Run, json: Json = False) -> None:
    """A run's status, checkpoints and last round."""
    from sparring.records import RunDir

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
        _print_json(told)
    for key, value in told.items() if not json else ():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for name, number in rows:
            _say(f"{f'{key} {name}'.strip():40s}", f"{number}")


@runs_app.command("tail")
def tail_run(run: Run, n: Annotated[int, typer.Option(min=1, help="rounds")] = 10) -> None:
    """The metrics of the last rounds, one JSON line each."""
    from sparring.records import RunDir

    for record in RunDir.open(run).rounds()[-n:]:
        _print_json(record, indent=None)


@app.command()
def init(recipe: str = "magic") -> None:
    """A commented YAML of every setting, for your own model and seeds."""
    from sparring.config import commented
    from sparring.recipes import known
    from sparring.settings import RunConfig

    known(recipe)
    sys.stdout.write(commented(RunConfig(recipe=recipe)))


@config_app.command("show", context_settings=_ANYTHING)
def show_config(what: str, overrides: Overrides = None) -> None:
    """The resolved configuration: defaults < file < command line."""
    from sparring import recipes
    from sparring.config import to_yaml

    sys.stdout.write(to_yaml(recipes.configured(what, overrides or [])))


@config_app.command("schema")
def show_schema() -> None:
    """The JSON schema of a configuration."""
    from sparring.settings import RunConfig

    _print_json(RunConfig.model_json_schema())


@app.command()
def env() -> None:
    """Versions and machine, for a bug report."""
    from sparring.records import environment

    _print_json(environment())


@app.command()
def version() -> None:
    """The version."""
    from importlib.metadata import version as installed

    sys.stdout.write(f"{installed('sparring')}\n")


def _console() -> Any:
    from rich.console import Console

    width = int(os.environ.get("COLUMNS", "0")) or (None if sys.stdout.isatty() else 120)
    return Console(width=width)


def _say(*words: str) -> None:
    """One line for a person; no word can change the others, begin a line or pass for markup."""
    from rich.text import Text

    from sparring.report.terminal import line

    _console().print(Text(" ".join(line(word) for word in words)), soft_wrap=True)


def _note(text: str) -> None:
    from rich.console import Console

    from sparring.report.terminal import safe

    if text:
        Console(stderr=True).print(safe(text), style="yellow", highlight=False, markup=False)


def _print_json(told: Any, indent: int | None = 2) -> None:
    import json

    sys.stdout.write(json.dumps(told, indent=indent) + "\n")


def main() -> None:
    """Run; errors meant for people are one message and an exit code, never a trace.

    Any other error has its trace, printed as safely as everything else.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from sparring.types import SparringError

    try:
        app()
    except (SparringError, OSError) as error:
        _end(f"sparring: {error}\n", getattr(error, "exit_code", 1))
    except Exception:
        import traceback

        _end(traceback.format_exc(), 1)


def _end(text: str, code: int) -> NoReturn:
    """Errors quote data."""
    from sparring.report.terminal import safe

    sys.stderr.write(safe(text))
    sys.exit(code)
