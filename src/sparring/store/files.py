"""Files that are whole or not there: atomic writes, journals, and errors that name the file."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sparring.types import CorruptError, SparringError

Row = Mapping[str, Any]
_UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError, OverflowError),
    *(EOFError, OSError, RecursionError, zlib.error),
)
_LONGEST_LINE = 16_000_000


def dumps(value: Any) -> bytes:
    """One line of ASCII JSON that keeps every float and every surrogate; NaN is a ValueError."""
    return json.dumps(value, allow_nan=False).encode() + b"\n"


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn whatever the disk refuses within the block into one message that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(path.parent).free
        raise SparringError(
            f"{path}: cannot be written: {error} ({free:,} bytes are free); what was saved before "
            "is whole; put that right and run the same command again (train: with --resume)"
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` in one step; a crash leaves the old file or the new one."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with writing(path):
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)


def write_packed(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as gzipped JSON lines; the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, gzip.compress(b"".join(map(dumps, rows)), compresslevel=6, mtime=0))


def sync_folder(path: Path) -> None:
    """Make the renames in a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file; CorruptError names a file that holds none."""
    with reading(path):
        return json.loads(path.read_bytes())


def read_packed(path: Path, most: int | None = None) -> Iterator[Any]:
    """Yield the value of every gzipped JSON line; ends after `most` bytes of text.

    CorruptError names a file that is not what was written. No line is longer than 16 MB.
    """
    with reading(path), gzip.open(path, "rb") as file:
        size = 0
        while size <= (most or sys.maxsize) and (line := file.readline(_LONGEST_LINE)):
            size += len(line)
            yield json.loads(line)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with a file's contents into a CorruptError that names the file.

    What is neither a file nor missing (a pipe, a device) is refused before it is opened.
    """
    if path.exists() and not path.is_file():
        raise CorruptError(f"{path}: is not what was written: it is no regular file")
    try:
        yield
    except _UNREADABLE as error:
        raise CorruptError(f"{path}: is not what was written: {error!r:.200}") from error


@dataclass(frozen=True, slots=True)
class Journal:
    """An append-only file with one JSON object a line.

    A last line without its newline was torn by a kill: `rows` does not return it, and the next
    `append` removes it. Where `key` is given, two records with one key are a CorruptError.
    """

    path: Path
    key: Callable[[Row], Hashable] | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every whole record; CorruptError names the file and line of one that is none."""
        keys: set[Hashable] = set()
        if not self.path.exists():
            return
        with reading(self.path), self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield self._row(f"{self.path}:{number}", line, keys)

    def _row(self, where: str, line: bytes, keys: set[Hashable]) -> dict[str, Any]:
        try:
            row = json.loads(line)
            key = self.key(row) if self.key else None
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise CorruptError(f"{where}: is not what was written") from error
        if not isinstance(row, dict):
            raise CorruptError(f"{where}: is not what was written: no JSON object")
        if self.key and key in keys:
            raise CorruptError(f"{where}: this record stands above already")
        keys.add(key)
        return row

    def append(self, rows: Iterable[Row]) -> None:
        """Add records in one write and make them durable; a full disk leaves no part of them."""
        data = memoryview(b"".join(map(dumps, rows)))
        if not data:
            return
        with writing(self.path), self.path.open("ab+", buffering=0) as file:
            end = _end_of_last_line(file)
            file.truncate(end)
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def replace(self, rows: Iterable[Row]) -> None:
        """Write the file anew with these records, in one step."""
        write_atomic(self.path, b"".join(map(dumps, rows)))


def _end_of_last_line(file: FileIO) -> int:
    """Return how many bytes of a file are whole lines."""
    size = file.seek(0, os.SEEK_END)
    if size:  # nearly always the last byte is a newline
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            return file.readall().rfind(b"\n") + 1
    return size
