"""An evaluation on disk: its samples, each exactly once, its results, one writer."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparring.games.codec import state_json, verdict_json
from sparring.games.codec import state_of as ruled_state_of
from sparring.store.files import dumps, write_atomic, writing
from sparring.types import CorruptError, State, Status, UsageError, Verdict

Key = tuple[str, str, int, int]
"""(model, set, place in the set, draw)."""
Row = Mapping[str, Any]
_BLOCK = 2**20


def key_of(row: Row) -> Key:
    """Which sample a line is."""
    return str(row["model"]), str(row["set"]), int(row["place"]), int(row["draw"])


@dataclass(frozen=True, slots=True)
class Samples:
    """An append-only file of samples, untrusted text.

    A line that was torn by a kill was never written, and is gone before the next one is.
    """

    path: Path

    def rows(self) -> Iterator[Row]:
        """Every whole line; CorruptError names one that is not what was written, or comes twice."""
        seen: set[Key] = set()
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                yield self._row(number, line, seen)

    def _row(self, number: int, line: bytes, seen: set[Key]) -> Row:
        try:
            told: Row = json.loads(line)
            key = key_of(told)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise CorruptError(f"{self.path}:{number}: is not what was written") from error
        if key in seen:
            raise CorruptError(f"{self.path}:{number}: this sample stands above already")
        seen.add(key)
        return told

    def mend(self) -> None:
        """Drop a torn last line."""
        if not self.path.is_file():
            return
        with writing(self.path), self.path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - _BLOCK)
                file.seek(start)
                found = file.read(end - start).rfind(b"\n")
                if found >= 0:
                    end = start + found + 1
                    break
                end = start
            file.truncate(end)

    def append(self, rows: Sequence[Row]) -> None:
        """Add lines and make them durable; all in one write."""
        if not rows:
            return
        before = self.path.stat().st_size if self.path.is_file() else 0
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            try:
                data = memoryview(b"".join(map(dumps, rows)))
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)  # a full disk: no half record stays
                raise

    def without(self, dropped: set[Key]) -> None:
        """Forget some samples, all in one step, so that they are asked again."""
        kept = [dumps(row) for row in self.rows() if key_of(row) not in dropped]
        write_atomic(self.path, b"".join(kept))


def row_of(key: Key, state: State, second: Verdict | None) -> Row:
    """A finished game as a line: what was said, and what the judges said of it."""
    model, name, place, draw = key
    last = state.moves[-1]
    told: dict[str, Any] = {
        "model": model,
        "set": name,
        "place": place,
        "draw": draw,
        **state_json(state),
        "finished": last.completion.finished,
        "verdict": verdict_json(state.verdict) if state.rulings else None,
    }
    if last.completion.status is not Status.OK:
        told["unanswered"] = last.completion.status
    return told | ({"second": verdict_json(second)} if second else {})


def state_of(row: Row, judged_by: str = "verdict") -> State:
    """The game of a line, ruled on by the judge, or by the `second` one."""
    return ruled_state_of(row, judged_by)


SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._-]+")


def default_folder(asked: Mapping[str, Any], model: str) -> Path:
    """`evals/MODEL-DIGEST`: the same question has the same folder."""
    name = _UNNAMEABLE.sub("-", Path(model).name).strip("-.") or "model"
    return Path("evals") / f"{name[:100]}-{hashlib.sha256(dumps(asked)).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class EvalDir:
    """One evaluation's folder.

    `eval.json` says what was asked and is never changed; `samples.jsonl` (and, with an attacker,
    `attacks.jsonl`) hold untrusted text; `results.json` is computed from them alone.
    """

    folder: Path

    @property
    def samples(self) -> Samples:
        return Samples(self.folder / "samples.jsonl")

    @property
    def attacks(self) -> Samples:
        return Samples(self.folder / "attacks.jsonl")

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked; UsageError where no evaluation is."""
        return self._read("eval.json")

    @property
    def results(self) -> dict[str, Any]:
        return self._read("results.json")

    @property
    def status(self) -> str:
        """`none`, `started`, `interrupted`, `stopped` or `complete`."""
        return str(self._read("run.json")["status"]) if self._begun else "none"

    @property
    def finished_at(self) -> str:
        """When it was last written to, ISO 8601 with the zone, +00:00 where it is told as +0000."""
        told = str(self._read("run.json")["time"])
        return f"{told[:-2]}:{told[-2:]}"

    @property
    def _begun(self) -> bool:
        """Whether a sample was ever written; before that there is nothing to go on with."""
        files = (self.samples.path, self.attacks.path, self.folder / "results.json")
        return (self.folder / "run.json").is_file() and any(
            path.is_file() and path.stat().st_size for path in files
        )

    def check(self, asked: Mapping[str, Any], resume: bool) -> None:
        """Refuse a bad name, a folder of something else, and to go on without being told to."""
        if not _NAME.fullmatch(self.folder.name) or "\0" in str(self.folder):
            raise UsageError(f"--output: {self.folder.name!r:.80} is no name for a folder")
        if not self._begun:
            ours = {"LOCK", "eval.json", "run.json", "samples.jsonl", "attacks.jsonl"}
            there = {p.name.partition(".tmp-")[0] for p in self.folder.glob("*")}
            if self.folder.is_file() or not there <= ours:
                raise UsageError(f"--output: {self.folder} holds something else; choose another")
            return
        before = self.asked
        wanted = json.loads(dumps({"schema": SCHEMA, **asked}))
        differ = sorted(k for k in before.keys() | wanted.keys() if before.get(k) != wanted.get(k))
        if differ:
            raise UsageError(
                f"--output: {self.folder} asked something else: {', '.join(differ)} "
                f"{'differs' if len(differ) == 1 else 'differ'} from its eval.json; choose another"
            )
        if self.status != "complete" and not resume:
            raise UsageError(
                f"--output: {self.folder} is begun and not complete; go on with it (--resume), or "
                "choose another"
            )

    @contextmanager
    def writing(self, asked: Mapping[str, Any]) -> Iterator[None]:
        """One writer at a time; the folder is there and whole within the block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / "LOCK", timeout=0):
                self.samples.mend()
                self.attacks.mend()
                for path in self.folder.glob("*.tmp-*"):
                    path.unlink()
                if not self._begun:
                    write_atomic(self.folder / "eval.json", dumps({"schema": SCHEMA, **asked}))
                self.set_status("started")
                yield
        except Timeout:
            raise UsageError(f"{self.folder}: another process is writing it") from None

    def set_status(self, status: str, **more: Any) -> None:
        """Say in run.json how it stands."""
        told = {"status": status, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more}
        write_atomic(self.folder / "run.json", dumps(told))

    def write_results(self, told: Mapping[str, Any]) -> None:
        """No clock stands in it, so that the same samples give the same bytes."""
        data = json.dumps(told, indent=1, allow_nan=False, sort_keys=True).encode() + b"\n"
        write_atomic(self.folder / "results.json", data)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a killed writer left, unless one is at work."""
        try:
            with FileLock(self.folder / "LOCK", timeout=0):
                for path in self.folder.glob("*.tmp-*"):
                    path.unlink(missing_ok=True)
        except Timeout:
            pass

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            raise UsageError(f"{self.folder}: not an evaluation (no {name} in it)")
        try:
            told = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{path}: is not what was written: {error!r:.200}") from error
        if not isinstance(told, dict):
            raise CorruptError(f"{path}: is not what was written")
        return told
