"""Stored replies judged again: verdicts on disk as they come, rates at the end."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from sparring.data.rows import Record, jsonl
from sparring.evals.crossplay import played
from sparring.exam import QUESTIONS, outcome
from sparring.games.codec import verdict_json, verdict_of
from sparring.games.game import reply_of
from sparring.judges.judge import Judge, describe
from sparring.metrics import RULED_BY
from sparring.stats.rates import Rate, rate
from sparring.store.files import reading, writing
from sparring.store.folder import RunDir
from sparring.types import UNRULED, CorruptError, Player, Seed, State, Status, UsageError, Verdict

_SETS = {True: "harmful", False: "benign", None: "replies"}
_WANTED = (
    "wanted {prompt | messages, response} and, if known, {id, harmful, goal, context, cluster}"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A finished game and the set it belongs to; `on_topic` is the first judge's ruling on it.

    Sets are named as an exam's; `replies/…` are those nobody labelled. `judged` is false of a reply
    that did not parse, which no judge is shown.
    """

    set: str
    state: State
    on_topic: bool | None = None
    judged: bool = True


def of_file(path: Path) -> list[Stored]:
    """The replies of a JSONL file, one record each; UsageError names the file and the line.

    `messages` are user and assistant in turn; the last user message is what was asked, and
    without a `response` the last message is the reply. A system message is not shown to judges.
    Without `harmful` the request is taken for harmful by judges that read its label, and its
    rates are named after the replies.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    told = [_stored(path, where, row) for where, row in jsonl(path)]
    if not told:
        raise UsageError(f"{path}: no replies")
    return told


def _stored(path: Path, where: str, row: Record) -> Stored:
    said = _said(where, row)
    harmful = row.get("harmful")
    if harmful not in (True, False, None):
        raise UsageError(f"{where}: harmful must be true, false or absent, got {harmful!r:.40}")
    asked, reply = said[-2][1], said[-1][1]
    name = hashlib.sha256(f"{asked}\n{reply}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    more = {key: _text(where, row, key) for key in ("goal", "context", "cluster", "category")}
    state = State(Seed(asked, harmful is not False, _text(where, row, "id") or name, **more))
    for player, text in said:
        state = state.deal(player, text)
    return Stored(f"{_SETS[harmful]}/{path.stem}", state)


def _said(where: str, row: Record) -> list[tuple[Player, str]]:
    """Who said what, attacker and defender in turn, ending with the reply."""
    told: Any = row.get("messages")
    if told is None:
        told = [{"role": "user", "content": row.get("prompt")}]
    if "response" in row and isinstance(told, list):
        told = [*told, {"role": "assistant", "content": row["response"]}]
    if not isinstance(told, list) or not all(_is_message(message) for message in told):
        raise UsageError(f"{where}: {_WANTED}")
    heard = [message for message in told if message["role"] != "system"]
    roles = [message["role"] for message in heard]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise UsageError(f"{where}: the messages must be user and assistant in turn; {_WANTED}")
    seats = {"user": Player.ATTACKER, "assistant": Player.DEFENDER}
    return [(seats[message["role"]], message["content"]) for message in heard]


def _is_message(told: Any) -> bool:
    return (
        isinstance(told, dict)
        and told.get("role") in ("system", "user", "assistant")
        and isinstance(told.get("content"), str)
    )


def _text(where: str, row: Record, name: str) -> str:
    told = row.get(name)
    if told is not None and not isinstance(told, str | int):
        raise UsageError(f"{where}: {name} must be text, got {told!r:.40}")
    return "" if told is None else str(told)


def of_run(run: RunDir, number: int) -> list[Stored]:
    """Every game of a run's exam after `number` rounds, also those that never came to a reply."""
    return [
        Stored(
            name,
            replace(state, rulings=()),
            state.verdict.on_topic,
            judged=state.moves[-1].player is Player.ATTACKER or reply_of(state) is not None,
        )
        for name, state in played(run, number)
    ]


def digest(stored: Sequence[Stored]) -> str:
    """What tells these replies from any others; hex."""
    found = hashlib.sha256()
    for one in stored:
        texts = [move.completion.text for move in one.state.moves]
        found.update(json.dumps([one.set, one.state.seed.to_json(), texts]).encode() + b"\n")
    return found.hexdigest()


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
    file = Verdicts(path, describe(judge).identity(), digest(stored))
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
