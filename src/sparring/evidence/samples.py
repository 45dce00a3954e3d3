"""What an exam recorded, item by item: read back as outcomes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Any

from sparring.evaluation.compare import Paired, compare
from sparring.evaluation.exam import QUESTIONS, outcome
from sparring.evaluation.rates import Outcome
from sparring.evaluation.recorded import game_of, verdict_of
from sparring.records import RunDir, reading
from sparring.types import UNRULED, State, UsageError

Items = dict[str, dict[str, Outcome]]
"""Outcomes by `metric/set`, and in a set by the item's key."""


def items(run: RunDir, number: int) -> Items:
    """What every rate of the exam after `number` rounds rests on, but for sets that pool others.

    An item's key is its place in the set and its seed.
    """
    exam, games = run.checkpoints.name(number), played(run, number)
    with reading(run.folder / "exams" / exam / "results.json"):
        asked = (run.result(exam) or {})["rates"]
    found: Items = {}
    for name, state in games:
        kind, _, family = name.partition("/")
        for metric, question in QUESTIONS.get(kind, {}).items():
            if f"{metric}/{family}" in asked:
                inside = found.setdefault(f"{metric}/{family}", {})
                inside[f"{len(inside)}:{state.seed.id}"] = outcome(state, question)
    return found


def played(run: RunDir, number: int) -> list[tuple[str, State]]:
    """The set and final state of every game of the exam after `number` rounds: untrusted text."""
    path = run.folder / "exams" / run.checkpoints.name(number) / "samples.jsonl.gz"
    if number not in run.exams() or not path.is_file():
        sat = ", ".join(map(str, run.exams())) or "none"
        raise UsageError(f"{run.folder}: no exam after {number} rounds; wanted one of {sat}")
    with reading(path):
        rows = map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
        return [(str(row["set"]), _ruled(row)) for row in rows]


def _ruled(row: Mapping[str, Any]) -> State:
    """A game that nobody ruled on stays so: an attack that was never sent did not work."""
    state, verdict = game_of(row), verdict_of(row["verdict"])
    return state if verdict == UNRULED else state.rule(verdict)


def compared(first: RunDir, second: RunDir, at: int | None) -> dict[str, Paired]:
    """The paired difference of two runs' exams, set by set.

    Both after `at` rounds, or each after its last exam. UsageError unless they asked the same.
    """
    a, b = (items(run, _last(run) if at is None else at) for run in (first, second))
    if a.keys() != b.keys():
        differ = ", ".join(sorted(a.keys() ^ b.keys()))
        raise UsageError(f"compare: the runs sat different exams; only one has {differ}")
    return {name: compare(a[name], b[name]) for name in a}


def _last(run: RunDir) -> int:
    sat = run.exams()
    return sat[-1] if sat else 0
