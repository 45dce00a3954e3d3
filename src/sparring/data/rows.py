"""The records of a file as a stream, each with the line it stands on; nothing is guessed."""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from sparring.types import UsageError

Record = Mapping[str, Any]
"""One row, by field."""

Place = tuple[str, Record]
"""(where it stands, as `FILE:LINE` or `FILE: record N`; the record)."""

MOST_LINE = 16_000_000
MOST_RECORD = 64_000_000
MOST_WHOLE = 256_000_000
MOST_UNPACKED = 4_000_000_000
MOST_DEPTH = 100
"""The most bytes of a line, of a record, of a JSON file (which is read whole) and of what a gzipped
file unpacks to, and the most levels of nesting."""
_RATIO = 100
"""The most that gzip may have shrunk a file, beyond one line."""

_HUB = "https://huggingface.co/datasets"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_SOURCE = re.compile(rf"({_NAME}/{_NAME}):([^:@]+)(?:@(.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+=-]{0,127}")

csv.field_size_limit(MOST_LINE)  # WildGuardTest has cells of 22,038 characters


OWN = ("own:train", "own:tuning", "own:held_out")
"""The contrast pairs that ship with the package."""


def located(source: Path | str) -> Path:
    """The file itself, the shipped one of a name in OWN, or one of the hub.

    `OWNER/NAME:FILE@REVISION` is a hub's file; it is fetched into the hub's cache and kept there.
    A revision is the 40 hexadecimal digits of a commit, so that a run reads the same rows again.
    UsageError tells how to pin where that is missing, or why the file could not be had.
    """
    text = str(source)
    if text in OWN:
        return Path(str(files("sparring.data") / "own" / f"{text.removeprefix('own:')}.jsonl"))
    if Path(text).exists() or not (parts := _SOURCE.fullmatch(text)):
        return Path(text)
    name, file, revision = parts.groups()
    if not _COMMIT.fullmatch(revision or ""):
        raise UsageError(
            f"{text}: no pinned revision; wanted {name}:{file}@REVISION with the 40 hexadecimal "
            f"digits of a commit, such as the newest one listed at {_HUB}/{name}/commits/main"
        )
    if not all(_PART.fullmatch(part) for part in file.split("/")):
        raise UsageError(f"{text}: {file!r:.80} is no path inside a data set")
    return _fetched(text, name, file, revision)


def _fetched(source: str, name: str, file: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))
    except GatedRepoError:
        why = f"gated; accept its terms at {_HUB}/{name} and log in (HF_TOKEN)"
    except LocalEntryNotFoundError:
        why = "not in the cache, and the hub cannot be reached"
    except Exception as error:  # whose HTTP library it is changes with the hub's version
        why = f"could not be fetched: {error!s:.200}"
    raise UsageError(f"{source}: {why}")


def records(path: Path) -> Iterator[Place]:
    """The records of a CSV, TSV, JSONL, JSON or Parquet file, all but JSON in constant memory.

    The first three may be gzipped. UsageError names the file and the line.
    """
    packed = path.suffix == ".gz" and len(path.suffixes) > 1
    kind = path.suffixes[-2] if packed else path.suffix
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if kind not in _READERS or (packed and kind in (".json", ".parquet")):
        raise UsageError(f"{path}: unknown kind of file (wanted one of {', '.join(_READERS)})")
    return _READERS[kind](path)


def _csv(path: Path, delimiter: str) -> Iterator[Place]:
    """The rows below the header, by the line they start on; a blank line is no record."""
    reader = csv.reader(_text_lines(path), delimiter=delimiter, strict=True)
    where, header = f"{path}:1", list[str]()
    try:
        for cells in reader:
            if sum(map(len, cells)) > MOST_RECORD:
                raise UsageError(f"{where}: a record of more than {MOST_RECORD:,} characters")
            if not header:
                header = cells
                if again := [n for n, name in enumerate(header, 1) if name in header[: n - 1]]:
                    raise UsageError(f"{path}:1: a column is named twice: number {again[0]}")
            elif cells:
                if len(cells) != len(header):
                    raise UsageError(
                        f"{where}: {len(cells)} cells where the header has {len(header)}"
                    )
                yield where, dict(zip(header, cells, strict=True))
            where = f"{path}:{reader.line_num + 1}"
    except csv.Error as error:
        raise UsageError(f"{where}: {error}") from None
    if not header:
        raise UsageError(f"{path}: empty file")


