"""Replies that people have labelled, with other judges' verdicts on them: to calibrate a judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sparring.data.readers import located, opened, seed_of
from sparring.data.rows import Record
from sparring.data.schemas import SCHEMAS, Replies, Schema, digest
from sparring.types import Seed, UsageError


@dataclass(frozen=True, slots=True)
class Labelled:
    """A reply to a seed, people's labels of it, and the stored verdicts of `judges` by name.

    `harmful` and `refused` are None where nobody labelled it or people were undecided. A judge's
    verdict (true: harmful) is None where none is stored.
    """

    seed: Seed
    reply: str
    harmful: bool | None
    refused: bool | None
    judges: Mapping[str, bool | None]


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """The labelled replies of a file, the schema that matched, and what a reader should know."""

    items: list[Labelled]
    schema: str
    notes: list[str]


def read_labelled(
    path: Path | str, behaviors: Path | str | None = None, limit: int | None = None
) -> LabelledFile:
    """The replies of HarmBench's validation set, WildGuardMix, XSTest-Response or your own file.

    HarmBench names its behaviors by id alone: `behaviors`, its file of them, fills in each seed's
    goal, context and category. UsageError names the file and the line.
    """
    schema, places = opened(located(path))
    if schema.replies is None:
        known = ", ".join(s.name for s in SCHEMAS if s.replies)
        raise UsageError(f"{path}: {schema.name} has no labelled replies; wanted one of: {known}")
    by_id = _behaviors(behaviors) if behaviors else {}
    left_out: Counter[str] = Counter()
    items: list[Labelled] = []
    for where, row in places:
        item = _labelled(schema, schema.replies, where, row, left_out)
        if item:
            items.append(_named(where, item, by_id) if by_id else item)
        if limit and len(items) == limit:
            break
    if not items:
        raise UsageError(f"{path}: no usable rows ({dict(left_out)})")
    notes = [f"read as {schema.name}: {len(items)} labelled replies"]
    notes += [f"{n} rows left out: {reason}" for reason, n in left_out.items()]
    notes += [schema.note] if schema.note and not by_id else []
    return LabelledFile(items, schema.name, notes)


def _labelled(
    schema: Schema, replies: Replies, where: str, row: Record, left_out: Counter[str]
) -> Labelled | None:
    seed = seed_of(schema, where, row, left_out)
    if not seed:
        return None
    reply = replies.reply(row)
    if not reply:
        left_out["no reply"] += 1
        return None
    try:
        harmful, refused = replies.harmful(row), replies.refused(row)
        judges = replies.judges(row)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    if harmful is None and refused is None:
        left_out["no label, or people undecided"] += 1
        return None
    name = digest(f"{seed.text}\n{reply}") if seed.id == digest(seed.text) else seed.id
    return Labelled(replace(seed, id=name), reply, harmful, refused, judges)


def _behaviors(path: Path | str) -> dict[str, Seed]:
    """HarmBench's behaviors by id, those about copyright too."""
    schema, places = opened(located(path))
    if "BehaviorID" not in schema.columns or schema.replies:
        raise UsageError(f"{path}: read as {schema.name}; wanted HarmBench's text behaviors")
    seeds = (seed_of(schema, where, row, Counter(), hash_judge=True) for where, row in places)
    return {seed.id: seed for seed in seeds if seed}


def _named(where: str, item: Labelled, behaviors: Mapping[str, Seed]) -> Labelled:
    behavior = behaviors.get(item.seed.cluster)
    if behavior is None:
        raise UsageError(f"{where}: no behavior {item.seed.cluster!r:.80} in the file of behaviors")
    return replace(
        item,
        seed=replace(
            item.seed, goal=behavior.requested, context=behavior.context, category=behavior.category
        ),
    )
