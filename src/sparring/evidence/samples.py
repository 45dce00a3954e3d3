"""What an exam recorded, item by item: read back as outcomes."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from sparring.evaluation.compare import Paired, compare
from sparring.evaluation.exam import QUESTIONS, outcome
from sparring.evaluation.rates import Outcome
from sparring.evaluation.recorded import game_of, verdict_of
from sparring.records import RunDir, reading
from sparring.sandbox.language import POOLED
from sparring.settings import RunConfig
from sparring.settings.judging import OPERATION
from sparring.types import UNRULED, State, UsageError

Items = dict[str, dict[str, Outcome]]
"""Outcomes by `metric/set`, and in a set by the item's key."""


def items(run: RunDir, number: int) -> Items:
    """What every rate of the exam after `number` rounds rests on, but for sets that pool others.

    An item's key is its place in the set, its seed, and a digest of what was dealt, if anything.
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
                inside[f"{len(inside)}:{state.seed.id}{_dealt(state)}"] = outcome(state, question)
    return found


def _dealt(state: State) -> str:
    """Two runs' attackers make other attacks of the same seeds; those are not the same items."""
    texts = [move.completion.text for move in state.moves[: state.dealt]]
    return f":{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]}" if texts else ""


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


def compared(
    first: RunDir, second: RunDir, at: int | None, warn: Callable[[str], object] = str
) -> dict[str, Paired]:
    """The paired difference of two runs' exams, set by set.

    What pools others comes first. Both after `at` rounds, or each after its last exam. Sets with
    other items (each run's own attacker made them) are left out with a warning; UsageError where
    that leaves none, and for runs with other judges, whose difference could be theirs.
    """
    if judged(first.config) != judged(second.config):
        raise UsageError(
            f"compare: the judges of {first.folder} and {second.folder} differ (judge, "
            "judge_rules), so a difference could be theirs; have one judge rule on both: "
            "sparring judge score RUN --judge FILE"
        )
    a, b = (items(run, _last(run) if at is None else at) for run in (first, second))
    if a.keys() != b.keys():
        differ = ", ".join(sorted(a.keys() ^ b.keys()))
        raise UsageError(f"compare: the runs sat different exams; only one has {differ}")
    same = [name for name in a if a[name].keys() == b[name].keys()]
    others = sorted(a.keys() - set(same))
    if same and others:
        warn(f"left out, for the runs asked other things: {', '.join(others)}")
    paired = [{name: found[name] for name in same or a} for found in (a, b)]
    one, other = (_pooled(found) | found for found in paired)
    return {name: compare(one[name], other[name]) for name in one}


def _pooled(found: Items) -> Items:
    """The items of what an exam of the sandbox pools, where every set of it is there."""
    pools = {
        f"{metric}/{name.split('/', 1)[1]}": [f"{metric}/{one.split('/', 1)[1]}" for one in sets]
        for name, sets in POOLED.items()
        for metric in QUESTIONS[name.split("/", 1)[0]]
    }
    return {
        name: {f"{one}/{key}": told for one in sets for key, told in found[one].items()}
        for name, sets in pools.items()
        if found.keys() >= set(sets)
    }


def judged(config: RunConfig) -> list[Any]:
    """What decides how a reply is ruled on; not how the judge is reached."""
    judges = [told.model_dump(mode="json", exclude=set(OPERATION)) for told in config.judge]
    for judge in judges:
        judge["fills"] = sorted(judge["fills"] or ())
    return [judges, config.judge_rules]


def _last(run: RunDir) -> int:
    sat = run.exams()
    return sat[-1] if sat else 0