def _text_lines(path: Path) -> Iterator[str]:
    """Lines as text, decoded one by one so that a bad byte is found on its own line."""
    for line, raw in _lines(path):
        try:
            yield raw.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}:{line}: not UTF-8: {error.reason}") from None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines split on `\\n` alone: other line separators are text."""
    line = read = 0
    packed = path.suffix == ".gz"
    most = min(MOST_UNPACKED, _RATIO * path.stat().st_size + MOST_LINE)
    try:
        with cast(BinaryIO, gzip.open(path) if packed else path.open("rb")) as file:
            while raw := file.readline(MOST_LINE + 1):
                line, read = line + 1, read + len(raw)
                if len(raw) > MOST_LINE:
                    raise UsageError(f"{path}:{line}: a line of more than {MOST_LINE:,} bytes")
                if packed and read > most:
                    raise UsageError(f"{path}:{line}: it unpacks to more than {most:,} bytes")
                yield line, raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path}:{line + 1}: not gzip: {error}") from None


def jsonl(path: Path) -> Iterator[Place]:
    """The objects of a file that has one on each line, whatever the file is called."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    for line, raw in _lines(path):
        if raw.strip():
            yield f"{path}:{line}", _object(f"{path}:{line}", _loads(f"{path}:{line}", raw))


def _json(path: Path) -> Iterator[Place]:
    """The records of a list, of JailbreakBench's artifacts, of records or lists by name; JSONL."""
    if path.stat().st_size > MOST_WHOLE:
        raise UsageError(
            f"{path}: more than {MOST_WHOLE:,} bytes of JSON, which is read whole; "
            "make it JSONL, one record a line"
        )
    raw = path.read_bytes()
    if raw.lstrip()[:1] == b"{" and b"\n{" in raw:  # JSONL, as it is often called on the hub
        yield from jsonl(path)
        return
    value = _loads(str(path), raw)
    if isinstance(value, dict) and value.keys() == {"parameters", "jailbreaks"}:
        value = value["jailbreaks"]
    if isinstance(value, dict):
        value = [*value.values()]
        if value and all(isinstance(member, str) for member in value):
            raise UsageError(
                f"{path}: texts by name, such as HarmBench's targets: replies that an attack aims "
                "for, and no requests; give the file of behaviors"
            )
        if all(isinstance(member, list) for member in value):
            value = [*chain.from_iterable(value)]
    if not isinstance(value, list):
        raise UsageError(f"{path}: wanted a list of records")
    for number, record in enumerate(value, 1):
        yield f"{path}: record {number}", _object(f"{path}: record {number}", record)


def _loads(where: str, raw: bytes) -> Any:
    """JSON, and NaN and Infinity, which real files hold; no prompt is ever read from one."""
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON in UTF-8: {error}") from None
    depth, level = 0, [value]
    while level := [inner for inner in level if isinstance(inner, list | dict)]:
        depth += 1
        level = [v for inner in level for v in (inner.values() if type(inner) is dict else inner)]
    if depth > MOST_DEPTH:
        raise UsageError(f"{where}: nested more than {MOST_DEPTH} deep")
    return value


def _object(where: str, value: Any) -> Record:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: wanted an object with named fields")
    return value


def _parquet(path: Path) -> Iterator[Place]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UsageError(
            f"{path}: Parquet needs pyarrow (pip install 'sparring[data]'); or save it as JSONL"
        ) from None
    try:
        batches = ParquetFile(path).iter_batches(batch_size=256)
        for number, record in enumerate(chain.from_iterable(b.to_pylist() for b in batches), 1):
            yield f"{path}: record {number}", record
    except (ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{path}: not Parquet: {error!s:.200}") from None


_READERS: Mapping[str, Callable[[Path], Iterator[Place]]] = {
    ".csv": partial(_csv, delimiter=","),
    ".tsv": partial(_csv, delimiter="\t"),
    ".jsonl": jsonl,
    ".json": _json,
    ".parquet": _parquet,
}
