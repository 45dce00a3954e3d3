"""Verbs about attack pools: the example rewrites that an attacker is warmed up on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, Typer

from sparring.cli.speech import Json, TrustEndpoints, answer, note
from sparring.types import UsageError

pool_app = Typer(no_args_is_help=True, help="Make attack pools for an attacker's warm-up.")


@pool_app.callback()
def pool() -> None:
    """Make attack pools for an attacker's warm-up."""


@pool_app.command()
def make(
    seeds: Annotated[list[str], Option("--seeds", help="a file of seeds; repeatable")],
    out: Annotated[Path, Option(help="the pool to write, JSONL")],
    writer: Annotated[str | None, Option(help="a chat model; none: templates")] = None,
    base_url: Annotated[str | None, Option(help="the writer is served here (…/v1)")] = None,
    api_key_env: Annotated[str | None, Option(help="the variable that holds the key")] = None,
    judge: Annotated[str | None, Option(help="rules on whether a rewrite asks the same")] = None,
    per_seed: Annotated[int, Option(min=1, help="rewrites of each seed")] = 8,
    depth: Annotated[int, Option(min=1, max=2, help="2: half combine two families")] = 1,
    hold_out: Annotated[list[str] | None, Option(help="a family to do without")] = None,
    limit: Annotated[int | None, Option(min=1, help="the first seeds of a file")] = None,
    max_completion_length: Annotated[int, Option(min=1, help="tokens of a writer")] = 160,
    seed: Annotated[int, Option(help="of everything random")] = 0,
    trust_endpoints: TrustEndpoints = False,
    json: Json = False,
) -> None:
    """Rewrite seeds by families of attacks, from templates or with a chat model as writer.

    Families that are kept for exams are in no pool. The yield of each family is printed, and every
    line of the pool names its seed, family and writer.
    """
    from sparring.data.readers import gathered
    from sparring.evals import pool as pools
    from sparring.evals.models import ModelSettings, candidates
    from sparring.players.player import Sampling
    from sparring.runs.judges import entries, judge_of
    from sparring.runs.sources import packaged_briefs
    from sparring.store.files import dumps, write_atomic

    if out.exists():
        raise UsageError(f"--out: {out} exists; remove it, or name another file")
    if judge and not writer:
        raise UsageError("--judge: rules on a writer's rewrites; templates need none")
    requests, notes = gathered([{"path": path, "limit": limit} for path in seeds])
    settings = pools.PoolSettings(per_seed, depth, hold_out or [], f"{seed}/pool")
    if writer:
        sampling = Sampling(1.0, max_completion_length)
        tested = ModelSettings([writer], sampling, base_url=base_url, api_key_env=api_key_env)
        [model], more = candidates(tested)
        rules = judge_of(entries(judge, trust_endpoints), {}, "pool", judge) if judge else None
        rewrites = pools.by_writer(requests, settings, model.load(), rules)
        notes = [*notes, *more]
    else:
        rewrites = pools.from_templates(requests, settings)
    note(*notes)
    counts, briefs, lines = pools.Yield(), packaged_briefs(), []
    for rewrite in rewrites:
        counts.add(rewrite)
        if not rewrite.refused:
            lines.append(dumps(rewrite.to_json(briefs, writer or "templates")))
    if not lines:
        raise UsageError(f"--writer: {writer}: none of its {counts.tried} rewrites could be kept")
    write_atomic(out, b"\n".join(lines) + b"\n")
    rows = counts.rows()
    table = [f"{name:12} {kept:5} of {n:5}  {why}".rstrip() for name, kept, n, why in rows]
    total = f"{out}: {len(lines)} rewrites of {len(requests)} seeds, of {counts.tried} tried"
    as_json = [dict(zip(("family", "kept", "tried", "left_out"), row, strict=True)) for row in rows]
    answer(json, {"pool": str(out), "rewrites": len(lines), "families": as_json}, [*table, total])
