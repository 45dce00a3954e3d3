"""`sparring train`: check everything, then play."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sparring.cli.speech import Overrides, console, note, say


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
    say(f"sparring train {config.recipe} → {config.folder}")
    if resume and not dry_run:
        config = recipes.check_resumable(RunDir.open(config.folder), config)
    elif not dry_run:
        RunDir.check_new(config.folder)
    Trackers.check(config.saving.report_to)
    match = recipes.known(config.recipe)(config)
    for told in match.notes:
        note(told)
    if dry_run:
        _plan(match)
        return
    _play(match, resume, max_rounds)


def _play(match: Any, resume: bool, max_rounds: int | None) -> None:
    from sparring.report.progress import ProgressWatch, Trackers
    from sparring.report.summary import summarize
    from sparring.report.text import show
    from sparring.training import train as play

    config, screen = match.config, console()
    run = _recorded(match, resume)
    trackers = Trackers(config.saving.report_to if run.writer else (), run.folder, "sparring")
    with ProgressWatch(screen, config.rounds, config.warm_up.steps, trackers) as watch:
        play(match, run, watch, max_rounds)
    match.ranks.gather(None)  # what is shown next is written
    show(summarize(run), screen)
    newest = run.checkpoints.path(run.checkpoints.at(None))
    say("")
    say(f"run        {run.folder}")
    if config.weights == "shared":
        say(f"both       {newest / 'defender'}  (attacks too, if it is told to)")
    else:
        say(f"defender   {newest / 'defender'}")
        say(f"attacker   {newest / 'attacker'}  (do not publish)")
    say(f"next       sparring report {run.folder}")
    say(f"           sparring runs show {run.folder}")
    if config.in_sandbox and config.weights == "separate":
        say(f"           sparring eval {newest / 'defender'} --tasks sandbox")


def _recorded(match: Any, resume: bool) -> Any:
    """The run's folder; the first process makes it and writes, the others look on."""
    from sparring.config import to_yaml
    from sparring.records import RunDir

    config, first = match.config, match.ranks.index == 0
    if first and not resume:
        RunDir.create(config.folder, to_yaml(config))
    match.ranks.gather(None)
    return RunDir(config.folder, writer=first)


def _plan(match: Any) -> None:
    """What a run would do."""
    config = match.config
    for number in _first_turns(config):
        turn = match.plan.schedule(number, ())
        openings = match.plan.openings(number, turn)
        learns = ", ".join(sorted(turn.learns))
        widths = ", ".join(f"{player} x{width}" for player, width in sorted(turn.widths.items()))
        say(f"round {number}: {learns} learns from {len(openings)} seeds; {widths}")
    for name, states in match.held_out.items():
        say(f"exam {name}: {len(states)} openings")
    say(f"{config.rounds} rounds into {config.folder}; nothing was written (--dry-run)")


def _first_turns(config: Any) -> list[int]:
    """The rounds in which each player first learns, as far as the clock alone decides."""
    every = config.schedule.every
    clock = config.schedule.kind == "alternate"
    return sorted({0, every.defender}) if clock and every.attacker else [0]
