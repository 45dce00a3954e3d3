"""A run on disk and back: configuration, rounds, transcripts, exams, checkpoints, one writer."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sparring.games.codec import episode_json, opening_json, opening_of
from sparring.store.checkpoints import Checkpoints, writers_alone
from sparring.store.files import dumps, reading, sha256, write_atomic, write_packed
from sparring.store.journal import Journal
from sparring.types import CorruptError, Episode, Metrics, Round, State, UsageError

if TYPE_CHECKING:
    from sparring.settings.config import RunConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LIBRARIES = ("sparring", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Let one process at a time write in `folder`; the lock ends with it, however it ends."""
    try:
        with FileLock(folder / "LOCK", timeout=0):
            yield
    except Timeout:
        raise UsageError(f"{folder}: another process is writing {what}") from None


def write_status(folder: Path, status: str, **more: Any) -> None:
    """Write into run.json how a run or an evaluation stands, and when that was."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    write_atomic(folder / "run.json", dumps({"status": status, "time": now, **more}))


def read_status(folder: Path) -> Mapping[str, Any]:
    """Return what `write_status` wrote; CorruptError where it is something else."""
    path = folder / "run.json"
    with reading(path):
        status: Mapping[str, Any] = json.loads(path.read_bytes())
        if not isinstance(status, dict) or "status" not in status:
            raise ValueError("wanted an object with a status")
    return status


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed writer left in `folder`, at any depth."""
    for path in folder.rglob("*.tmp-*"):
        if path.is_file():
            path.unlink(missing_ok=True)


