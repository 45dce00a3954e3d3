"""Published seed files, known by their exact header; nothing is guessed."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.types import Demo, Message, Seed, UsageError

csv.field_size_limit(16_000_000)  # WildGuardTest has cells of 22,038 characters

Record = Mapping[str, Any]
Rows = Iterator[tuple[int, Record]]
"""(line of the file, record)."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file held: its seeds, which schema matched, and what a reader should be told."""

    seeds: list[Seed]
    schema: str
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Schema:
    """How the records of one published file become seeds; `skip` names why a row is left out."""

    name: str
    columns: frozenset[str]
    text: Callable[[Record], str]
    harmful: Callable[[Record], bool]
    id: Callable[[Record], str] = lambda row: ""
    category: Callable[[Record], str] = lambda row: ""
    skip: Callable[[Record], str] = lambda row: ""


def _always(value: bool) -> Callable[[Record], bool]:
    return lambda row: value


def _column(name: str) -> Callable[[Record], str]:
    return lambda row: str(row[name])


def _with_context(row: Record) -> str:
    """HarmBench's own join of a contextual behaviour."""
    context = row["ContextString"]
    return f"{context}\n\n---\n\n{row['Behavior']}" if context else str(row["Behavior"])


def _copyright(row: Record) -> str:
    return "copyright (needs a hash judge)" if row["FunctionalCategory"] == "copyright" else ""


def _contrast(row: Record) -> bool:
    return str(row["type"]).startswith("contrast_")


_TRUE, _FALSE = {"true", "1", "harmful", "unsafe"}, {"false", "0", "benign", "safe", "harmless"}


def _label(row: Record) -> bool:
    told = str(row["harmful"]).strip().lower()
    if told not in _TRUE | _FALSE:
        raise ValueError(f"harmful must be true or false, got {told!r:.40}")
    return told in _TRUE


def _schema(name: str, columns: str, **ways: Any) -> Schema:
    return Schema(name, frozenset(columns.split(", ")), **ways)


_XSTEST: dict[str, Any] = {"text": _column("prompt"), "harmful": _contrast}
SCHEMAS: Sequence[Schema] = (
    _schema(
        "HarmBench text behaviors",
        "Behavior, FunctionalCategory, SemanticCategory, Tags, ContextString, BehaviorID",
        text=_with_context,
        harmful=_always(True),
        id=_column("BehaviorID"),
        category=_column("SemanticCategory"),
        skip=_copyright,
    ),
    _schema(
        "StrongREJECT",
        "category, source, forbidden_prompt",
        text=_column("forbidden_prompt"),
        harmful=_always(True),
        category=_column("category"),
    ),
    _schema(
        "XSTest v2 (JSON)",
        "id_v1, type, prompt, focus, note, source, id",
        id=_column("id"),
        category=_column("type"),
        **_XSTEST,
    ),
    _schema(
        "XSTest v2 (CSV)",
        "id_v1, id_v2, type, prompt, focus, note",
        id=_column("id_v2"),
        category=_column("type"),
        **_XSTEST,
    ),
    _schema(
        "XSTest",
        "id, prompt, type, label, focus, note",
        id=_column("id"),
        category=_column("type"),
        **_XSTEST,
    ),
    _schema("AdvBench", "goal, target", text=_column("goal"), harmful=_always(True)),
    _schema("seeds", "text, harmful", text=_column("text"), harmful=_label),
    _schema(
        "seeds with ids",
        "id, text, harmful",
        text=_column("text"),
        harmful=_label,
        id=_column("id"),
    ),
    _schema(
        "seeds with ids and categories",
        "id, text, harmful, category",
        text=_column("text"),
        harmful=_label,
        id=_column("id"),
        category=_column("category"),
    ),
)


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
    name = schema.id(row) or hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    return Seed(text, harmful, name, schema.category(row))


def _unique(seeds: Sequence[Seed], notes: list[str]) -> list[Seed]:
    """Ids made unique, so that no two seeds share an address of randomness."""
    seen: Counter[str] = Counter()
    out: list[Seed] = []
    for seed in seeds:
        again = seen[seed.id]
        name = f"{seed.id}~{again}" if again else seed.id
        out.append(Seed(seed.text, seed.harmful, name, seed.category))
        seen[seed.id] += 1
    twice = sum(n - 1 for n in seen.values())
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
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, None)
            if not header:
                raise UsageError(f"{path}: empty file")
            for cells in reader:
                if len(cells) != len(header):
                    raise UsageError(
                        f"{path}:{reader.line_num}: {len(cells)} cells where the header has "
                        f"{len(header)}"
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{path}:{reader.line_num + 1}: {error}") from None


def _jsonl(path: Path) -> Rows:
    """Records split on `\\n` alone: other line separators are text."""
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if raw.strip():
                yield line, _object(f"{path}:{line}", _loads(f"{path}:{line}", raw))


def _json(path: Path) -> Rows:
    told = _loads(str(path), path.read_bytes())
    records = told if isinstance(told, list) else list(told.values()) if told else []
    for number, record in enumerate(records, 1):
        yield number, _object(f"{path}: record {number}", record)


def _loads(where: str, raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}") from None


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
                f'{path}:{line}: wanted {{"messages": [{{"role", "content"}}, …]}} that ends with '
                "the assistant's reply"
            )
        *before, last = told
        seen = tuple(Message(m["role"], m["content"]) for m in before)
        demos.append(Demo(seen, last["content"]))
    if not demos:
        raise UsageError(f"{path}: no rows")
    return demos


def _is_dialogue(told: Any) -> bool:
    roles = {"system", "user", "assistant"}
    return (
        isinstance(told, list)
        and len(told) > 1
        and all(isinstance(m, dict) and m.get("role") in roles for m in told)
        and all(isinstance(m.get("content"), str) for m in told)
        and told[-1]["role"] == "assistant"
    )
