"""A run on disk and back: configuration, rounds, transcripts, exams, checkpoints, one writer."""

import hashlib
import os
import platform
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

from filelock import FileLock, Timeout

from sparring.door import checked, identity, inside, read_bytes, reading, sha256
from sparring.games import codec
from sparring.sandbox.model import SHIPPED
from sparring.settings.config import RunConfig, load_yaml, parse, to_yaml
from sparring.settings.sections import SANDBOX
from sparring.stats.rates import grouped
from sparring.store import files
from sparring.store import records as r
from sparring.store.checkpoints import Checkpoints, numbered
from sparring.types import CorruptError, Episode, Metrics, Player, Round, State, UsageError

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LIBRARIES = ("sparring", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")
OPENINGS, CROSSPLAY = "exams/openings.jsonl.gz", "exams/crossplay/results.json"


class Folder:
    """What a command writes: one process at a time, with a status and the versions it began with.

    Without `writer` nothing is ever changed: of several processes that play a run together, one
    writes.
    """

    what = "this run"

    def __init__(self, folder: Path, writer: bool = True) -> None:
        self.folder, self.writer = folder, writer

    def path(self, *names: str) -> Path:
        """Return the path of something in the folder, which may be another person's: no link."""
        return inside(self.folder, *names)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time write; one that is no writer takes no lock."""
        try:
            with FileLock(self.path("LOCK"), timeout=0) if self.writer else nullcontext():
                yield
        except Timeout:
            raise UsageError(f"{self.folder}: another process is writing {self.what}") from None

    def set_status(self, status: str, **more: Any) -> None:
        """Write into run.json how it stands, and when that was."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        if self.writer:
            r.RunStatus(status=status, time=now, **more).write(self.path("run.json"))

    @property
    def status(self) -> r.RunStatus:
        """Return what `set_status` wrote; CorruptError where it is something else."""
        return r.RunStatus.read(self.path("run.json"))

    @property
    def environment(self) -> r.Environment | None:
        """The versions and the machine that it was begun with, where they are recorded."""
        return r.Environment.read_if_there(self.path("env.json"))

    def other_versions(self) -> list[str]:
        """Return a note on each library whose version is not the one that it was begun with."""
        begun, now = self.environment, environment()["versions"]
        return [
            f"{library} is {now[library]} here and was {before} when it was begun: numbers may "
            "differ"
            for library, before in (begun.versions if begun else {}).items()
            if now.get(library, before) != before
        ]


def check_free(folder: Path, setting: str, own: set[str], why: str) -> None:
    """Refuse a bad name for a folder, and `why` one with anything in it but its `own` files."""
    if not _NAME.fullmatch(folder.name) or "\0" in str(folder):
        raise UsageError(
            f"{setting}: {folder.name!r:.80} is no name for a folder (letters, digits, '.', '_' "
            "and '-', at most 128)"
        )
    if folder.is_file() or not {p.name.partition(".tmp-")[0] for p in folder.glob("*")} <= own:
        raise UsageError(f"{setting}: {folder} {why}")


class RunDir(Folder):
    """One run's folder.

    `rounds.jsonl` holds one line a round, exactly once: a resumed run first drops the lines that
    its checkpoint does not know, then plays those rounds again.
    """

    def __init__(self, folder: Path, writer: bool = True) -> None:
        super().__init__(folder, writer)
        self.evidence = files.Evidence(folder, writer)
        self._digest, self._digested = hashlib.sha256(), 0

    @staticmethod
    def check_new(folder: Path) -> None:
        """Refuse a bad name, and a folder with anything in it.

        What `create` writes before config.yaml does not count: a run that was killed before it
        had one does not exist.
        """
        why = "exists; go on with it (--resume), or choose another"
        check_free(folder, "output_dir", {"LOCK", "env.json", "run.json", "config.yaml"}, why)
        if (folder / "config.yaml").exists():
            raise UsageError(f"output_dir: {folder} {why}")

    @classmethod
    def create(
        cls, folder: Path, config_yaml: str, models: Mapping[str, Mapping[str, str]] | None = None
    ) -> Self:
        """Make the folder of a new run, which exists once it has its config.yaml.

        `models` are digests of the files that each player's model is made of.
        """
        cls.check_new(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        with run.locked():
            cls.check_new(folder)
            env = environment() | {"models": models or {}}
            files.write_atomic(run.path("env.json"), files.dumps(env))
            run.set_status("started")
            files.write_atomic(run.path("config.yaml"), config_yaml.encode())
        return run

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return an existing run's folder; UsageError where there is no run."""
        if not inside(folder, "config.yaml").is_file():
            raise UsageError(f"{folder}: not a run (no config.yaml in it)")
        return cls(folder)

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path("checkpoints"), self.writer)

    @property
    def config_yaml(self) -> str:
        return read_bytes(self.path("config.yaml")).decode("utf-8", "replace")

    @property
    def config(self) -> RunConfig:
        """The run's own settings."""
        return parse(load_yaml(self.config_yaml, str(self.path("config.yaml"))))

    def play_on(self, rounds: int) -> None:
        """Let the run have `rounds` rounds if it has fewer: it will end with another cross-play."""
        config = self.config
        if self.writer and config.rounds < rounds:
            longer = to_yaml(config.model_copy(update={"rounds": rounds}))
            files.write_atomic(self.path("config.yaml"), longer.encode())
            self.path(CROSSPLAY).unlink(missing_ok=True)

    def checkpoint(self, number: int | None) -> Path:
        """Return the folder of a checkpoint (None: the last) that is whole, to play on with it.

        UsageError if there is none, or if a model is not the one that the run was begun with;
        CorruptError names a damaged file.
        """
        number = self.checkpoints.at(number)
        self.checkpoints.verify(number)
        self.check_models()
        return self.checkpoints.path(number)

    def check_models(self) -> None:
        """Refuse a player's folder with other weights, another tokenizer or another template."""
        begun, now = self.environment, identities(self.config)
        for player, before in begun.models.items() if begun else ():
            files = now.get(player, {})
            name = self.config.player(Player(player)).model_name_or_path
            if before and not files and name != SANDBOX and not Path(name).exists():
                raise UsageError(
                    f"{player}.model_name_or_path: there is no {name} seen from {Path.cwd()}"
                )
            changed = [n for n in sorted({*before, *files}) if before.get(n) != files.get(n)]
            if changed:
                raise UsageError(
                    f"{player}.model_name_or_path: {name} is not what {self.folder} was begun "
                    f"with: {', '.join(changed)} changed; put the files back, or begin a new run"
                )

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
            if self._digested == round_.number:
                self._seal(record)

    def rounds(self) -> list[r.RoundRecord]:
        """Return every recorded round; CorruptError unless they are 0, 1, 2 and so on."""
        return list(self.each_round())

    def each_round(self) -> Iterator[r.RoundRecord]:
        """Yield what `rounds` returns, one by one: a long run has gigabytes of them."""
        path = self._rounds.path
        for number, row in enumerate(self._rounds.rows()):
            record = checked(r.RoundRecord, row, f"{path}:{number + 1}")
            if record.round != number:
                raise CorruptError(f"{path}: rounds are missing, repeated or out of order")
            yield record

    def last_rounds(self, n: int) -> tuple[int, list[r.RoundRecord]]:
        """Return how many rounds are recorded, and the last `n` of them."""
        last = deque(enumerate(self.each_round(), 1), maxlen=max(n, 1))
        return (last[-1][0] if last else 0), [record for _, record in last if n]

    @property
    def _rounds(self) -> files.Journal:
        return files.Journal(self.path("rounds.jsonl"))

    def rewind(self, number: int) -> list[Metrics]:
        """Forget the rounds after the first `number`, and return the metrics of those that stay."""
        records = self.rounds()
        if len(records) < number:
            raise CorruptError(
                f"{self._rounds.path}: {len(records)} rounds, but the checkpoint has {number}"
            )
        if self.writer:
            self._rounds.replace(record.to_json() for record in records[:number])
            files.sweep(self.folder)
        return [record.metrics for record in records[:number]]

    def seals(self, number: int) -> dict[str, str]:
        """Return the sha256 of the records that a checkpoint after `number` rounds rests on.

        Clocks and what judges cost are left out, so that the same run has the same seals.
        """
        if self._digested != number:  # otherwise each round was added when it was recorded
            self._digest, self._digested = hashlib.sha256(), 0
            for record in islice(self.each_round(), number):
                self._seal(record)
        path = self.path(OPENINGS)
        openings = sha256(path) if path.is_file() else "missing"
        return {"rounds.jsonl": self._digest.hexdigest(), OPENINGS: openings}

    def _seal(self, record: r.RoundRecord) -> None:
        row = record.to_json() | {"seconds": {}, "cpu_seconds": 0}
        row.pop("judge", None)
        self._digest.update(files.dumps(row))
        self._digested += 1

    def write_transcript(
        self, round_: Round, strategy: Callable[[State], str] = lambda _: "", most: int = 2**63
    ) -> None:
        """Write every game of a round, as untrusted text, with the name of its strategy.

        Where all transcripts would be more than `most` bytes, the oldest leave.
        """
        if not self.writer:
            return
        games = (codec.episode_json(e) | {"strategy": strategy(e.state)} for e in round_.episodes)
        packed, sizes = files.packed(games), self._transcript_bytes
        self.evidence.write(_transcript(round_.number), packed)
        sizes[round_.number] = len(packed)
        while sum(sizes.values()) > most and len(sizes) > 1:
            oldest = min(sizes)
            self.path(_transcript(oldest)).unlink()
            del sizes[oldest]

    @cached_property
    def _transcript_bytes(self) -> dict[int, int]:
        """The sizes of the transcripts by the number of their round."""
        return {number: path.stat().st_size for number, path in self.transcripts().items()}

    def transcript(self, number: int) -> Path:
        """Return the file of a round's games; CorruptError where it is not what was written."""
        return self.evidence.path(_transcript(number))

    def transcripts(self) -> dict[int, Path]:
        """Return the transcripts by the number of their round, ascending."""
        folder = self.path("transcripts")
        names = (path.name for path in folder.glob("round_*.jsonl.gz"))
        return {number: folder / name for number, name in numbered(names)}

    def write_openings(self, sets: Mapping[str, Sequence[State]]) -> None:
        """Record the exam's openings once, so that every exam of the run is the same."""
        self.evidence.write(OPENINGS, files.packed(_rows(sets, codec.opening_json)))

    def openings(self) -> dict[str, list[State]] | None:
        """Return what `write_openings` wrote, or None where it has not."""
        path = self.evidence.path(OPENINGS)
        if not path.is_file():
            return None
        with reading(path):
            rows = files.read_packed(path)
            return grouped((row["set"], codec.opening_of(row)) for row in rows)

    def write_exam(
        self, results: r.ExamResults, episodes: Mapping[str, Sequence[Episode]] | None = None
    ) -> None:
        """Write an exam's results.json, after the games behind it (untrusted text)."""
        if not self.writer:
            return
        exam = f"exams/{Checkpoints.name(results.rounds)}"
        if episodes is not None:
            games = files.packed(_rows(episodes, codec.episode_json))
            self.evidence.write(f"{exam}/samples.jsonl.gz", games)
        self.evidence.write(f"{exam}/results.json", files.dumps(results.to_json()))

    def exam(self, number: int) -> r.ExamResults | None:
        """Return the results of the exam after `number` rounds, or None where there are none."""
        path = self.evidence.path(f"exams/{Checkpoints.name(number)}/results.json")
        return r.ExamResults.read_if_there(path)

    def exams(self) -> list[int]:
        """Return the numbers of rounds after which there was an exam, ascending."""
        paths = self.path("exams").glob("round_*/results.json")
        return [number for number, _ in numbered(path.parent.name for path in paths)]

    def exam_games(self, number: int) -> Path:
        """Return the file of the games behind the exam after `number` rounds."""
        return self.evidence.path(f"exams/{Checkpoints.name(number)}/samples.jsonl.gz")

    def write_crossplay(self, results: r.CrossplayResults) -> None:
        """Write the results of the run's own cross-play."""
        self.evidence.write(CROSSPLAY, files.dumps(results.to_json()))

    def crossplay(self) -> r.CrossplayResults | None:
        """Return what `write_crossplay` wrote, or None where it has not."""
        return r.CrossplayResults.read_if_there(self.evidence.path(CROSSPLAY))


def _transcript(number: int) -> str:
    return f"transcripts/{Checkpoints.name(number)}.jsonl.gz"


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
    with reading(path):
        for row in files.read_packed(path, most) if path.exists() else ():
            yield str(row.get("set", row.get("strategy", ""))), codec.episode_of(row, reply_format)


def identities(config: RunConfig) -> dict[str, dict[str, str]]:
    """Return a digest of every file of the players' models; a hub's commit needs none."""
    names = {player.value: config.player(player).model_name_or_path for player in Player}
    places = {p: SHIPPED if n == SANDBOX else Path(n).expanduser() for p, n in names.items()}
    return {player: identity(place) for player, place in places.items() if place.is_dir()}


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