class RunDir:
    """One run's folder.

    `rounds.jsonl` holds one line a round, exactly once: a resumed run first drops the lines that
    its checkpoint does not know, then plays those rounds again. Without `writer` nothing is ever
    changed: of several processes that play a run together, one writes.
    """

    def __init__(self, folder: Path, writer: bool = True) -> None:
        self.folder, self.writer = folder, writer

    @staticmethod
    def check_new(folder: Path) -> None:
        """Refuse a bad name, and a folder with anything in it.

        What `create` writes before config.yaml does not count: it was killed, so there is no run.
        """
        if not _NAME.fullmatch(folder.name) or "\0" in str(folder):
            raise UsageError(
                f"output_dir: {folder.name!r:.80} is no name for a run (letters, digits, "
                "'.', '_' and '-', at most 128)"
            )
        found = {path.name.partition(".tmp-")[0] for path in folder.glob("*")}
        begun = found <= {"LOCK", "env.json", "run.json", "config.yaml"}
        if (folder / "config.yaml").exists() or folder.is_file() or not begun:
            raise UsageError(
                f"output_dir: {folder} exists; go on with it (--resume), or choose another"
            )

    @classmethod
    def create(cls, folder: Path, config_yaml: str) -> RunDir:
        """Make the folder of a new run, which exists once it has its config.yaml."""
        cls.check_new(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        with run.locked():
            cls.check_new(folder)
            write_atomic(folder / "env.json", dumps(environment()))
            run.set_status("started")
            write_atomic(folder / "config.yaml", config_yaml.encode())
        return run

    @classmethod
    def open(cls, folder: Path) -> RunDir:
        """An existing run's folder."""
        if not (folder / "config.yaml").is_file():
            raise UsageError(f"{folder}: not a run (no config.yaml in it)")
        return cls(folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time write this run; one that is no writer takes no lock."""
        with locked(self.folder, "this run") if self.writer else nullcontext():
            yield

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints", self.writer)

    @property
    def config_yaml(self) -> str:
        return (self.folder / "config.yaml").read_text("utf-8", "replace")

    @property
    def config(self) -> RunConfig:
        """The run's own settings."""
        from sparring.settings.config import load_yaml, parse

        return parse(load_yaml(self.config_yaml, str(self.folder / "config.yaml")))

    @writers_alone
    def set_status(self, status: str, **more: Any) -> None:
        """Say in run.json how the run stands."""
        write_status(self.folder, status, **more)

    @property
    def status(self) -> Mapping[str, Any]:
        return read_status(self.folder)

    @property
    def _rounds(self) -> Journal:
        return Journal(self.folder / "rounds.jsonl")

    @writers_alone
    def append(self, told: Round, judge: Mapping[str, int] | None = None) -> None:
        """Add a round's line and make it durable; `judge` is what its rulings cost, if anything."""
        record = {
            "round": told.number,
            "learns": sorted(told.turn.learns),
            "metrics": told.metrics,
            "seconds": told.seconds,
            "cpu_seconds": told.cpu_seconds,
            **({"judge": dict(judge)} if judge else {}),
        }
        self._rounds.append([record])

    def rounds(self) -> list[dict[str, Any]]:
        """Return every recorded round; CorruptError unless they are 0, 1, 2 and so on."""
        path = self._rounds.path
        told = list(self._rounds.rows())
        with reading(path):
            numbers = [record["round"] for record in told]
        if numbers != list(range(len(told))):
            raise CorruptError(f"{path}: rounds are missing, repeated or out of order")
        return told

    def rewind(self, number: int) -> list[Metrics]:
        """Forget what came after the checkpoint of `number` rounds; the metrics of the rest."""
        told = self.rounds()
        if len(told) < number:
            raise CorruptError(
                f"{self.folder / 'rounds.jsonl'}: {len(told)} rounds, but the checkpoint has "
                f"{number}"
            )
        self._forget(told[:number])
        return [record["metrics"] for record in told[:number]]

    @writers_alone
    def _forget(self, told: Sequence[Mapping[str, Any]]) -> None:
        self._rounds.replace(told)
        sweep(self.folder)

    def seals(self, number: int) -> dict[str, str]:
        """The sha256 of the records that a checkpoint after `number` rounds rests on.

        But for the clocks and what judges cost, so that the same run has the same seals.
        """
        free, kept = {"seconds": {}, "cpu_seconds": 0}, self.rounds()[:number]
        played = [{k: v for k, v in r.items() if k != "judge"} | free for r in kept]
        lines = b"".join(map(dumps, played))
        openings = self.folder / "exams" / "openings.jsonl.gz"
        return {
            "rounds.jsonl": hashlib.sha256(lines).hexdigest(),
            "exams/openings.jsonl.gz": sha256(openings) if openings.is_file() else "missing",
        }

    @writers_alone
    def write_transcript(self, told: Round) -> None:
        """Every game of a round, as untrusted text."""
        path = self.folder / "transcripts" / f"round_{told.number:06d}.jsonl.gz"
        write_packed(path, map(episode_json, told.episodes))

    @writers_alone
    def write_openings(self, sets: Mapping[str, Sequence[State]]) -> None:
        """The exam's openings, recorded once, so that every exam of the run is the same."""
        rows = [
            {"set": name, **opening_json(state)}
            for name, states in sets.items()
            for state in states
        ]
        write_packed(self.folder / "exams" / "openings.jsonl.gz", rows)

    def openings(self) -> dict[str, list[State]] | None:
        """What `write_openings` wrote, or None."""
        path = self.folder / "exams" / "openings.jsonl.gz"
        if not path.is_file():
            return None
        sets: dict[str, list[State]] = {}
        with reading(path):
            for line in gzip.decompress(path.read_bytes()).split(b"\n")[:-1]:
                row = json.loads(line)
                sets.setdefault(row["set"], []).append(opening_of(row))
        return sets

    @writers_alone
    def write_result(
        self,
        name: str,
        told: Mapping[str, Any],
        samples: Mapping[str, Sequence[Episode]] | None = None,
    ) -> None:
        """An exam's or the cross-play's results, as `exams/<name>/results.json`.

        The games behind them go into `samples.jsonl.gz` first, as untrusted text.
        """
        path = self.folder / "exams" / name / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if samples is not None:
            rows = [
                {"set": key, **episode_json(episode)}
                for key, episodes in samples.items()
                for episode in episodes
            ]
            write_packed(path.with_name("samples.jsonl.gz"), rows)
        write_atomic(path, dumps(told))

    def result(self, name: str) -> dict[str, Any] | None:
        """What `write_result` wrote, or None."""
        path = self.folder / "exams" / name / "results.json"
        if not path.is_file():
            return None
        with reading(path):
            told: dict[str, Any] = json.loads(path.read_bytes())
        return told

    def exams(self) -> list[int]:
        """Rounds after which an exam was sat, ascending."""
        found = (self.folder / "exams").glob("round_*/results.json")
        return sorted(int(path.parent.name.removeprefix("round_")) for path in found)


def environment() -> dict[str, Any]:
    """Versions and machine, for whoever repeats the run."""
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "versions": found,
    }
