"""From files to seeds and attack pools; whatever is wrong is named with its line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from sparring.data.known import match
from sparring.data.rows import Place, Record, jsonl, records
from sparring.data.schemas import (
    NEEDS_HASH,
    Schema,
    Text,
    always,
    column,
    digest,
    label,
    nothing,
    request,
)
from sparring.types import Demo, Message, Seed, UsageError

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_PINNED = re.compile(rf"({_NAME}/{_NAME}):([^:@]+)@([0-9a-f]{{40}})")
_MEANT = re.compile(rf"({_NAME}/{_NAME}):([^:@]+)(@.*)?")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+=-]{0,127}")


def located(source: Path | str) -> Path:
    """The file itself; `OWNER/NAME:FILE@REVISION` is fetched into the hub's cache and kept there.

    A revision is the 40 hexadecimal digits of a commit, so that a run reads the same rows again.
    UsageError tells how to pin where that is missing, or why the file could not be had.
    """
    text = str(source)
    if Path(text).exists() or not (meant := _MEANT.fullmatch(text)):
        return Path(text)
    pinned = _PINNED.fullmatch(text)
    if not pinned:
        raise UsageError(
            f"{text}: no pinned revision; wanted {meant[1]}:{meant[2]}@REVISION with the 40 "
            f"hexadecimal digits of a commit, such as the newest one listed at "
            f"https://huggingface.co/datasets/{meant[1]}/commits/main"
        )
    name, file, revision = pinned.groups()
    if not all(_PART.fullmatch(part) for part in file.split("/")):
        raise UsageError(f"{text}: {file!r:.80} is no path inside a data set")
    return _fetched(text, name, file, revision)


def _fetched(source: str, name: str, file: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))
    except GatedRepoError:
        raise UsageError(
            f"{source}: gated; accept its terms at https://huggingface.co/datasets/{name} and log "
            "in (HF_TOKEN)"
        ) from None
    except LocalEntryNotFoundError:
        raise UsageError(f"{source}: not in the cache, and the hub cannot be reached") from None
    except Exception as error:  # whose HTTP library it is changes with the hub's version
        raise UsageError(f"{source}: could not be fetched: {error!s:.200}") from None


FIELDS = ("prompt", "harmful", "id", "category", "goal", "context", "cluster")
_FIXED = {"true": True, "false": False}


def parsed(words: Sequence[str], field: str = "--map") -> dict[str, str]:
    """`prompt=COLUMN,harmful=true` as a mapping; UsageError for any other form."""
    told: dict[str, str] = {}
    for word in (word for text in words for word in text.split(",") if word.strip()):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not value or name not in FIELDS or name in told:
            raise UsageError(
                f"{field}: {word!r:.60}: wanted FIELD=COLUMN, each field once, of: "
                f"{', '.join(FIELDS)} (harmful may be true or false for every row)"
            )
        told[name] = value
    return told


def mapped(path: Path, told: Mapping[str, str], columns: Set[str]) -> Schema:
    """A schema for a file with these columns, other ones ignored.

    `harmful` names a column of labels, or is `true` or `false` for every row; `id` and the rest
    may be left out. UsageError where the file has no such column.
    """
    _check(path, told, columns)
    everywhere = _FIXED.get(told["harmful"].lower()) if told["harmful"] not in columns else None
    names = set(told.values()) - ({told["harmful"]} if everywhere is not None else set())

    def field(name: str) -> Text:
        return column(told[name]) if name in told else nothing

    return Schema(
        name=f"mapped columns ({', '.join(f'{name}={value}' for name, value in told.items())})",
        columns=frozenset(names),
        text=request(told["prompt"]),
        harmful=label(told["harmful"]) if everywhere is None else always(everywhere),
        id=field("id"),
        category=field("category"),
        goal=field("goal"),
        context=field("context"),
        cluster=field("cluster"),
        more=True,
    )


def _check(path: Path, told: Mapping[str, str], columns: Set[str]) -> None:
    wrong = [name for name in told if name not in FIELDS]
    absent = [name for name in FIELDS[:2] if name not in told]
    if wrong or absent:
        raise UsageError(
            f"{path}: map: {'no such field' if wrong else 'wanted also'}: "
            f"{', '.join(wrong or absent)} (fields: {', '.join(FIELDS)})"
        )
    got = ", ".join(sorted(map(str, columns)))
    for name, value in told.items():
        fixed = name == "harmful" and value.lower() in _FIXED
        if value not in columns and not fixed:
            raise UsageError(f"{path}: map: {name}: no column {value!r:.60}; it has {got}")


Left = Counter[str]
"""Rows that a schema leaves out, by why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file held: its seeds, which schema matched, and what a reader should be told."""

    seeds: list[Seed]
    schema: str
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Stream:
    """A file's seeds one by one, in constant memory; `left` is complete when they are at an end.

    An id is the source's own or the digest of the text, and may come twice.
    """

    schema: Schema
    seeds: Iterator[Seed]
    left: Left


def read(
    path: Path | str,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    hash_judge: bool = False,
) -> Found:
    """The seeds of a file with one of the known headers, or whose `columns` are told.

    `path` may be `OWNER/NAME:FILE@REVISION` on the Hugging Face hub; no more rows are read than
    `limit` seeds need. Copyright rows are left out unless there is a `hash_judge` for them.
    UsageError names the file and the line. Rows a schema leaves out are counted in the notes.
    """
    told = stream(path, columns, hash_judge)
    seeds: list[Seed] = []
    for seed in told.seeds:
        seeds.append(seed)
        if limit and len(seeds) == limit:
            break
    if not seeds:
        raise UsageError(f"{path}: no usable rows ({dict(told.left)})")
    notes = [f"read as {told.schema.name}: {len(seeds)} seeds"]
    notes += [f"{n} rows left out: {why}" for why, n in told.left.items()]
    notes += [told.schema.note] if told.schema.note else []
    return Found(_unique(seeds, notes), told.schema.name, notes)


def stream(
    path: Path | str, columns: Mapping[str, str] | None = None, hash_judge: bool = False
) -> Stream:
    """A file's seeds as a stream; errors are raised where they are met."""
    schema, places = opened(located(path), columns)
    left: Left = Counter()
    return Stream(schema, _seeds(schema, places, left, hash_judge), left)


