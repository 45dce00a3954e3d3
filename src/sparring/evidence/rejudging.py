"""Stored replies judged again: verdicts on disk as they come, without a text; rates at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from sparring.checkpoint import writing
from sparring.evaluation.exam import QUESTIONS, outcome
from sparring.evaluation.metrics import RULED_BY
from sparring.evaluation.rates import Rate, rate
from sparring.evaluation.recorded import verdict_json, verdict_of
from sparring.evidence.replies import Stored, digest
from sparring.judges.identity import identity
from sparring.judges.judge import Judge
from sparring.records import reading
from sparring.types import UNRULED, CorruptError, Status, UsageError, Verdict

BATCH = 64
"""Replies between two writes: what a kill can lose."""
SCHEMA = 1
Progress = Callable[[int, int], None]
"""Told how many of how many replies have a verdict."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The file a judge's verdicts on stored replies are kept in, one line each as they come.

    Its first line says which judge and which replies; a later line of the same reply replaces an
    earlier one. A torn last line is dropped.
    """

    path: Path
    judge: Mapping[str, Any]
    items: str

    def read(self) -> dict[int, Verdict]:
        """Verdicts by the reply's place; UsageError if they are another judge's or of others."""
        if not self.path.exists():
            return {}
        *lines, _ = self.path.read_bytes().split(b"\n")
        told = [self._row(number, line) for number, line in enumerate(lines, 1)]
        if told and told[0] != self._header:
            raise UsageError(
                f"{self.path}: holds verdicts of another judge, template or policy, or on other "
                f"replies; wanted {self.judge['name']} on these; choose another --output"
            )
        with reading(self.path):
            return {int(row["place"]): verdict_of(row["verdict"]) for row in told[1:]}

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            told = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{self.path}:{number}: is not what was written") from error
        if not isinstance(told, dict):
            raise CorruptError(f"{self.path}:{number}: is not what was written")
        return told

    @property
    def _header(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "judge": self.judge, "items_sha256": self.items}

    def open(self) -> BinaryIO:
        """Ready to append: the header is there, a torn line is not."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("ab+")
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            file.seek(whole)
            if not whole:
                _append(file, [self._header])
        return file


def rejudge(
    stored: Sequence[Stored], judge: Judge, path: Path, progress: Progress
) -> list[Verdict]:
    """A verdict for each reply, kept in `path` as they come.

    What is there already with status ok is not asked again; a failure is.
    """
    file = Verdicts(path, identity(judge), digest(stored))
    found = file.read()
    found |= {i: UNRULED for i, one in enumerate(stored) if not one.judged}
    known = {i for i, verdict in found.items() if verdict.status is Status.OK}
    due = [i for i, one in enumerate(stored) if one.judged and i not in known]
    with file.open() as kept:
        for batch in _batches(due):
            verdicts = judge.rule([stored[i].state for i in batch])
            found |= dict(zip(batch, verdicts, strict=True))
            with writing(path):
                _append(kept, [_line(i, stored[i], found[i]) for i in batch])
            progress(sum(i in found for i in range(len(stored))), len(stored))
    return [found[i] for i in range(len(stored))]


def _batches(places: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(places), BATCH):
        yield places[start : start + BATCH]


def _line(place: int, stored: Stored, verdict: Verdict) -> dict[str, Any]:
    told = {"place": place, "set": stored.set, "id": stored.state.seed.id}
    return told | {"verdict": verdict_json(verdict)}


def _append(file: BinaryIO, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write(b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows))
    file.flush()
    os.fsync(file.fileno())


def rates(
    stored: Sequence[Stored], verdicts: Sequence[Verdict], fills: frozenset[str]
) -> dict[str, Rate]:
    """Rates by `metric/set`, of what the judge fills.

    Whether an attack was on topic stays the first judge's ruling where this one does not rule.
    """
    told: dict[str, list[Any]] = {}
    for one, verdict in zip(stored, verdicts, strict=True):
        topic = verdict.on_topic if "on_topic" in fills else one.on_topic
        state = replace(one.state, rulings=()).rule(replace(verdict, on_topic=topic))
        kind, _, name = one.set.partition("/")
        for metric, question in QUESTIONS.get(kind, {}).items():
            if RULED_BY[metric] in fills:
                told.setdefault(f"{metric}/{name}", []).append(outcome(state, question))
    return {name: rate(outcomes) for name, outcomes in told.items()}
