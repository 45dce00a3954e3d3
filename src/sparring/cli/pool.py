"""Verbs about what the players imitate before the game: an attack pool, and lessons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from sparring.cli.speech import Json, TrustEndpoints, answer, note, say
from sparring.types import UsageError

pool_app = Typer(no_args_is_help=True, help="Make what the players imitate before the game.")


@pool_app.command()
def make(
    seeds: Annotated[list[str], Option("--seeds", help="a file of seeds; repeatable")],
    out: Annotated[Path, Option(help="the pool to write, JSONL")],
    writer: Annotated[str | None, Option(help="a chat model; none: templates")] = None,
    base_url: Annotated[str | None, Option(help="the writer is served here (…/v1)")] = None,
    api_key_env: Annotated[str | None, Option(help="the variable that holds the key")] = None,
    concurrency: Annotated[int, Option(min=1, help="requests of the server under way")] = 32,
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
    from sparring.runs.judges import judges_named
    from sparring.runs.sources import packaged_briefs
    from sparring.store.files import dumps, write_atomic

    if out.exists():
        raise UsageError(f"--out: {out} exists; remove it, or name another file")
    if judge and not writer:
        raise UsageError("--judge: rules on what a writer wrote; templates need none")
    requests, notes = gathered([{"path": path, "limit": limit} for path in seeds])
    settings = pools.PoolSettings(per_seed, depth, hold_out or [], f"{seed}/pool")
    ruling = judges_named([judge], "--judge", trust_endpoints)[0] if judge else None
    if ruling and "on_topic" not in ruling.fills:
        raise UsageError(f"--judge: {ruling.name} does not rule on on_topic; a rubric does")
    policy = None
    if writer:
        sampling = Sampling(0.7, max_completion_length)  # at 1.0 small models write garble
        tested = ModelSettings(
            [writer], sampling, base_url=base_url, api_key_env=api_key_env, concurrency=concurrency
        )
        [model], more = candidates(tested)
        policy, notes = model.load(), [*notes, *more]
    note(*notes)
    rewrites = [*pools.rewritten(requests, settings, policy, ruling)]
    briefs, in_pool = packaged_briefs(), [r for r in rewrites if r.result == pools.KEPT]
    counts = pools.yields(rewrites)
    lines = []
    for family, results in counts.items():
        why = [f"{n} {result}" for result, n in results.most_common() if result != pools.KEPT]
        share = f"{results[pools.KEPT]} of {results.total()}"
        lines.append("  ".join([f"{family:12s} {share:12s}", *why]).rstrip())
    if not in_pool:
        raise UsageError(f"--writer: none of {len(rewrites)} rewrites was kept: {'; '.join(lines)}")
    write_atomic(out, b"".join(dumps(r.to_json(briefs, writer)) for r in in_pool))
    total = (
        f"written      {out}: {len(in_pool)} of {len(rewrites)} rewrites of {len(requests)} seeds"
    )
    row = {"pool": str(out), "rewrites": len(in_pool), "tried": len(rewrites), "families": counts}
    answer(json, row, [*lines, total])


@pool_app.command()
def lessons(
    model: Annotated[str, Argument(help="the defender's base, a folder or hub name")],
    seeds: Annotated[list[str], Option("--seeds", help="a file of seeds; repeatable")],
    out: Annotated[Path, Option(help="the file to write, for defender.warm_start")],
    max_completion_length: Annotated[int, Option(min=1, help="tokens of a reply")] = 8,
    limit: Annotated[int | None, Option(min=1, help="seeds that are read of each file")] = None,
    replies: Annotated[int, Option(min=1, help="own replies to each benign seed")] = 1,
    seed: Annotated[int, Option(help="of everything random")] = 0,
) -> None:
    """Plain refusals of harmful seeds, and how the model itself begins replies to benign ones.

    A defender that imitates them starts as an aligned model does; one that refuses nothing yet
    has too little to learn from.
    """
    from sparring.data.readers import gathered
    from sparring.evals import pool as pools
    from sparring.evals.models import load_policy
    from sparring.players.player import Sampling
    from sparring.store.files import dumps, write_atomic

    if out.exists():
        raise UsageError(f"--out: {out} exists; remove it, or name another file")
    requests, notes = gathered([{"path": path, "limit": limit} for path in seeds])
    note(*notes)
    policy = load_policy(model, Sampling(0.7, max_completion_length))
    lines = pools.lessons(requests, policy, f"{seed}/lessons", replies)
    write_atomic(out, b"".join(map(dumps, lines)))
    say(f"{out}: {len(lines)} lessons of {len(requests)} seeds")