def opened(path: Path, columns: Mapping[str, str] | None = None) -> tuple[Schema, Iterator[Place]]:
    """(which schema matches, the records, each checked to have its columns)."""
    places = records(path)
    first = next(places, None)
    if first is None:
        raise UsageError(f"{path}: no rows")
    schema = mapped(path, columns, first[1].keys()) if columns else match(path, first[1].keys())
    return schema, _checked(schema, chain([first], places))


def _checked(schema: Schema, places: Iterator[Place]) -> Iterator[Place]:
    for where, row in places:
        if not schema.fits(row.keys()):
            known = schema.columns | schema.optional
            odd = (schema.columns - row.keys()) | (row.keys() - known)
            names = ", ".join(sorted(map(repr, odd)))
            raise UsageError(f"{where}: not the fields of the first record: {names}")
        yield where, row


def _seeds(schema: Schema, places: Iterator[Place], left: Left, hash_judge: bool) -> Iterator[Seed]:
    for where, row in places:
        seed = seed_of(schema, where, row, left, hash_judge)
        if seed:
            yield seed


def seed_of(
    schema: Schema, where: str, row: Record, left: Left, hash_judge: bool = False
) -> Seed | None:
    """A row's seed, or None where the schema leaves the row out, which `left` counts."""
    try:
        why = schema.skip(row)
        if why and not (why is NEEDS_HASH and hash_judge):
            left[why] += 1
            return None
        text = schema.text(row)
        if not text.strip():
            raise ValueError("the request is empty")
        return Seed(
            text=text,
            harmful=schema.harmful(row),
            id=schema.id(row) or digest(text),
            category=schema.category(row),
            goal=schema.goal(row),
            context=schema.context(row),
            cluster=schema.cluster(row),
        )
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _unique(seeds: Sequence[Seed], notes: list[str]) -> list[Seed]:
    """Ids made unique, so that no two seeds share an address of randomness."""
    seen: Counter[str] = Counter()
    taken = {seed.id for seed in seeds}
    out: list[Seed] = []
    for seed in seeds:
        name = seed.id
        if seen[seed.id]:
            while (name := f"{seed.id}~{seen[seed.id]}") in taken:
                seen[seed.id] += 1
            taken.add(name)
        out.append(replace(seed, id=name))
        seen[seed.id] += 1
    twice = len(seeds) - len(seen)
    if twice:
        notes.append(f"{twice} rows repeat an id or a text; their ids got a suffix")
    return out


