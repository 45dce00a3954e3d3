"""Checkpoints that exist whole or not at all: temporary folder, manifest last, one rename."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from sparring.store.files import dumps, sha256, sync_folder, write_atomic, writing
from sparring.types import CorruptError, Seed, UsageError

MANIFEST = "MANIFEST.json"
SCHEMA = 1


Writing = TypeVar("Writing", bound=Callable[..., None])


def writers_alone(method: Writing) -> Writing:
    """Nothing happens where `self.writer` is false: of the processes of a run one writes."""

    @functools.wraps(method)
    def told(self: Any, *args: Any, **more: Any) -> None:
        if self.writer:
            method(self, *args, **more)

    return cast(Writing, told)


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
        """The folder of the checkpoint after `number` rounds."""
        return f"round_{number:06d}"

    def path(self, number: int) -> Path:
        return self.folder / self.name(number)

    def numbers(self) -> list[int]:
        """Rounds that have a complete checkpoint, ascending."""
        return sorted(int(name.removeprefix("round_")) for name in self._index())

    def at(self, number: int | None) -> int:
        """`number`, or the newest for None; UsageError if there is no such checkpoint."""
        there = self.numbers()
        if not there:
            raise UsageError(f"{self.folder.parent}: no checkpoint yet")
        if number not in (None, *there):
            told = f"no checkpoint after {number} rounds; wanted one of {there}"
            raise UsageError(f"{self.folder.parent}: {told}")
        return there[-1] if number is None else number

    @writers_alone
    def write(self, number: int, fill: Callable[[Path], None], keep: Callable[[int], bool]) -> None:
        """Let `fill` write into a temporary folder, then publish it and drop what nobody keeps.

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
        stay = {n for n in index if n in newest or keep(int(n.removeprefix("round_")))}
        self._publish({name: index[name] for name in sorted(stay)})
        for name in index.keys() - stay:
            shutil.rmtree(self.folder / name)

    def newest(self, warn: Callable[[str], None]) -> int | None:
        """The newest checkpoint that verifies; None if none was ever written.

        One that does not is passed over with a warning; if none is left, CorruptError names the
        files.
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
        """Whether a checkpoint verifies; one that does not is warned of."""
        try:
            self.verify(number)
        except CorruptError as error:
            warn(f"{error}; going on without it")
            return False
        return True

    def verify(self, number: int) -> None:
        """CorruptError names the first file that is not what was written."""
        folder = self.path(number)
        manifest = folder / MANIFEST
        if not manifest.is_file() or sha256(manifest) != self._index().get(folder.name):
            raise CorruptError(f"{manifest}: does not match what was written")
        files: Mapping[str, str] = json.loads(manifest.read_bytes())["sha256"]
        found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        for name in sorted(found - files.keys() - {MANIFEST}):
            raise CorruptError(f"{folder / name}: is not in the manifest")
        for name, digest in files.items():
            path = folder / name
            if not path.is_file() or sha256(path) != digest:
                raise CorruptError(f"{path}: does not match what was written")

    @writers_alone
    def rewind(self, number: int) -> None:
        """Forget the checkpoints after `number`: none of them verifies, and they come again."""
        index = self._index()
        stay = {n: told for n, told in index.items() if int(n.removeprefix("round_")) <= number}
        if stay != index:
            self._publish(stay)
            self.sweep()

    @writers_alone
    def sweep(self) -> None:
        """Remove what a killed writer left behind."""
        for path in {*self.folder.glob("*.tmp-*"), *self._unlisted()}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _unlisted(self) -> Iterator[Path]:
        known = self._index()
        return (p for p in self.folder.glob("round_*") if p.name not in known)

    def _index(self) -> dict[str, str]:
        if not self._latest.is_file():
            if any(".tmp-" not in path.name for path in self.folder.glob("round_*")):
                raise CorruptError(f"{self._latest}: is missing, but there are checkpoints")
            return {}
        raw = self._latest.read_bytes()
        body = raw.partition(b"\n")[0]
        if raw != _sealed(body):
            raise CorruptError(f"{self._latest}: does not match what was written")
        told: dict[str, str] = json.loads(body)["manifests"]
        return told

    def _publish(self, index: Mapping[str, str]) -> None:
        told = {"latest": max(index, default=None), "manifests": dict(index)}
        write_atomic(self._latest, _sealed(dumps(told).rstrip(b"\n")))

    @property
    def _latest(self) -> Path:
        return self.folder / "latest"


def seeds_digest(seeds: Sequence[Seed]) -> str:
    """What tells the seeds of a run from any others; hex."""
    return hashlib.sha256(b"".join(dumps(seed.to_json()) for seed in seeds)).hexdigest()


def check_seeds(checkpoint: Path, seeds: Sequence[Seed]) -> None:
    """UsageError where a checkpoint's run was trained on other seeds than these."""
    told = json.loads((checkpoint / "state.json").read_bytes())
    if told.get("seeds_sha256", digest := seeds_digest(seeds)) != digest:
        raise UsageError(
            f"data.train: not the seeds that {checkpoint} was trained on: its files have changed, "
            "or an older version held out others of them; put them back, give the held-out ones "
            "as data.exam, or begin a new run"
        )


def _sealed(body: bytes) -> bytes:
    """A line and its own sha256."""
    return body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def _manifest(folder: Path) -> bytes:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    digests = {str(p.relative_to(folder)): sha256(p) for p in files}
    return dumps({"schema": SCHEMA, "sha256": digests})
