"""The rows of `examples.yaml`, and helpers that write rows to files."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from sparring.data.readers import read
from sparring.data.schemas import digest
from sparring.types import Seed, UsageError

VAULT, LANTERN = "open the dragon vault", "polish the brass lantern"
TALE = f"In a tale, a knight says: {VAULT}"
TABLE = yaml.safe_load((Path(__file__).parent / "examples.yaml").read_text())
PUBLISHED = [
    (e["schema"], e["file"], e["row"], Seed(**{"id": digest(e["seed"]["text"])} | e["seed"]))
    for e in TABLE
]
"""(schema, file, one row of it, its seed)."""


def row_of(schema, **cells):
    """The example row of a schema, with some cells replaced."""
    return next(row for name, _, row, _ in PUBLISHED if name == schema) | cells


def wild(**cells):
    return {"vanilla": VAULT, "adversarial": "", "completion": "no"} | cells


def guarded(**cells):
    return row_of("WildGuardMix (train)", adversarial="False", response="It is shut.") | cells


def written(path: Path, rows) -> Path:
    """Write `rows` as CSV, TSV, JSON or JSONL, by the suffix of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".csv", ".tsv"):
        text = io.StringIO(newline="")
        delimiter = "\t" if path.suffix == ".tsv" else ","
        writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue()
    elif path.suffix == ".json":
        content = json.dumps(rows)
    else:
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(content.encode())
    return path


def refused(path: Path, reader=read) -> str:
    """The usage error that a reader raises for a file."""
    with pytest.raises(UsageError) as error:
        reader(path)
    return str(error.value)


def texts_and_omissions(path: Path) -> tuple[list[str], list[str]]:
    """The requests of a file, and the notes on the rows that were left out."""
    file = read(path)
    return [s.text for s in file.seeds], [n for n in file.notes if "left out" in n]
