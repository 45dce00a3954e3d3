"""Checkpoints that exist whole or not at all: temporary folder, manifest last, one rename."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from sparring.store.files import dumps, reading, sha256, sync_folder, write_atomic, writing
from sparring.store.records import CheckpointState, LatestRecord, Manifest, checked, read_record
from sparring.types import CorruptError, Seed, UsageError

MANIFEST = "MANIFEST.json"
SCHEMA = 1


Method = TypeVar("Method", bound=Callable[..., None])


def writers_alone(method: Method) -> Method:
    """Make a method do nothing where `self.writer` is false: one process of a run writes."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **more: Any) -> None:
        if self.writer:
            method(self, *args, **more)

    return cast(Method, guarded)


class Checkpoints:
    """The folder `checkpoints/` of a run.

    `latest` names the newest complete checkpoint and holds the sha256 of every manifest, followed
    by its own sha256; each manifest holds the sha256 of every file. So a flipped byte
    anywhere is noticed, and a folder without its manifest does not exist.
    """

    def __init__(self, folder: Path, writer: bool = True) -> None:
        self.folder, self.writer = folder, writer
        folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def name(number: int) -> str:
        """Return the name of the folder of the checkpoint after `number` rounds."""
        return f"round_{number:06d}"

    def path(self, number: int) -> Path:
        return self.folder / self.name(number)

    def numbers(self) -> list[int]:
        """Return the numbers of rounds after which there is a complete checkpoint, ascending."""
        return sorted(map(_number, self._index()))

    def at(self, number: int | None) -> int:
        """Return `number`, or the newest for None; UsageError if there is no such checkpoint."""
        numbers = self.numbers()
        if not numbers:
            raise UsageError(f"{self.folder.parent}: no checkpoint yet")
        if number not in (None, *numbers):
            raise UsageError(
                f"{self.folder.parent}: no checkpoint after {number} rounds; wanted one of "
                f"{numbers}"
            )
        return numbers[-1] if number is None else number

    @writers_alone
    def write(self, number: int, fill: Callable[[Path], None], keep: Callable[[int], bool]) -> None:
        """Publish what `fill` writes into a temporary folder, and drop what `keep` does not keep.

        The two newest always stay, so that there is one to fall back to.
        """
        final = self.path(number)
        with writing(final):
            self._fill(final, fill)
            self._list(final, keep)

    def _fill(self, final: Path, fill: Callable[[Path], None]) -> None:
        temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        fill(temporary)
        (temporary / MANIFEST).write_bytes(_manifest(temporary))
        for path in [*temporary.rglob("*"), temporary]:
            sync_folder(path)
        if not self._latest.is_file():
            self._publish({})
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)

    def _list(self, final: Path, keep: Callable[[int], bool]) -> None:
        index = {**self._index(), final.name: sha256(final / MANIFEST)}
        newest = sorted(index)[-2:]
        stay = {name for name in index if name in newest or keep(_number(name))}
        self._publish({name: index[name] for name in sorted(stay)})
        for name in index.keys() - stay:
            shutil.rmtree(self.folder / name)

    def newest(self, warn: Callable[[str], None]) -> int | None:
        """Return the newest checkpoint that verifies; None if none was ever written.

        One that does not verify is passed over with a warning; if none is left, CorruptError
        names the files.
        """
        broken: list[str] = []
        for number in reversed(self.numbers()):
            try:
                self.verify(number)
            except CorruptError as error:
                broken.append(str(error))
                warn(f"{error}; trying the checkpoint before it")
            else:
                return number
        if broken:
            raise CorruptError("no checkpoint is whole:\n" + "\n".join(broken))
        return None

    def whole(self, number: int, warn: Callable[[str], None]) -> bool:
        """Say whether a checkpoint verifies, and warn of one that does not."""
        try:
            self.verify(number)
        except CorruptError as error:
            warn(f"{error}; going on without it")
            return False
        return True

    def verify(self, number: int) -> None:
        """Compare every file with its digest; CorruptError names the first that differs."""
        folder = self.path(number)
        manifest = folder / MANIFEST
        if not manifest.is_file() or sha256(manifest) != self._index().get(folder.name):
            raise CorruptError(f"{manifest}: does not match what was written")
        digests = read_record(Manifest, manifest).sha256
        names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        for name in sorted(names - digests.keys() - {MANIFEST}):
            raise CorruptError(f"{folder / name}: is not in the manifest")
        for name, digest in digests.items():
            path = folder / name
            if not path.is_file() or sha256(path) != digest:
                raise CorruptError(f"{path}: does not match what was written")

    @writers_alone
    def rewind(self, number: int) -> None:
        """Forget the checkpoints after `number`: they are damaged, and will be written again."""
        index = self._index()
        stay = {name: digest for name, digest in index.items() if _number(name) <= number}
        if stay != index:
            self._publish(stay)
            self.sweep()

    @writers_alone
    def sweep(self) -> None:
        """Remove what a killed writer left behind."""
        index = self._index()
        unlisted = (path for path in self.folder.glob("round_*") if path.name not in index)
        for path in {*self.folder.glob("*.tmp-*"), *unlisted}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _index(self) -> dict[str, str]:
        if not self._latest.is_file():
            if any(".tmp-" not in path.name for path in self.folder.glob("round_*")):
                raise CorruptError(f"{self._latest}: is missing, but there are checkpoints")
            return {}
        raw = self._latest.read_bytes()
        body = raw.partition(b"\n")[0]
        if raw != _sealed(body):
            raise CorruptError(f"{self._latest}: does not match what was written")
        with reading(self._latest):
            return checked(LatestRecord, json.loads(body), self._latest).manifests

    def _publish(self, index: Mapping[str, str]) -> None:
        record = LatestRecord(latest=max(index, default=None), manifests=dict(index))
        write_atomic(self._latest, _sealed(dumps(record.model_dump()).rstrip(b"\n")))

    @property
    def _latest(self) -> Path:
        return self.folder / "latest"


def seeds_digest(seeds: Sequence[Seed]) -> str:
    """Return the hex digest that tells these seeds from any others."""
    return hashlib.sha256(b"".join(dumps(seed.to_json()) for seed in seeds)).hexdigest()


def check_seeds(checkpoint: Path, seeds: Sequence[Seed]) -> None:
    """Raise UsageError where a checkpoint's run was trained on other seeds than these."""
    trained_on = read_record(CheckpointState, checkpoint / "state.json").seeds_sha256
    if trained_on not in (None, seeds_digest(seeds)):
        raise UsageError(
            f"data.train: not the seeds that {checkpoint} was trained on: its files have changed, "
            "or an older version held out others of them; put them back, give the held-out ones "
            "as data.exam, or begin a new run"
        )


def _sealed(body: bytes) -> bytes:
    """Return a line followed by its own sha256."""
    return body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def _number(name: str) -> int:
    """Return how many rounds were played before the checkpoint of this name."""
    return int(name.removeprefix("round_"))


def _manifest(folder: Path) -> bytes:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    digests = {str(p.relative_to(folder)): sha256(p) for p in files}
    return dumps({"schema": SCHEMA, "sha256": digests})
