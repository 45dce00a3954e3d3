"""What a user types; the only room that reads the environment and the command line."""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from sparring.cli import evals as evaluating
from sparring.cli import evals as evidence
from sparring.cli import judges as judging
from sparring.cli import look as looking
from sparring.cli import train as estimating
from sparring.cli import train as exporting
from sparring.cli import train as training
from sparring.cli.look import data_app
from sparring.cli.speech import ANYTHING, Json, console, end, print_json

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An attacker and a defender train against each other, and the defender gets safer.",
)
app.add_typer(looking.runs_app, name="runs")
app.add_typer(looking.config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(judging.judge_app, name="judge")
app.command("train", context_settings=ANYTHING)(training.train)
app.command("eval")(evaluating.evaluate)
app.command()(exporting.export)
app.command()(estimating.estimate)
for verb in (evidence.exploit, evidence.crossplay, evidence.bound, evidence.compare):
    app.command()(verb)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="runs' folders")],
    output: Annotated[Path | None, typer.Option(help="default: RUN/report/index.html")] = None,
    public: Annotated[bool, typer.Option("--public", help="hold no attack, no reply")] = False,
    include_harmful: Annotated[bool, typer.Option("--include-harmful")] = False,
    json: Json = False,
) -> None:
    """One HTML page of one or several runs: before → after, curves, cross-play, strategies."""
    from sparring.report.page import ReportRequest
    from sparring.report.page import report as write

    write(ReportRequest(runs, output, public, include_harmful), console(), json)


@app.command()
def init(recipe: Annotated[str, typer.Argument(help="its name")] = "magic") -> None:
    """A commented YAML of every setting, for your own model and seeds."""
    from sparring.runs.recipes import known
    from sparring.settings.config import RunConfig, commented, merged, parse

    plain = RunConfig(recipe=recipe).model_dump(mode="json")
    sys.stdout.write(commented(parse(merged(plain, known(recipe).defaults))))


@app.command()
def env() -> None:
    """Versions and machine, for a bug report."""
    from sparring.store.folder import environment

    print_json(environment())


@app.command()
def version() -> None:
    """The version."""
    from importlib.metadata import version as installed

    sys.stdout.write(f"{installed('sparring')}\n")


def main() -> None:
    """Run; errors meant for people are one message and an exit code, never a trace.

    Any other error has its trace, printed as safely as everything else.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is dep", FutureWarning)  # PEFT
    from sparring.players.ranks import first_to_say
    from sparring.types import SparringError

    if os.environ.get("RANK", "0") != "0":  # of several processes of one run the first speaks
        sys.stdout = io.StringIO()
    try:
        app()
    except (SparringError, OSError) as error:
        told = f"sparring: {error}\n"
        end(told if first_to_say(told) else "", getattr(error, "exit_code", 1))
    except Exception:
        import traceback

        end(traceback.format_exc(), 1)
