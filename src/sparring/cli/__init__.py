"""What a user types; the only room that reads the environment and the command line."""

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from sparring.cli import attack, evals, judges, look, pool, train
from sparring.cli.speech import (
    PASS_THROUGH,
    UNBROKEN,
    Json,
    Pulse,
    RunFolders,
    console,
    end,
    is_first_process,
    print_json,
)
from sparring.pulse import watched

app = Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An attacker and a defender train against each other, and the defender gets safer.",
)
for name, verbs in {**look.APPS, "judge": judges.judge_app, "pool": pool.pool_app}.items():
    app.add_typer(verbs, name=name)
app.command("train", context_settings=PASS_THROUGH)(train.train)
app.command("eval")(evals.evaluate)
for verb in (
    *(train.export, train.estimate, look.view),
    *(attack.attack, attack.play),
    *(evals.exploit, evals.crossplay, evals.bound, evals.compare),
):
    app.command()(verb)


@app.command()
def report(
    runs: RunFolders,
    output: Annotated[Path | None, Option(help="default: RUN/report/index.html")] = None,
    public: Annotated[bool, Option("--public", help="hold no attack, no reply")] = False,
    include_harmful: Annotated[
        bool, Option("--include-harmful", help="texts of real games in the clear")
    ] = False,
    json: Json = False,
) -> None:
    """One HTML page of one or several runs: before → after, curves, cross-play, strategies."""
    from sparring.report import page

    written = output or not json
    file = page.write_report(runs, output, public, include_harmful) if written else None
    page.show(runs, file, console(), json)


@app.command()
def init(
    recipe: Annotated[str, Argument(help="its name")] = "magic",
    model: Annotated[str, Option("--for", help="a preset: smollm2-135m | qwen2.5-7b | …")] = "",
    gpu: Annotated[str, Option(help="--for: 24 or 80 GiB, or a card's name; else none")] = "",
) -> None:
    """A commented YAML of every setting; or, with --for, of what fits a model on a card."""
    from sparring.estimate.estimate import card
    from sparring.runs.recipes import known, preset
    from sparring.settings.comments import commented
    from sparring.settings.config import RunConfig, merged, parse

    if model:
        sys.stdout.write(preset(recipe, model, card(gpu).gib if gpu else 0))
        return
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

    if not is_first_process():
        sys.stdout = io.StringIO()
    wide: dict[str, int] = {}
    if not (sys.stdout.isatty() and sys.stderr.isatty()):  # searches find whole lines, no boxes
        app.rich_markup_mode, wide = None, {"terminal_width": UNBROKEN}
    try:
        with Pulse() as pulse, watched(pulse):
            app(**wide)
    except (SparringError, OSError) as error:
        message = f"sparring: {error}\n"
        end(message if first_to_say(message) else "", getattr(error, "exit_code", 1))
    except Exception:
        import traceback

        end(traceback.format_exc(), 1)
