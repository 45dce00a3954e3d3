"""An evaluation on disk: what was asked, its samples, its results, one writer."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparring.checkpoint import dumps, write_atomic
from sparring.evaluating.samples import Samples
from sparring.types import CorruptError, UsageError

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
