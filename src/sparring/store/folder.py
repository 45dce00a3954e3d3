"""A run on disk and back: configuration, rounds, transcripts, exams, checkpoints, one writer."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from sparring.games import codec
from sparring.settings.config import RunConfig, load_yaml, parse, to_yaml
from sparring.store import files
from sparring.store import records as r
from sparring.store.checkpoints import Checkpoints
from sparring.types import CorruptError, Episode, Metrics, Round, State, UsageError

T = TypeVar("T")
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
    r.RunStatus(status=status, time=now, **more).write(folder / "run.json")


def read_status(folder: Path) -> r.RunStatus:
    """Return what `write_status` wrote; CorruptError where it is something else."""
    return r.RunStatus.read(folder / "run.json")


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
        self._rounds = files.Journal(folder / "rounds.jsonl")
        self._openings = folder / "exams" / "openings.jsonl.gz"
        self._crossplay = folder / "exams" / "crossplay" / "results.json"

    @staticmethod
    def check_new(folder: Path) -> None:
        """Refuse a bad name, and a folder with anything in it.

        What `create` writes before config.yaml does not count: a run that was killed before it
        had one does not exist.
        """
        if not _NAME.fullmatch(folder.name) or "\0" in str(folder):
            raise UsageError(
                f"output_dir: {folder.name!r:.80} is no name for a run (letters, digits, "
                "'.', '_' and '-', at most 128)"
            )
        names = {path.name.partition(".tmp-")[0] for path in folder.glob("*")}
        begun = names <= {"LOCK", "env.json", "run.json", "config.yaml"}
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
            files.write_atomic(folder / "env.json", files.dumps(environment()))
            run.set_status("started")
            files.write_atomic(folder / "config.yaml", config_yaml.encode())
        return run

    @classmethod
    def open(cls, folder: Path) -> RunDir:
        """Return an existing run's folder; UsageError where there is no run."""
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
        return parse(load_yaml(self.config_yaml, str(self.folder / "config.yaml")))

    def play_on(self, rounds: int) -> None:
        """Let the run have `rounds` rounds if it has fewer: it will end with another cross-play."""
        config = self.config
        if self.writer and config.rounds < rounds:
            longer = config.model_copy(update={"rounds": rounds})
            files.write_atomic(self.folder / "config.yaml", to_yaml(longer).encode())
            self._crossplay.unlink(missing_ok=True)

    @property
    def environment(self) -> r.Environment | None:
        """The versions and the machine that the run was begun with, where they are recorded."""
        return r.Environment.read_if_there(self.folder / "env.json")

    def set_status(self, status: str, **more: Any) -> None:
        """Write into run.json how the run stands."""
        if self.writer:
            write_status(self.folder, status, **more)

    @property
    def status(self) -> r.RunStatus:
        return read_status(self.folder)

    def append(self, round_: Round, judge: Mapping[str, int] | None = None) -> None:
        """Add a round's line and make it durable; `judge` is what its rulings cost, if anything."""
        record = r.RoundRecord(
            round=round_.number,
            learns=sorted(round_.turn.learns),
            metrics=round_.metrics,
            seconds=dict(round_.seconds),
            cpu_seconds=round_.cpu_seconds,
            judge=dict(judge) if judge else None,
        )
        if self.writer:
            self._rounds.append([record.to_json()])

    def rounds(self) -> list[r.RoundRecord]:
        """Return every recorded round; CorruptError unless they are 0, 1, 2 and so on."""
        path = self._rounds.path
        rows = enumerate(self._rounds.rows(), 1)
        records = [r.RoundRecord.checked(row, f"{path}:{number}") for number, row in rows]
        if [record.round for record in records] != list(range(len(records))):
            raise CorruptError(f"{path}: rounds are missing, repeated or out of order")
        return records

    def rewind(self, number: int) -> list[Metrics]:
        """Forget the rounds after the first `number`, and return the metrics of those that stay."""
        records = self.rounds()
        if len(records) < number:
            raise CorruptError(
                f"{self._rounds.path}: {len(records)} rounds, but the checkpoint has {number}"
            )
        if self.writer:
            self._rounds.replace(record.to_json() for record in records[:number])
            sweep(self.folder)
        return [record.metrics for record in records[:number]]

    def seals(self, number: int) -> dict[str, str]:
        """Return the sha256 of the records that a checkpoint after `number` rounds rests on.

        Clocks and what judges cost are left out, so that the same run has the same seals.
        """
        digest = hashlib.sha256()
        for record in self.rounds()[:number]:
            row = record.to_json() | {"seconds": {}, "cpu_seconds": 0}
            row.pop("judge", None)
            digest.update(files.dumps(row))
        openings = files.sha256(self._openings) if self._openings.is_file() else "missing"
        return {"rounds.jsonl": digest.hexdigest(), "exams/openings.jsonl.gz": openings}

    def write_transcript(
        self, round_: Round, strategy: Callable[[State], str] = lambda _: "", most: int = 2**63
    ) -> None:
        """Write every game of a round, as untrusted text, with the name of its strategy.

        Where all transcripts would be more than `most` bytes, the oldest leave.
        """
        if not self.writer:
            return
        path, sizes = self._transcript(round_.number), self._transcript_bytes
        rows = (codec.episode_json(e) | {"strategy": strategy(e.state)} for e in round_.episodes)
        files.write_packed(path, rows)
        sizes[round_.number] = path.stat().st_size
        while sum(sizes.values()) > most and len(sizes) > 1:
            oldest = min(sizes)
            self._transcript(oldest).unlink()
            del sizes[oldest]

    def _transcript(self, number: int) -> Path:
        return self.folder / "transcripts" / f"round_{number:06d}.jsonl.gz"

    @cached_property
    def _transcript_bytes(self) -> dict[int, int]:
        """The sizes of the transcripts by the number of their round."""
        return {number: path.stat().st_size for number, path in self.transcripts().items()}

    def transcripts(self) -> dict[int, Path]:
        """Return the transcripts by the number of their round, ascending."""
        paths = sorted((self.folder / "transcripts").glob("round_*.jsonl.gz"))
        return {int(n): path for path in paths if (n := path.name[6:-9]).isdecimal()}

    def write_openings(self, sets: Mapping[str, Sequence[State]]) -> None:
        """Record the exam's openings once, so that every exam of the run is the same."""
        if self.writer:
            files.write_packed(self._openings, _rows(sets, codec.opening_json))

    def openings(self) -> dict[str, list[State]] | None:
        """Return what `write_openings` wrote, or None where it has not."""
        if not self._openings.is_file():
            return None
        sets: dict[str, list[State]] = {}
        with files.reading(self._openings):
            for row in files.read_packed(self._openings):
                sets.setdefault(row["set"], []).append(codec.opening_of(row))
        return sets

    def write_exam(
        self, results: r.ExamResults, episodes: Mapping[str, Sequence[Episode]] | None = None
    ) -> None:
        """Write an exam's results.json, after the games behind it (untrusted text)."""
        if not self.writer:
            return
        if episodes is not None:
            rows = _rows(episodes, codec.episode_json)
            files.write_packed(self.exam_games(results.rounds), rows)
        results.write(self._exam(results.rounds))

    def exam(self, number: int) -> r.ExamResults | None:
        """Return the results of the exam after `number` rounds, or None where there are none."""
        return r.ExamResults.read_if_there(self._exam(number))

    def exams(self) -> list[int]:
        """Return the numbers of rounds after which there was an exam, ascending."""
        paths = (self.folder / "exams").glob("round_*/results.json")
        return sorted(int(n) for path in paths if (n := path.parent.name[6:]).isdecimal())

    def exam_games(self, number: int) -> Path:
        """Return the file of the games behind the exam after `number` rounds."""
        return self._exam(number).with_name("samples.jsonl.gz")

    def write_crossplay(self, results: r.CrossplayResults) -> None:
        """Write the results of the run's own cross-play."""
        if self.writer:
            results.write(self._crossplay)

    def crossplay(self) -> r.CrossplayResults | None:
        """Return what `write_crossplay` wrote, or None where it has not."""
        return r.CrossplayResults.read_if_there(self._crossplay)

    def _exam(self, number: int) -> Path:
        return self.folder / "exams" / Checkpoints.name(number) / "results.json"


def _rows(
    sets: Mapping[str, Sequence[T]], to_json: Callable[[T], files.Row]
) -> Iterator[files.Row]:
    """Yield every game or opening as JSON, with the name of its set."""
    return ({"set": name, **to_json(game)} for name, games in sets.items() for game in games)


def read_games(
    path: Path, reply_format: bool = False, most: int | None = None
) -> Iterator[tuple[str, Episode]]:
    """Yield every game in a file, with its set or its strategy ('': none): untrusted text.

    Of a file with more than `most` bytes of text only the beginning, of a missing file nothing.
    With `reply_format` an empty reply is one that did not parse.
    """
    with files.reading(path):
        for row in files.read_packed(path, most) if path.exists() else ():
            yield str(row.get("set", row.get("strategy", ""))), codec.episode_of(row, reply_format)


def environment() -> dict[str, Any]:
    """Return versions and machine, for whoever repeats the run."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "versions": {library: _version(library) for library in _LIBRARIES},
    }


def _version(library: str) -> str:
    with suppress(PackageNotFoundError):
        return version(library)
    return "not installed"
