"""A file of JSON lines that grows a whole record at a time, and forgets what was torn."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from sparring.store.files import dumps, reading, write_atomic, writing
from sparring.types import CorruptError

Row = Mapping[str, Any]
_BLOCK = 2**20


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
        with reading(self.path):
            file = self.path.open("rb") if self.path.exists() else None
        if file is None:
            return
        with file:
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
    end, size = file.seek(0, os.SEEK_END), 1  # nearly always the last byte is a newline
    while end:
        start = max(0, end - size)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end, size = start, _BLOCK
    return 0
