"""Replies that people have labelled, and what other judges said of them: to calibrate a judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sparring.data.known import SCHEMAS
from sparring.data.readers import Left, located, opened, seed_of
from sparring.data.rows import Record
from sparring.data.schemas import Replies, Schema, digest
from sparring.types import Seed, UsageError


@dataclass(frozen=True, slots=True)
class Labelled:
    """A reply to a seed, what people say of it, and the stored verdicts of `judges` by name.

    `harmful` and `refused` are None where nobody was asked or people were undecided, and so are
    a judge's verdicts (true: harmful) where none is stored.
    """

    seed: Seed
    reply: str
    harmful: bool | None
    refused: bool | None
    judges: Mapping[str, bool | None]


@dataclass(frozen=True, slots=True)
class FoundReplies:
    """What a file held: labelled replies, which schema matched, what a reader should be told."""

    items: list[Labelled]
    schema: str
    notes: list[str]


def read_labelled(
    path: Path | str, behaviors: Path | str | None = None, limit: int | None = None
) -> FoundReplies:
    """The replies of HarmBench's validation set, WildGuardMix, XSTest-Response or your own.

    HarmBench names its behaviors by id alone: `behaviors`, its file of them, fills in each seed's
    goal, context and category. UsageError names the file and the line.
    """
    schema, places = opened(located(path))
    if schema.replies is None:
        known = ", ".join(s.name for s in SCHEMAS if s.replies)
        raise UsageError(f"{path}: {schema.name} has no labelled replies; wanted one of: {known}")
    wanted = _behaviors(behaviors) if behaviors else {}
    left: Left = Counter()
    items: list[Labelled] = []
    for where, row in places:
        told = _labelled(schema, schema.replies, where, row, left)
        if told:
            items.append(_named(where, told, wanted) if wanted else told)
        if limit and len(items) == limit:
            break
    if not items:
        raise UsageError(f"{path}: no usable rows ({dict(left)})")
    notes = [f"read as {schema.name}: {len(items)} labelled replies"]
    notes += [f"{n} rows left out: {why}" for why, n in left.items()]
    notes += [schema.note] if schema.note and not wanted else []
    return FoundReplies(items, schema.name, notes)


def _labelled(
    schema: Schema, told: Replies, where: str, row: Record, left: Left
) -> Labelled | None:
    seed = seed_of(schema, where, row, left)
    if not seed:
        return None
    reply = told.reply(row)
    if not reply:
        left["no reply"] += 1
        return None
    try:
        harmful, refused, judges = told.harmful(row), told.refused(row), told.judges(row)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    if harmful is None and refused is None:
        left["no label, or people undecided"] += 1
        return None
    name = digest(f"{seed.text}\n{reply}") if seed.id == digest(seed.text) else seed.id
    return Labelled(replace(seed, id=name), reply, harmful, refused, judges)


def _behaviors(path: Path | str) -> dict[str, Seed]:
    """HarmBench's behaviors by id, those about copyright too."""
    schema, places = opened(located(path))
    if "BehaviorID" not in schema.columns or schema.replies:
        raise UsageError(f"{path}: read as {schema.name}; wanted HarmBench's text behaviors")
    left: Left = Counter()
    seeds = (seed_of(schema, where, row, left, hash_judge=True) for where, row in places)
    return {seed.id: seed for seed in seeds if seed}


def _named(where: str, told: Labelled, behaviors: Mapping[str, Seed]) -> Labelled:
    behavior = behaviors.get(told.seed.cluster)
    if behavior is None:
        raise UsageError(f"{where}: no behavior {told.seed.cluster!r:.80} in the file of behaviors")
    return replace(
        told,
        seed=replace(
            told.seed, goal=behavior.wanted, context=behavior.context, category=behavior.category
        ),
    )
