"""`sparring train`, `estimate` and `export`: before, during and after a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from sparring.cli import speech
from sparring.cli.speech import Json, Overrides, RecipeOrConfig, RunFolder, answer, note, say
from sparring.types import Player

if TYPE_CHECKING:
    from sparring.runs.run import Run as RunToPlay
    from sparring.settings.config import RunConfig
    from sparring.store.folder import RunDir


def train(
    what: RecipeOrConfig,
    overrides: Overrides = None,
    resume: Annotated[bool, Option(help="go on with the run in output_dir")] = False,
    dry_run: Annotated[bool, Option(help="check everything, write nothing")] = False,
    max_rounds: Annotated[int | None, Option(min=1, help="stop (resumable) after N rounds")] = None,
) -> None:
    """Let an attacker and a defender train against each other."""
    from sparring.report.progress import ProgressWatch, check_trackers
    from sparring.runs import recipes
    from sparring.runs.judges import greet, judges_of
    from sparring.runs.train import train as play
    from sparring.store.folder import RunDir

    config = recipes.configured(what, overrides or [])
    say(f"sparring train {config.recipe} → {config.folder}")
    if resume:
        config = recipes.check_resumable(RunDir.open(config.folder), config)
    else:
        RunDir.check_new(config.folder)
    check_trackers(config.saving.report_to)
    greet(judges_of(config) if dry_run else ())
    run = recipes.known(config.recipe).build(config)
    note(*run.notes)
    if dry_run:
        _show_plan(run)
        return
    reported_to = run.config.saving.report_to if run.ranks.index == 0 else ()
    with ProgressWatch(speech.console(), config, reported_to) as watch:
        folder = play(run, resume=resume, max_rounds=max_rounds, watch=watch)
    _show_outcome(folder, config)


def _show_outcome(folder: RunDir, config: RunConfig) -> None:
    """The tables of a run, where its players lie, and what to do next."""
    from sparring.report.run_report import read_run
    from sparring.report.terminal import render

    speech.console().print(render(read_run(folder)))
    newest = folder.checkpoints.path(folder.checkpoints.at(None))
    defender = newest / "defender"
    players = [f"defender   {defender}", f"attacker   {newest / 'attacker'}  (do not publish)"]
    if config.weights == "shared":
        players = [f"both       {defender}  (attacks too, if it is told to)"]
    for text in ("", f"run        {folder.folder}", *players):
        say(text)
    verbs = [f"report {folder.folder}", f"view {folder.folder}", f"attack {folder.folder}"]
    if config.in_sandbox and config.weights == "separate":
        verbs.append(f"eval {defender} --tasks sandbox")
    for place, verb in enumerate(verbs):
        say(f"{'' if place else 'next':10s} {speech.program()} {verb}")


def _show_plan(run: RunToPlay) -> None:
    """What a run would do: the round in which each player first learns, and the exam's sets.

    With the schedule `alternate` the attacker first learns after the defender's rounds; with any
    other only round 0 is known.
    """
    from sparring.runs.run import rehearse

    config, plan = run.config, run.plan
    schedule, numbers = config.schedule, {0}
    if schedule.kind == "alternate" and schedule.every.attacker:
        numbers.add(schedule.every.defender)
    for number in sorted(numbers):
        if (turn := plan.schedule(number, ())) is None:
            continue
        openings = plan.openings(number, turn, ())
        learns = ", ".join(sorted(turn.learns))
        widths = ", ".join(f"{player} x{width}" for player, width in sorted(turn.widths.items()))
        say(f"round {number}: {learns} learns from {len(openings)} seeds; {widths}")
    if not any(run.exam.sets.values()):
        note("data.exam: no seed is held out, so there will be no exam; give data.exam a file")
    for name, states in run.exam.sets.items():
        say(f"exam {name}: {len(states)} openings")
    if config.sampling.engine == "local":  # another engine would be sent adapters, which are files
        imitates = any(config.warm_up.steps[player] for player in Player)
        outcome = rehearse(run, note, warmed=not imitates)
        before = ", before the warm-up" if imitates else ""
        say(f"rehearsal: {outcome}{before}")
    say(f"{config.rounds} rounds into {config.folder}; nothing was written (--dry-run)")


_OWN_SEEDS = "data.train=[{path: seeds.jsonl}]"
"""An override that takes a recipe out of the sandbox, for --params; the file is never read."""


def estimate(
    what: RecipeOrConfig,
    overrides: Overrides = None,
    gpu: Annotated[str, Option(help="h100 | h200 | a100-80 | l40s | …, or GiB")] = "h100",
    params: Annotated[
        str | None, Option(help="1.5B | 7B | 14B | 70B instead of the configured model")
    ] = None,
    prompt_tokens: Annotated[int, Option(min=1, help="length of a prompt")] = 512,
    mfu: Annotated[float, Option(min=0.01, max=1, help="share of the card's rate")] = 0.4,
    bandwidth: Annotated[
        float, Option(min=0.01, max=1, help="share of the memory's rate, decoding")
    ] = 0.5,
    json: Json = False,
) -> None:
    """Memory and time of a run before it is begun; reads a config, never weights."""
    from sparring.estimate import fitting
    from sparring.estimate.estimate import Shares
    from sparring.estimate.estimate import card as card_called
    from sparring.estimate.shape import KNOWN
    from sparring.runs.models import model_path
    from sparring.runs.recipes import configured
    from sparring.types import UsageError

    if params and params not in KNOWN:
        raise UsageError(f"--params: no shape {params!r:.40}; known: {', '.join(KNOWN)}")
    config = configured(what, overrides or [])
    if params and config.in_sandbox:
        config = configured(what, [_OWN_SEEDS, *(overrides or [])])
    model = params or model_path(config.defender.model_name_or_path)
    card, shares = card_called(gpu), Shares(mfu, bandwidth)
    result = fitting.estimate(config, model, card, prompt_tokens, shares)
    answer(json, result.to_json(), fitting.lines(result))
    if result.times and not json:
        note(
            f"times assume {mfu:.0%} of the card's rate and {bandwidth:.0%} of its bandwidth, full "
            "lengths, no skipped group, and no judge"
        )


def export(
    run: RunFolder,
    role: Annotated[Player, Option(help="whose weights")],
    at: Annotated[int | None, Option(min=0, help="rounds; default: the last")] = None,
    merge: Annotated[bool, Option("--merge", help="put an adapter into its base")] = False,
    output: Annotated[Path | None, Option(help="default: RUN/export/ROLE-ROUNDS")] = None,
    i_understand: Annotated[
        bool, Option("--i-understand", help="that an attacker must not be published")
    ] = False,
    json: Json = False,
) -> None:
    """Write a player as a plain PEFT or transformers folder, compared with what played."""
    from sparring.export.export import Export

    export = Export(speech.run_dir(run), role, at, merge, output, i_understand)
    agreements = export.write()
    if role is Player.ATTACKER:
        note("this is an attacker: do not publish it")
    elif export.run.config.weights == "shared":
        note("the same weights also played the attacker: given the attacker's brief, they attack")
    rows = [asdict(agreement) for agreement in agreements]
    lines = [*map(str, agreements), f"written to {export.folder}"]
    answer(json, {"folder": str(export.folder), "agreements": rows}, lines)
