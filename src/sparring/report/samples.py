"""The most successful attacks among recorded games; their text only where it was asked for."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sparring.games.codec import state_of
from sparring.games.game import attack_of, reply_of
from sparring.metrics import succeeded
from sparring.report.layout import hidden
from sparring.store.folder import RunDir
from sparring.types import CorruptError, State, Status

T = TypeVar("T")
FILES = 12
"""Exams, and transcripts, that are looked at: the first, the last, and between them evenly."""
_MOST_BYTES, _MOST_LINE = 256_000_000, 16_000_000
_LONGEST = 4_000
"""Characters of an attack or reply that are shown."""
_NEVER = re.compile(r"(?<![a-z0-9])(s4|cse[am]?|minors?)(?![a-z0-9])|csam|child|pa?edo", re.I)
"""Categories of seeds whose attacks are never shown, whoever asks."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A text to show, cut if need be, and how many of its characters would hide or reorder."""

    text: str
    hidden: int


@dataclass(frozen=True, slots=True)
class Attack:
    """The attack of a family that worked most often, as `won` of `of` times.

    `sha256` and `words` stand for the text, which is only there when it was asked for.
    """

    family: str
    won: int
    of: int
    last: int
    sha256: str
    words: int
    attack: Shown | None = None
    reply: Shown | None = None
    withheld: bool = False


@dataclass(slots=True)
class _Tally:
    """How often one attack was asked and worked; the last round in which it did."""

    state: State
    won: int = 0
    of: int = 0
    last: int = -1


def strongest(run: RunDir, include_harmful: bool) -> list[Attack]:
    """The best attack of every harmful family over the exams of a run."""
    tallies: dict[str, dict[str, _Tally]] = {}
    for number in spread(run.exams(), FILES):
        path = run.folder / "exams" / f"round_{number:06d}" / "samples.jsonl.gz"
        for family, state in games(path):
            if family.startswith("harmful/"):
                _count(tallies.setdefault(family.removeprefix("harmful/"), {}), state, number)
    return _best(tallies, include_harmful)


def own(run: RunDir, include_harmful: bool) -> list[Attack]:
    """The best attack of the attacker itself in every transcript that is looked at."""
    found = sorted((run.folder / "transcripts").glob("round_*.jsonl.gz"))
    tallies: dict[str, dict[str, _Tally]] = {}
    for path in spread(found, FILES):
        number = int(re.sub(r"\D", "", path.name) or 0) + 1
        for _, state in games(path):
            if not state.dealt:
                _count(tallies.setdefault(f"round {number}", {}), state, number)
    return _best(tallies, include_harmful)


def spread(values: Sequence[T], most: int) -> list[T]:
    """At most `most` of them, evenly, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def games(path: Path) -> Iterator[tuple[str, State]]:
    """The set (or '') and final state of every game in a file; rows that are none are left out.

    CorruptError where the file is not what was written.
    """
    if not path.is_file():
        return
    try:
        with gzip.open(path, "rb") as file:
            read = 0
            while line := file.readline(_MOST_LINE):
                read += len(line)
                if read > _MOST_BYTES:
                    return
                told = _state(json.loads(line))
                if told:
                    yield told
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise CorruptError(f"{path}: is not what was written: {error!r:.200}") from error


def _state(row: Any) -> tuple[str, State] | None:
    """A game from its record; None where it is not what was written."""
    try:
        return str(row.get("set", "")), state_of(row)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _count(tallies: dict[str, _Tally], state: State, number: int) -> None:
    attack = attack_of(state)
    if not state.seed.harmful or not attack:
        return
    tally = tallies.setdefault(_digest(attack), _Tally(state))
    tally.of += 1
    if state.verdict.status is Status.OK and succeeded(state):
        tally.won += 1
        tally.last = number
        tally.state = state


def _best(tallies: dict[str, dict[str, _Tally]], include_harmful: bool) -> list[Attack]:
    best = {
        family: max(told.items(), key=lambda item: (item[1].won, item[1].last, item[0]))
        for family, told in tallies.items()
        if told
    }
    return [
        _attack(family, digest, tally, include_harmful) for family, (digest, tally) in best.items()
    ]


def _attack(family: str, digest: str, tally: _Tally, include_harmful: bool) -> Attack:
    attack, reply = attack_of(tally.state) or "", reply_of(tally.state) or ""
    told = Attack(family, tally.won, tally.of, tally.last, digest, len(attack.split()))
    if _NEVER.search(tally.state.seed.category):
        return replace(told, withheld=True)
    if tally.won and include_harmful:
        return replace(told, attack=_shown(attack), reply=_shown(reply))
    return told


def _shown(text: str) -> Shown:
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"
    return Shown(cut, hidden(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
