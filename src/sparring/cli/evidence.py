"""Verbs that ask whether co-evolution happened, and what is left to find."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.cli.speech import Json, Run, print_json, say

At = Annotated[int | None, typer.Option(min=0, help="rounds; default: the last checkpoint")]


def exploit(
    run: Run,
    attackers: Annotated[str, typer.Option(help="of pool, broad, enumeration")] = "all",
    steps: Annotated[int, typer.Option(min=1, help="of each attacker that learns")] = 80,
    at: At = None,
    cache: Annotated[Path | None, typer.Option(help="where warmed-up attackers are kept")] = None,
    seed: Annotated[int, typer.Option(help="of the attackers")] = 0,
    json: Json = False,
) -> None:
    """Train fresh attackers against a run's frozen defender; the worst of them counts."""
    from sparring.evidence.exploit import Exploit, asked_for
    from sparring.evidence.response import Budget
    from sparring.records import RunDir

    opened = RunDir.open(run)
    asked = Exploit(
        run=opened,
        number=opened.checkpoints.numbers()[-1] if at is None else at,
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
        values = " ".join(f"{rate['value']:.3f}" for rate in curve["asr"])
        say(f"{name:12s} ASR at {curve['steps']}: {values}  ({curve['tried']})")
    say(f"worst: {told['worst']}")
