"""Samples on disk: one line each, exactly once, whatever happens to who writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.checkpoint import dumps, write_atomic, writing
from sparring.evaluation.recorded import game_of, verdict_json, verdict_of
from sparring.types import CorruptError, Move, State, Status, Verdict

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
        "seed": state.seed.to_json(),
        "dealt": state.dealt,
        "moves": [_said(move) for move in state.moves],
        "finished": last.completion.finished,
        "verdict": verdict_json(state.verdict) if state.rulings else None,
    }
    if last.completion.status is not Status.OK:
        told["unanswered"] = last.completion.status
    return told | ({"second": verdict_json(second)} if second else {})


def _said(move: Move) -> dict[str, Any]:
    return {"player": move.player, "sibling": move.sibling, "text": move.completion.text}


def state_of(row: Row, judged_by: str = "verdict") -> State:
    """The game of a line, ruled on by the judge, or by the `second` one."""
    state = game_of(row)
    return state.rule(verdict_of(row[judged_by])) if row.get(judged_by) else state