def read_pool(path: Path) -> list[Demo]:
    """An attack pool: JSONL of {"messages": [{role, content}, …]} ending with the assistant."""
    demos: list[Demo] = []
    for where, record in jsonl(path):
        told: Any = record.get("messages")
        if not _is_dialogue(told):
            raise UsageError(
                f'{where}: wanted {{"messages": [{{"role", "content"}}, …]}} with user and '
                "assistant in turn, after a system message or none, up to the assistant's reply"
            )
        *before, last = told
        seen = tuple(Message(m["role"], m["content"]) for m in before)
        demos.append(Demo(seen, last["content"]))
    if not demos:
        raise UsageError(f"{path}: no rows")
    return demos


def _is_dialogue(told: Any) -> bool:
    """Whether it is [system,] user, assistant, … assistant: what every chat template takes."""
    if not isinstance(told, list) or not all(isinstance(m, dict) for m in told):
        return False
    roles = [m.get("role") for m in told]
    turns = roles[roles[:1] == ["system"] :]
    alternating = turns == ["user", "assistant"] * (len(turns) // 2)
    return bool(turns) and alternating and all(isinstance(m.get("content"), str) for m in told)


def gathered(sources: Sequence[Mapping[str, Any]]) -> tuple[list[Seed], list[str]]:
    """(seeds, notes) of files told as `path`, and perhaps `limit` and `map`.

    Many files count from 1: an id that an earlier file has too is put behind its own file's
    name. A seed that an earlier file has word for word, with its id, is left out. Both are noted.
    """
    taken: dict[str, Seed] = {}
    notes: list[str] = []
    for source in sources:
        found = read(source["path"], source.get("limit"), source.get("map"))
        told = {seed.id: seed for seed in found.seeds}
        again = {name for name, seed in told.items() if _same(seed, taken.get(name))}
        clash = (told.keys() & taken.keys()) - again
        for seed in found.seeds:
            if seed.id not in again:
                named = _behind(source["path"], seed, taken) if seed.id in clash else seed
                taken[named.id] = named
        said = list(found.notes)
        if again:
            said.append(f"{len(again)} rows stand in an earlier file too, and were left out")
        if clash:
            said.append(f"{len(clash)} ids are an earlier file's too; they got this file's name")
        notes += [f"{source['path']}: {note}" for note in said]
    return list(taken.values()), notes


def _same(seed: Seed, other: Seed | None) -> bool:
    return other is not None and (seed.text, seed.harmful) == (other.text, other.harmful)


def _behind(path: Path | str, seed: Seed, taken: Mapping[str, Seed]) -> Seed:
    name = f"{Path(path).name.split('.')[0]}/{seed.id}"
    if name in taken:
        raise UsageError(
            f"{path}: the id {name!r:.80} occurs in an earlier file too; rename a file"
        )
    return replace(seed, id=name)
