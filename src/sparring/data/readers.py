"""From files to seeds and labelled replies; errors name the file and the line."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sparring.data import schemas
from sparring.data.rows import Record, located, records
from sparring.data.schemas import Replies, Schema, Way, digest, label_of, match, shown, text_of
from sparring.types import Seed, UsageError, near

SeedRow = tuple[str, Record, Seed]
"""(where a row stands, as `FILE:LINE`; the row; its seed)."""

FIELDS = ("prompt", "harmful", "id", "category", "goal", "context", "cluster")
_FIXED = {"true": True, "false": False}
_NEGATED = re.compile(r"(?:!|not )\s*(.+)")


def parsed(words: Sequence[str], field: str = "--map") -> dict[str, str]:
    """`prompt=COLUMN,harmful=true` as a mapping; UsageError for any other form."""
    mapping: dict[str, str] = {}
    for word in (word for text in words for word in text.split(",") if word.strip()):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not value or name not in FIELDS or name in mapping:
            raise UsageError(
                f"{field}: {word!r:.60}: wanted FIELD=COLUMN, each field once, of: "
                f"{', '.join(FIELDS)} (harmful may be true or false for every row, or !COLUMN "
                "where the column says what is not harmful)"
            )
        mapping[name] = value
    return mapping


def mapped(path: Path, mapping: Mapping[str, str], columns: Set[str]) -> Schema:
    """A schema for a file with these columns, other columns ignored.

    `harmful` names a column of labels, with `!` or `not ` before it one whose true means harmless,
    or is `true` or `false` for every row; `id` and the rest may be left out. UsageError where the
    file has no such column, or where its name says the opposite of what is read from it.
    """
    unknown = [name for name in mapping if name not in FIELDS]
    absent = [name for name in FIELDS[:2] if name not in mapping]
    if unknown or absent:
        raise UsageError(
            f"{path}: map: {'no such field' if unknown else 'wanted also'}: "
            f"{', '.join(unknown or absent)} (fields: {', '.join(FIELDS)})"
        )
    harmful = mapping["harmful"]
    fixed = None if harmful in columns else _FIXED.get(harmful.lower())
    negated = None if harmful in columns else _NEGATED.fullmatch(harmful)
    used = {**mapping, "harmful": negated[1] if negated else harmful}
    if fixed is not None:
        del used["harmful"]
    for name, value in used.items():
        if value not in columns:
            hint = near(value, columns, f"it has {shown(columns)}")
            raise UsageError(f"{path}: map: {name}: no column {value!r:.60}; {hint}")
    return Schema(
        name=f"mapped columns ({', '.join(f'{k}={v}' for k, v in mapping.items())})",
        columns=frozenset(used.values()),
        text=mapping["prompt"],
        harmful=_labels_of(path, used["harmful"], bool(negated)) if fixed is None else fixed,
        more=True,
        **{name: mapping[name] for name in FIELDS[2:] if name in mapping},
    )


def _labels_of(path: Path, name: str, negated: bool) -> Way:
    """How a mapped column is read: words such as `unsafe` as they are, a truth value by its name.

    A truth value of `is_safe` would be read as its opposite, and so would one of `!is_harmful`.
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    means = {schemas.POLARITY[word] for word in words if word in schemas.POLARITY}
    turned = not {"not", "non", "no"}.isdisjoint(words)
    harm = (True in means) != turned if len(means) == 1 else None
    if negated and harm:
        raise UsageError(
            f"{path}: map: harmful=!{name} reads what is {name} as not harmful; write "
            f"harmful={name}, or rename the column if its true means harmless"
        )
    if negated:
        return {"column": name, "words": {word: not true for word, true in schemas.TRUTHS.items()}}
    if harm is not False:
        return {"column": name}
    return {
        "column": name,
        "words": {
            word: true for word, true in schemas.LABELS.items() if word not in schemas.TRUTHS
        },
        "hint": f": a true in {name} seems to mean harmless; write harmful=!{name} (in quotes), or "
        "rename the column if it means harmful",
    }


