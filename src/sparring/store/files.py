"""Files that are whole or not there: atomic writes, journals, and errors that name the file."""

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sparring.door import inside, opened, parsed, reading, sha256
from sparring.stats.rates import grouped
from sparring.types import CorruptError, SparringError

Row = Mapping[str, Any]
_LONGEST_LINE = 16_000_000
_SEAL, _SEAL_LENGTH = "sha256", 16
_FLAGS = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def dumps(value: Any) -> bytes:
    """One line of ASCII JSON that keeps every float and every surrogate; NaN is a ValueError."""
    return json.dumps(value, allow_nan=False).encode() + b"\n"


def digest(value: Any, length: int = 64) -> str:
    """Return the first hex digits of the sha256 of a value as JSON."""
    return hashlib.sha256(dumps(value)).hexdigest()[:length]


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


def _temporary(path: Path) -> Path:
    """Return a name beside `path` that nobody could have foreseen."""
    return path.with_name(f"{path.name}.tmp-{secrets.randbelow(10**12)}")


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` in one step; a crash leaves the old file or the new one."""
    temporary = _temporary(path)
    with writing(path):
        handle = os.open(temporary, os.O_WRONLY | os.O_EXCL | _FLAGS, 0o666)
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(data)
            file.flush()
            os.fsync(handle)
            os.replace(temporary, path)
        sync(path.parent)


@contextlib.contextmanager
def published(final: Path) -> Iterator[Path]:
    """Make a temporary folder that becomes `final` if the block ends well."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(final)
    with writing(final):
        temporary.mkdir()
        handle = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield temporary
            os.replace(temporary, final)
        finally:
            os.close(handle)
            shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path, names: str = "**/*") -> None:
    """Remove what killed writers of `names` (a glob) left; a living one locks what it writes."""
    for path in [*folder.glob(f"{names}.tmp-[0-9]*")]:
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)


def packed(rows: Iterable[Row]) -> bytes:
    """Return rows as gzipped JSON lines; the same rows give the same bytes."""
    return gzip.compress(b"".join(map(dumps, rows)), compresslevel=6, mtime=0)


def sync_tree(folder: Path) -> None:
    """Make everything in a folder survive a power cut."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Make a file, or the renames in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_packed(path: Path, most: int | None = None) -> Iterator[Any]:
    """Yield the value of every gzipped JSON line; ends after `most` bytes of text.

    CorruptError names a file that is not what was written, or that unpacks to more than 64 MB and
    a hundred times its size. No line is longer than 16 MB.
    """
    with reading(path), opened(path) as raw, gzip.open(raw) as file:
        size, limit = 0, 2**26 + 100 * os.fstat(raw.fileno()).st_size
        while (most is None or size <= most) and (line := file.readline(_LONGEST_LINE)):
            size += len(line)
            if size > limit:
                raise ValueError(f"it unpacks to more than {limit:,} bytes")
            yield parsed(line)


@dataclass(frozen=True, slots=True)
class Journal:
    """An append-only file with one JSON object a line.

    A last line without its newline was torn by a kill: `rows` does not return it, and the next
    `append` removes it. Where `key` is given, two records with one key are a CorruptError, and
    every record is written with the digest of its other fields as its last one, so that a line
    which was changed later is a CorruptError too. Older files have no digests.
    """

    path: Path
    key: Callable[[Row], Hashable] | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every whole record; CorruptError names the file and line of one that is none."""
        keys: set[Hashable] = set()
        if not self.path.exists():
            return
        with reading(self.path), opened(self.path) as file:
            lines = iter(lambda: file.readline(_LONGEST_LINE), b"")
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    yield self._row(f"{self.path}:{number}", line, keys)

    def _row(self, where: str, line: bytes, keys: set[Hashable]) -> dict[str, Any]:
        try:
            row = parsed(line)
            key = self.key(row) if self.key else None
            seal = row.pop(_SEAL, None) if self.key else None
            if seal not in (None, digest(row, _SEAL_LENGTH)):
                raise ValueError("its digest is that of another record")
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
        data = memoryview(self._lines(rows))
        if not data:
            return
        flags = os.O_RDWR | os.O_APPEND | _FLAGS
        with writing(self.path), FileIO(os.open(self.path, flags, 0o666), "ab+") as file:
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
        write_atomic(self.path, self._lines(rows))

    def _lines(self, rows: Iterable[Row]) -> bytes:
        if self.key:
            rows = ({**row, _SEAL: digest(row, _SEAL_LENGTH)} for row in rows)
        return b"".join(map(dumps, rows))


def _end_of_last_line(file: FileIO) -> int:
    """Return how many bytes of a file are whole lines."""
    size = file.seek(0, os.SEEK_END)
    if size:  # nearly always the last byte is a newline
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            return file.readall().rfind(b"\n") + 1
    return size


@dataclass(frozen=True)
class Evidence:
    """What a run's folder is judged by: its exams, transcripts and measurements, each sealed.

    Every file's sha256 is in `seals.jsonl` before the file is written. A kill between the two
    leaves the file as it was, whose digest is there as well.
    """

    folder: Path
    writer: bool = True

    @cached_property
    def _seals(self) -> Journal:
        return Journal(inside(self.folder, "seals.jsonl"))

    @cached_property
    def _digests(self) -> dict[str, set[str]]:
        """The digests that each file has had; a file that an older version wrote has none."""
        with reading(self._seals.path):
            digests = grouped((row["file"], row["sha256"]) for row in self._seals.rows())
        return {file: set(each) for file, each in digests.items()}

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, and its seal before it, unless this is no writer."""
        if not self.writer:
            return
        path, digest = inside(self.folder, name), hashlib.sha256(data).hexdigest()
        if digest not in self._digests.setdefault(name, set()):
            self._seals.append([{"file": name, "sha256": digest}])
            self._digests[name].add(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)

    def path(self, name: str) -> Path:
        """Return the path of a file; CorruptError where it is there and is not what was written."""
        path, digests = inside(self.folder, name), self._digests.get(name)
        if digests and path.exists() and sha256(path) not in digests:
            raise CorruptError(f"{path}: does not match what was written")
        return path
