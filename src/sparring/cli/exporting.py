"""`sparring export`: a run's player as a folder that PEFT and transformers load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.cli.speech import Json, Run, note, print_json, say
from sparring.types import Player


def export(
    run: Run,
    role: Annotated[Player, typer.Option(help="whose weights")],
    at: Annotated[int | None, typer.Option(min=0, help="rounds; default: the last")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="put an adapter into its base")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="compare logits with what played (always done)")
    ] = True,
    output: Annotated[Path | None, typer.Option(help="default: RUN/export/ROLE-ROUNDS")] = None,
    i_understand: Annotated[
        bool, typer.Option("--i-understand", help="that an attacker must not be published")
    ] = False,
    json: Json = False,
) -> None:
    """Write a player as a plain PEFT or transformers folder that was compared with what played."""
    from sparring.exporting.export import Export
    from sparring.records import RunDir

    asked = Export(RunDir.open(run), role, at, merge, output, i_understand)
    told = asked.write()
    if role is Player.ATTACKER:
        note("this is an attacker: do not publish it")
    elif asked.run.config.weights == "shared":
        note("the same weights also played the attacker: with its brief they rewrite requests")
    if json:
        agreements = [agreement.to_json() for agreement in told]
        print_json({"folder": str(asked.folder), "agreements": agreements})
        return
    for agreement in told:
        say(f"{agreement}")
    say(f"written to {asked.folder}")
