"""From files to seeds and attack pools; whatever is wrong is named with its line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sparring.data.rows import Place, Record, jsonl, records
from sparring.data.schemas import NEEDS_HASH, Schema, digest, match, schema_of
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
    mapping: dict[str, str] = {}
    for word in (word for text in words for word in text.split(",") if word.strip()):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not value or name not in FIELDS or name in mapping:
            raise UsageError(
                f"{field}: {word!r:.60}: wanted FIELD=COLUMN, each field once, of: "
                f"{', '.join(FIELDS)} (harmful may be true or false for every row)"
            )
        mapping[name] = value
    return mapping


def mapped(path: Path, mapping: Mapping[str, str], columns: Set[str]) -> Schema:
    """A schema for a file with these columns, other columns ignored.

    `harmful` names a column of labels, or is `true` or `false` for every row; `id` and the rest
    may be left out. UsageError where the file has no such column.
    """
    _check(path, mapping, columns)
    harmful = mapping["harmful"]
    fixed = harmful not in columns
    schema = schema_of(
        {
            **{name: mapping[name] for name in FIELDS[2:] if name in mapping},
            "name": f"mapped columns ({', '.join(f'{k}={v}' for k, v in mapping.items())})",
            "columns": "",
            "text": mapping["prompt"],
            "harmful": _FIXED[harmful.lower()] if fixed else {"column": harmful},
            "more": True,
        }
    )
    return replace(
        schema, columns=frozenset(set(mapping.values()) - ({harmful} if fixed else set()))
    )


def _check(path: Path, mapping: Mapping[str, str], columns: Set[str]) -> None:
    unknown = [name for name in mapping if name not in FIELDS]
    absent = [name for name in FIELDS[:2] if name not in mapping]
    if unknown or absent:
        raise UsageError(
            f"{path}: map: {'no such field' if unknown else 'wanted also'}: "
            f"{', '.join(unknown or absent)} (fields: {', '.join(FIELDS)})"
        )
    header = ", ".join(sorted(map(str, columns)))
    for name, value in mapping.items():
        fixed = name == "harmful" and value.lower() in _FIXED
        if value not in columns and not fixed:
            raise UsageError(f"{path}: map: {name}: no column {value!r:.60}; it has {header}")


@dataclass(frozen=True, slots=True)
class SeedFile:
    """The seeds of a file, the schema that matched, and what a reader of it should know."""

    seeds: list[Seed]
    schema: str
    notes: list[str]


@dataclass(frozen=True, slots=True)
class SeedStream:
    """A file's seeds one by one, in constant memory.

    `left_out` counts the rows that the schema leaves out, by reason; it is complete when the seeds
    are exhausted. An id is the source's own or the digest of the text, and may come twice.
    """

    schema: Schema
    seeds: Iterator[Seed]
    left_out: Counter[str]


def read(
    path: Path | str,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    hash_judge: bool = False,
) -> SeedFile:
    """The seeds of a file with one of the known headers, or with `columns` mapped to fields.

    `path` may be `OWNER/NAME:FILE@REVISION` on the Hugging Face hub; no more rows are read than
    `limit` seeds need. Copyright rows are left out unless there is a `hash_judge` for them.
    UsageError names the file and the line. Rows a schema leaves out are counted in the notes.
    """
    source = stream(path, columns, hash_judge)
    seeds = list(islice(source.seeds, limit or None))
    if not seeds:
        raise UsageError(f"{path}: no usable rows ({dict(source.left_out)})")
    notes = [f"read as {source.schema.name}: {len(seeds)} seeds"]
    notes += [f"{n} rows left out: {reason}" for reason, n in source.left_out.items()]
    notes += [source.schema.note] if source.schema.note else []
    return SeedFile(_unique(seeds, notes), source.schema.name, notes)


def stream(
    path: Path | str, columns: Mapping[str, str] | None = None, hash_judge: bool = False
) -> SeedStream:
    """A file's seeds as a stream; an error is raised when its line is reached."""
    schema, places = opened(located(path), columns)
    left_out: Counter[str] = Counter()
    seeds = (seed_of(schema, where, row, left_out, hash_judge) for where, row in places)
    return SeedStream(schema, (seed for seed in seeds if seed), left_out)


def opened(path: Path, columns: Mapping[str, str] | None = None) -> tuple[Schema, Iterator[Place]]:
    """(the schema that matches, the records, each checked to have its columns)."""
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


def seed_of(
    schema: Schema, where: str, row: Record, left_out: Counter[str], hash_judge: bool = False
) -> Seed | None:
    """A row's seed, or None where the schema leaves the row out, which `left_out` counts."""
    try:
        reason = schema.skip(row)
        if reason and not (reason == NEEDS_HASH and hash_judge):
            left_out[reason] += 1
            return None
        text = schema.text(row)
        if not text.strip():
            raise ValueError("the request is empty")
        return Seed(
            text=text,
            harmful=bool(schema.harmful(row)),
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


def read_pool(path: Path) -> list[Demo]:
    """An attack pool: JSONL of {"messages": [{role, content}, …]} ending with the assistant."""
    demos: list[Demo] = []
    for where, record in jsonl(path):
        messages: Any = record.get("messages")
        if not _is_dialogue(messages):
            raise UsageError(
                f'{where}: wanted {{"messages": [{{"role", "content"}}, …]}} with user and '
                "assistant in turn, after a system message or none, up to the assistant's reply"
            )
        *before, last = messages
        observation = tuple(Message(m["role"], m["content"]) for m in before)
        demos.append(Demo(observation, last["content"]))
    if not demos:
        raise UsageError(f"{path}: no rows")
    return demos


def _is_dialogue(messages: Any) -> bool:
    """Whether these are [system,] user, assistant, … assistant: what every chat template takes."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        return False
    roles = [m.get("role") for m in messages]
    turns = roles[roles[:1] == ["system"] :]
    alternating = turns == ["user", "assistant"] * (len(turns) // 2)
    return bool(turns) and alternating and all(isinstance(m.get("content"), str) for m in messages)


def gathered(sources: Sequence[Mapping[str, Any]]) -> tuple[list[Seed], list[str]]:
    """(seeds, notes) of several files, each given as `path`, and perhaps `limit` and `map`.

    Many files count from 1: an id that an earlier file has too is put behind its own file's
    name. A seed that an earlier file has word for word, with its id, is left out. Both are noted.
    """
    taken: dict[str, Seed] = {}
    notes: list[str] = []
    for source in sources:
        file = read(source["path"], source.get("limit"), source.get("map"))
        by_id = {seed.id: seed for seed in file.seeds}
        again = {name for name, seed in by_id.items() if _same(seed, taken.get(name))}
        clash = (by_id.keys() & taken.keys()) - again
        for seed in file.seeds:
            if seed.id not in again:
                named = _behind(source["path"], seed, taken) if seed.id in clash else seed
                taken[named.id] = named
        remarks = list(file.notes)
        if again:
            remarks.append(f"{len(again)} rows stand in an earlier file too, and were left out")
        if clash:
            remarks.append(f"{len(clash)} ids are an earlier file's too; they got this file's name")
        notes += [f"{source['path']}: {remark}" for remark in remarks]
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
