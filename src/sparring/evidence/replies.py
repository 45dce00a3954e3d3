"""Replies that are stored: a JSONL file, or the games of a run's exam, as states to judge again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparring.data.rows import Record, jsonl
from sparring.evidence.samples import played
from sparring.games.rewrite import reply_of
from sparring.records import RunDir
from sparring.types import Player, Seed, State, UsageError

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
    thinks = run.config.game.reply_format > 0
    return [
        Stored(
            name,
            replace(state, rulings=()),
            state.verdict.on_topic,
            judged=not (thinks and reply_of(state) == ""),
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