@dataclass(frozen=True, slots=True)
class SeedFile:
    """The seeds of a file, the schema that matched, and what a reader of it should know."""

    seeds: list[Seed]
    schema: str
    notes: list[str]


def read(
    path: Path | str, limit: int | None = None, columns: Mapping[str, str] | None = None
) -> SeedFile:
    """The seeds of a file with one of the known headers, or with `columns` mapped to fields.

    `path` may be `OWNER/NAME:FILE@REVISION` on the Hugging Face hub; no more rows are read than
    `limit` seeds need. UsageError names the file and the line. Rows a schema leaves out are
    counted in the notes.
    """
    schema, rows, left_out = seed_rows(path, columns)
    seeds = [seed for *_, seed in islice(rows, limit or None)]
    notes = summary(path, schema.name, len(seeds), "seeds", left_out)
    notes += [schema.note] if schema.note else []
    return SeedFile(_unique(seeds, notes), schema.name, notes)


def summary(
    path: Path | str, schema: str, n: int, kind: str, left_out: Mapping[str, int]
) -> list[str]:
    """What was read of a file, and what was left out of how many rows; UsageError for nothing."""
    rows = n + sum(left_out.values())
    left = [f"{count} rows left out: {reason}" for reason, count in left_out.items()]
    if not n:
        raise UsageError(f"{path}: read as {schema}: no usable rows of {rows}; {'; '.join(left)}")
    return [f"read as {schema}: {n} {kind}{f' of {rows} rows' if left else ''}", *left]


def seed_rows(
    source: Path | str, columns: Mapping[str, str] | None = None, every_row: bool = False
) -> tuple[Schema, Iterator[SeedRow], Counter[str]]:
    """(the schema that matches; its rows one by one, in constant memory; rows left out, by reason).

    What is left out is complete when the rows are exhausted; an error is raised when its line is
    reached. An id is the source's own or the digest of the text, and may come twice.
    """
    path, left_out = located(source), Counter[str]()
    places = records(path)
    first = next(places, None)
    if first is None:
        raise UsageError(f"{path}: no rows")
    header = first[1].keys()
    schema = mapped(path, columns, header) if columns else match(path, header)

    def rows() -> Iterator[SeedRow]:
        for where, row in chain([first], places):
            if not schema.fits(row.keys()):
                wrong = schema.misfit(row.keys())
                raise UsageError(f"{where}: not the fields of the first record: it {wrong}")
            try:
                seed = schema.seed(row, left_out, every_row)
            except ValueError as error:
                raise UsageError(f"{where}: {error}") from None
            if seed:
                yield where, row, seed

    return schema, rows(), left_out


def _unique(seeds: Sequence[Seed], notes: list[str]) -> list[Seed]:
    """Ids made unique, so that no two seeds share an address of randomness."""
    times: Counter[str] = Counter()
    taken = {seed.id for seed in seeds}
    unique: list[Seed] = []
    for seed in seeds:
        name = seed.id
        if times[seed.id]:
            while (name := f"{seed.id}~{times[seed.id]}") in taken:
                times[seed.id] += 1
            taken.add(name)
        unique.append(replace(seed, id=name))
        times[seed.id] += 1
    twice = len(seeds) - len(times)
    if twice:
        notes.append(f"{twice} rows repeat an id or a text; their ids got a suffix")
    return unique


