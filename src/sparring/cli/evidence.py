"""Verbs that ask whether co-evolution happened, and what is left to find."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.cli.speech import Json, Run, console, note, print_json, say
from sparring.types import UsageError

At = Annotated[int | None, typer.Option(min=0, help="rounds; default: the last checkpoint")]


def exploit(
    run: Run,
    attackers: Annotated[str, typer.Option(help="of pool, broad, own, enumeration")] = "all",
    steps: Annotated[int, typer.Option(min=1, help="of each attacker that learns")] = 80,
    at: At = None,
    cache: Annotated[
        Path | None, typer.Option(help="of warmed-up attackers; default: attackers/ beside the run")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the attackers")] = 0,
    json: Json = False,
) -> None:
    """Train attackers, fresh ones and the run's own, on its frozen defender; the worst counts."""
    from sparring.evidence.exploit import Exploit, asked_for
    from sparring.evidence.response import Budget
    from sparring.records import RunDir

    opened = RunDir.open(run)
    asked = Exploit(
        run=opened,
        number=opened.checkpoints.at(at),
        budget=Budget(steps=steps),
        cache=cache or run.parent / "attackers",
        rng_seed=seed,
    )
    names = asked_for(asked, attackers)
    told = asked.measure(
        names, lambda name, done: say(f"{name} {done}/{steps}") if not json else None
    )
    if json:
        print_json(told)
        return
    for name, curve in told["attackers"].items():
        values = " ".join(_short(rate["value"], "unscored") for rate in curve["asr"])
        say(f"{name:12s} ASR at {curve['steps']}: {values}  ({curve['tried']})")
    say(f"worst: {told['worst'] or 'unscored'}")


def crossplay(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="runs' folders")],
    at: Annotated[str, typer.Option(help="rounds, with commas; default: the last")] = "",
    n: Annotated[int, typer.Option(min=1, help="games of a cell")] = 192,
    cache: Annotated[Path | None, typer.Option(help="where played cells are kept")] = None,
    json: Json = False,
) -> None:
    """Every attacker of the runs against every defender: ASR by the clean outcome."""
    from sparring.evidence.matrix import cross, entrants
    from sparring.records import RunDir
    from sparring.report.text import matrix
    from sparring.report.write import labels

    numbers = rounds_of(at)
    named = zip(runs, labels(runs), strict=True)
    told = [one for run, name in named for one in entrants(RunDir.open(run), numbers, name)]

    def shown(row: str, column: str, value: float | None) -> None:
        if not json:
            say(f"{row} against {column}: {_short(value, 'unscored')}")

    found = cross(told, n, cache or runs[0].parent / "crossplay", shown)
    if json:
        print_json(found)
        return
    console().print(matrix(found["asr"], n))


def _short(value: float | None, unscored: str) -> str:
    """A rate in a line for a person."""
    return unscored if value is None else f"{value:.3f}"


def rounds_of(text: str) -> list[int]:
    """`0,40,160` as numbers."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    wrong = [word for word in words if not word.isdecimal()]
    if wrong:
        raise UsageError(f"--at: {wrong[0]!r:.40} is no number of rounds; wanted such as 0,40,160")
    return [int(word) for word in words]


def bound(
    run: Run,
    at: At = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="joint")] = 0.95,
    json: Json = False,
) -> None:
    """An upper limit on how often the run's defender fails, by attack family of its exam."""
    from sparring.checkpoint import dumps, write_atomic
    from sparring.evaluation.bound import bound as limit
    from sparring.evidence.samples import items
    from sparring.records import RunDir

    opened = RunDir.open(run)
    number = opened.exams()[-1] if at is None and opened.exams() else at or 0
    asked = items(opened, number)
    told = limit(
        {k.split("/", 1)[1]: list(v.values()) for k, v in asked.items() if k.startswith("asr/")},
        confidence,
    )
    path = run / "evidence" / "bound.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, dumps({"rounds": number, **told.to_json()}))
    if json:
        print_json(told.to_json())
        return
    for name, family in told.families.items():
        say(
            f"{name:24s} {family.failures}/{family.n} failed, effective n "
            f"{family.effective_n:.0f}: at most {family.upper:.3f}"
        )
    say(told.caveat)


def compare(
    first: Annotated[Path, typer.Argument(help="a run's folder")],
    second: Annotated[Path, typer.Argument(help="another that sat the same exam")],
    at: At = None,
    json: Json = False,
) -> None:
    """The paired difference of two runs on the same exam items, second minus first."""
    from sparring.evidence.samples import compared
    from sparring.records import RunDir

    told = compared(RunDir.open(first), RunDir.open(second), at, note)
    if json:
        print_json({name: paired.to_json() for name, paired in told.items()})
        return
    say(f"{second} minus {first}, 95 % intervals; {len(told)} comparisons, each p for itself")
    for name, paired in told.items():
        say(f"{name:32s} {_short(paired.rate_a, '–')} → {_short(paired.rate_b, '–')}  {paired}")
