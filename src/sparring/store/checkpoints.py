"""Checkpoints that exist whole or not at all: temporary folder, manifest last, one rename."""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sparring import door
from sparring.door import MANIFEST, inside, sha256
from sparring.store.files import dumps, published, sweep, sync_tree, write_atomic
from sparring.store.records import CheckpointState, LatestRecord
from sparring.types import CorruptError, Seed, UsageError

SCHEMA = 1


class Checkpoints:
    """The folder `checkpoints/` of a run.

    `latest` names the newest complete checkpoint and holds the sha256 of every manifest, followed
    by its own sha256; each manifest holds the sha256 of every file. So a flipped byte
    anywhere is noticed, and a folder without its manifest does not exist.
    """

    def __init__(self, folder: Path, writer: bool = True) -> None:
        self.folder, self.writer = folder, writer

    @staticmethod
    def name(number: int) -> str:
        """Return the name of the folder of the checkpoint after `number` rounds."""
        return f"round_{number:06d}"

    def path(self, number: int) -> Path:
        return inside(self.folder, self.name(number))

    @property
    def _latest(self) -> Path:
        return inside(self.folder, "latest")

    def numbers(self) -> list[int]:
        """Return the numbers of rounds after which there is a complete checkpoint, ascending."""
        return sorted(self._index())

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

    def write(self, number: int, fill: Callable[[Path], None], keep: Callable[[int], bool]) -> None:
        """Publish what `fill` writes into a temporary folder, and drop what `keep` does not keep.

        The two newest always stay, so that there is one to fall back to.
        """
        if not self.writer:
            return
        final = self.path(number)
        with published(final) as temporary:
            fill(temporary)
            write_manifest(temporary)
            sync_tree(temporary)
            if not self._latest.is_file():
                self._publish({})
            shutil.rmtree(final, ignore_errors=True)
        index = {**self._index(), number: sha256(final / MANIFEST)}
        newest = sorted(index)[-2:]
        stay = {n for n in index if n in newest or keep(n)}
        self._publish({n: index[n] for n in stay})
        for n in index.keys() - stay:
            shutil.rmtree(self.path(n))

    def newest(self, warn: Callable[[str], None]) -> int | None:
        """Return the newest checkpoint that verifies; None if none was ever written.

        One that does not verify is passed over with a warning; if none is left, CorruptError
        names the files.
        """
        broken: list[str] = []
        for number in reversed(self.numbers()):
            if not (damage := self._damage(number)):
                return number
            broken.append(damage)
            warn(f"{damage}; trying the checkpoint before it")
        if broken:
            raise CorruptError("no checkpoint is whole:\n" + "\n".join(broken))
        return None

    def whole(self, number: int, warn: Callable[[str], None]) -> bool:
        """Say whether a checkpoint verifies, and warn of one that does not."""
        if damage := self._damage(number):
            warn(f"{damage}; going on without it")
        return not damage

    def _damage(self, number: int) -> str:
        """What is wrong with a checkpoint; '' for one that verifies."""
        try:
            self.verify(number)
        except CorruptError as error:
            return str(error)
        return ""

    def verify(self, number: int) -> None:
        """Compare every file with its digest; CorruptError names the first that differs."""
        manifest = inside(self.path(number), MANIFEST)
        if not manifest.is_file() or sha256(manifest) != self._index().get(number):
            raise CorruptError(f"{manifest}: does not match what was written")
        door.check_manifest(manifest.parent)

    def rewind(self, number: int) -> None:
        """Forget the checkpoints after `number`: they are damaged, and will be written again."""
        index = self._index()
        stay = {n: digest for n, digest in index.items() if n <= number}
        if self.writer and stay != index:
            self._publish(stay)
            self.sweep()

    def sweep(self) -> None:
        """Remove what a killed writer left behind."""
        if not self.writer:
            return
        listed = set(map(self.path, self._index()))
        sweep(self.folder, "*")
        for path in {*self.folder.glob("round_*")} - listed:
            shutil.rmtree(path)

    def _index(self) -> dict[int, str]:
        """The sha256 of the manifest of every complete checkpoint, by its number of rounds."""
        if not self._latest.is_file():
            if any(".tmp-" not in path.name for path in self.folder.glob("round_*")):
                raise CorruptError(f"{self._latest}: is missing, but there are checkpoints")
            return {}
        raw = door.read_bytes(self._latest)
        body = raw.partition(b"\n")[0]
        if raw != _sealed(body):
            raise CorruptError(f"{self._latest}: does not match what was written")
        with door.reading(self._latest):
            record = door.checked(LatestRecord, door.parsed(body), self._latest)
        return {number: record.manifests[name] for number, name in numbered(record.manifests)}

    def _publish(self, index: Mapping[int, str]) -> None:
        manifests = {self.name(number): index[number] for number in sorted(index)}
        record = LatestRecord(latest=max(manifests, default=None), manifests=manifests)
        write_atomic(self._latest, _sealed(dumps(record.model_dump()).rstrip(b"\n")))


def numbered(names: Iterable[str]) -> list[tuple[int, str]]:
    """Return the numbers in `round_000004` or `round_000004.jsonl.gz`, ascending, with the name."""
    matches = (re.fullmatch(r"round_(\d+)(?:\.jsonl\.gz)?", name) for name in names)
    return sorted((int(match[1]), match[0]) for match in matches if match)


def write_manifest(folder: Path) -> None:
    """Write beside the files of a folder the sha256 of each."""
    (folder / MANIFEST).write_bytes(dumps({"schema": SCHEMA, "sha256": door.digests(folder)}))


def seeds_digest(seeds: Sequence[Seed]) -> str:
    """Return the hex digest that tells these seeds from any others."""
    return hashlib.sha256(b"".join(dumps(seed.to_json()) for seed in seeds)).hexdigest()


def check_seeds(checkpoint: Path, seeds: Sequence[Seed]) -> None:
    """Raise UsageError where a checkpoint's run was trained on other seeds than these."""
    trained_on = CheckpointState.read(checkpoint / "state.json").seeds_sha256
    if trained_on not in (None, seeds_digest(seeds)):
        raise UsageError(
            f"data.train: not the seeds that {checkpoint} was trained on: its files have changed, "
            "or an older version held out others of them or had another sandbox; put them back, "
            "give the held-out ones as data.exam, or begin a new run without --resume"
        )


def _sealed(body: bytes) -> bytes:
    """Return a line followed by its own sha256."""
    return body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def spread_out(numbers: list[int], most: int) -> list[int]:
    """At most `most` numbers, the first and the last among them, denser where a run begins.

    Most is learned early, so the gaps grow by a constant factor.
    """
    if most >= len(numbers) or most < 2:
        return numbers[-most:]
    last, steps = len(numbers) - 1, max(1, most - 2)
    later = [round(last ** (i / steps)) for i in range(most - 1)] if most > 2 else [last]
    return [numbers[i] for i in sorted({0, *later})]