def gathered(sources: Sequence[Mapping[str, Any]]) -> tuple[list[Seed], list[str]]:
    """(seeds, notes) of several files, each given as `path`, and perhaps `limit` and `map`.

    Many files count from 1: an id that an earlier file has too is put behind its own file's
    name. A seed that an earlier file has word for word, with its id, is left out. Both are noted.
    """
    taken: dict[str, Seed] = {}
    notes: list[str] = []
    for source in sources:
        file = read(source["path"], source.get("limit"), source.get("map"))
        labels = {name: (seed.text, seed.harmful) for name, seed in taken.items()}
        fresh = [s for s in file.seeds if labels.get(s.id) != (s.text, s.harmful)]
        stem, remarks = Path(source["path"]).name.split(".")[0], list(file.notes)
        if again := len(file.seeds) - len(fresh):
            remarks.append(f"{again} rows stand in an earlier file too, and were left out")
        if clashes := sum(seed.id in labels for seed in fresh):
            remarks.append(f"{clashes} ids are an earlier file's too; they got this file's name")
        for seed in fresh:
            named = replace(seed, id=f"{stem}/{seed.id}") if seed.id in labels else seed
            if named.id in taken:
                raise UsageError(
                    f"{source['path']}: an id is in an earlier file of this name; rename a file"
                )
            taken[named.id] = named
        notes += [f"{source['path']}: {remark}" for remark in remarks]
    return list(taken.values()), notes


@dataclass(frozen=True, slots=True)
class Labelled:
    """A reply to a seed, people's labels of it, and the stored verdicts of `judges` by name.

    `harmful`, `refused` and `on_target` (it is about the request and attempts it) are None where
    nobody labelled it or people were undecided. A judge's verdict (true: harmful) is None where
    none is stored.
    """

    seed: Seed
    reply: str
    harmful: bool | None
    refused: bool | None
    judges: Mapping[str, bool | None]
    on_target: bool | None = None


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
    schema, rows, left_out = seed_rows(path, every_row=True)
    if schema.replies is None:
        known = ", ".join(s.name for s in schemas.SCHEMAS if s.replies)
        raise UsageError(f"{path}: {schema.name} has no labelled replies; wanted one of: {known}")
    by_id = _behaviors(behaviors) if behaviors else {}
    items = _labelled(schema.replies, rows, by_id, left_out)
    labelled = list(islice(items, limit))
    notes = summary(path, schema.name, len(labelled), "labelled replies", left_out)
    notes += [schema.note] if schema.note and not by_id else []
    ruling = {name for item in labelled for name, v in item.judges.items() if v is not None}
    if silent := sorted({name for item in labelled for name in item.judges} - ruling):
        notes.append(f"no verdicts of yes or no, so not read as judges: {', '.join(silent):.300}")
    return LabelledFile(labelled, schema.name, notes)


def _labelled(
    replies: Replies, rows: Iterator[SeedRow], behaviors: Mapping[str, Seed], left_out: Counter[str]
) -> Iterator[Labelled]:
    """The rows with a reply that has a label; `left_out` counts the others."""
    for where, row, seed in rows:
        reply, known = text_of(replies.reply, row), behaviors.get(seed.cluster)
        if not reply:
            left_out["no reply"] += 1
            continue
        if behaviors and not known:
            left_out["of a behavior that the file of behaviors lacks"] += 1
            continue
        try:
            ways = replies.harmful, replies.refused, replies.on_target
            harmful, refused, on_target = (label_of(way, row) for way in ways)
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from None
        if harmful is None and refused is None and on_target is None:
            left_out["no label, or people undecided"] += 1
            continue
        judges = schemas.STEPS[replies.judges](row) if replies.judges else {}
        # Other replies to the same text need other ids.
        name = digest(f"{seed.text}\n{reply}") if seed.id == digest(seed.text) else seed.id
        described = replace(seed, id=name)
        if known:
            described = replace(described, goal=known.requested, context=known.context)
            described = replace(described, category=known.category)
        yield Labelled(described, reply, harmful, refused, judges, on_target)


def _behaviors(path: Path | str) -> dict[str, Seed]:
    """HarmBench's behaviors by id, those about copyright too."""
    schema, rows, _ = seed_rows(path, every_row=True)
    if "BehaviorID" not in schema.columns or schema.replies:
        raise UsageError(f"{path}: read as {schema.name}; wanted HarmBench's text behaviors")
    return {seed.id: seed for *_, seed in rows}
