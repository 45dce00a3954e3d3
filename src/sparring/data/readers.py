"""From files to seeds and attack pools; whatever is wrong is named with its line."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.data.schemas import SCHEMAS, Record, Schema
from sparring.types import Demo, Message, Seed, UsageError

csv.field_size_limit(16_000_000)  # WildGuardTest has cells of 22,038 characters

Rows = Iterator[tuple[int, Record]]
"""(line of the file, record)."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file held: its seeds, which schema matched, and what a reader should be told."""

    seeds: list[Seed]
    schema: str
    notes: list[str]


def read(path: Path, limit: int | None = None) -> Found:
    """The seeds of a CSV, TSV, JSON or JSONL file with one of the known headers.

    UsageError names the file and the line. Rows a schema leaves out are counted in the notes.
    """
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise UsageError(f"{path}: no rows")
    schema = _match(path, first[1])
    seeds: list[Seed] = []
    skipped: Counter[str] = Counter()
    for line, row in _chain(first, rows):
        if row.keys() != schema.columns:
            odd = ", ".join(sorted(map(repr, row.keys() ^ schema.columns)))
            raise UsageError(f"{path}:{line}: not the fields of the first record: {odd}")
        why = schema.skip(row)
        if why:
            skipped[why] += 1
            continue
        seeds.append(_seed(path, line, schema, row))
        if limit and len(seeds) == limit:
            break
    if not seeds:
        raise UsageError(f"{path}: no usable rows ({dict(skipped)})")
    notes = [f"read as {schema.name}: {len(seeds)} seeds"]
    notes += [f"{n} rows left out: {why}" for why, n in skipped.items()]
    return Found(_unique(seeds, notes), schema.name, notes)


def _seed(path: Path, line: int, schema: Schema, row: Record) -> Seed:
    try:
        text, harmful = schema.text(row), schema.harmful(row)
    except ValueError as error:
        raise UsageError(f"{path}:{line}: {error}") from None
    if not text.strip():
        raise UsageError(f"{path}:{line}: the request is empty")
    name = schema.id(row) or hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Seed(text, harmful, name, schema.category(row))


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
        out.append(Seed(seed.text, seed.harmful, name, seed.category))
        seen[seed.id] += 1
    twice = len(seeds) - len(seen)
    if twice:
        notes.append(f"{twice} rows repeat an id or a text; their ids got a suffix")
    return out


def _match(path: Path, row: Record) -> Schema:
    columns = frozenset(row)
    found = next((schema for schema in SCHEMAS if schema.columns == columns), None)
    if found is None:
        known = "\n".join(f"  {s.name}: {', '.join(sorted(s.columns))}" for s in SCHEMAS)
        got = ", ".join(sorted(map(str, columns)))
        raise UsageError(f"{path}: unknown columns: {got}\nknown headers:\n{known}")
    return found


def _chain(first: tuple[int, Record], rest: Rows) -> Rows:
    yield first
    yield from rest


def _rows(path: Path) -> Rows:
    readers = {".csv": ",", ".tsv": "\t"}
    _must_exist(path)
    if path.suffix in readers:
        return _csv(path, readers[path.suffix])
    if path.suffix == ".jsonl":
        return _jsonl(path)
    if path.suffix == ".json":
        return _json(path)
    raise UsageError(f"{path}: unknown kind of file (wanted .csv, .tsv, .json or .jsonl)")


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")


def _csv(path: Path, delimiter: str) -> Rows:
    with path.open("rb") as file:
        reader = csv.reader(_decoded(path, file), delimiter=delimiter, strict=True)
        records = _records(path, reader)
        _, header = next(records, (0, []))
        if not header:
            raise UsageError(f"{path}: empty file")
        if len(set(header)) < len(header):
            raise UsageError(f"{path}:1: a column is named twice: {', '.join(header)}")
        for line, cells in records:
            if len(cells) != len(header):
                raise UsageError(
                    f"{path}:{line}: {len(cells)} cells where the header has {len(header)}"
                )
            yield line, dict(zip(header, cells, strict=True))


def _records(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Cells by the line they start on; a blank line is no record."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UsageError(f"{path}:{line}: {error}") from None
        if cells is None:
            return
        if cells:
            yield line, cells


def _decoded(path: Path, file: Iterable[bytes]) -> Iterator[str]:
    """Lines as text, split on `\\n` alone, so that a bad byte is found on its own line."""
    for line, raw in enumerate(file, 1):
        try:
            yield raw.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}:{line}: not UTF-8: {error.reason}") from None


def _jsonl(path: Path) -> Rows:
    """Records split on `\\n` alone: other line separators are text."""
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if raw.strip():
                yield line, _object(f"{path}:{line}", _loads(f"{path}:{line}", raw))


def _json(path: Path) -> Rows:
    told = _loads(str(path), path.read_bytes())
    records = list(told.values()) if isinstance(told, dict) else told or []
    if not isinstance(records, list):
        raise UsageError(f"{path}: wanted a list of records")
    for number, record in enumerate(records, 1):
        yield number, _object(f"{path}: record {number}", record)


def _loads(where: str, raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON in UTF-8: {error}") from None


def _object(where: str, told: Any) -> Record:
    if not isinstance(told, dict):
        raise UsageError(f"{where}: wanted an object with named fields")
    return told


def read_pool(path: Path) -> list[Demo]:
    """An attack pool: JSONL of {"messages": [{role, content}, …]} ending with the assistant."""
    demos: list[Demo] = []
    _must_exist(path)
    for line, record in _jsonl(path):
        told: Any = record.get("messages")
        if not _is_dialogue(told):
            raise UsageError(
                f'{path}:{line}: wanted {{"messages": [{{"role", "content"}}, …]}} with user and '
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
