"""From samples to results: rates, at k, against the base, and without the judge's errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparring.evals.calibrate import Calibration
from sparring.evals.folder import Key, Row, key_of, state_of
from sparring.evals.sheet import SUCCESS, UNSENT, Reported, Sheet
from sparring.exam import Divergence, divergence, outcome
from sparring.stats.correction import Corrected, corrected
from sparring.stats.paired import Paired, compare
from sparring.stats.rates import AtK, Outcome, Rate, at_k, ladder, rate
from sparring.types import Harm, UsageError

Outcomes = dict[str, dict[str, dict[Key, Outcome]]]
"""By model and rate, every sample that was wanted."""
MISSING = Outcome(None, "", "not asked yet")


@dataclass(frozen=True)
class Measured:
    """One rate of one model, and what stands beside it.

    `paired` is the difference from the first model, sample by sample; `at_k` is by k; `second`
    is the same rate under the second judge; `harms` counts the judge's labels as it told them.
    """

    model: str
    told: Reported
    rate: Rate
    at_k: Sequence[AtK] = ()
    paired: Paired | None = None
    corrected: Corrected | None = None
    second: Divergence | None = None
    harms: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Read:
    """What samples hold, without their texts."""

    sheet: Sheet
    first: Outcomes = field(default_factory=dict)
    second: Outcomes = field(default_factory=dict)
    harms: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """One sample."""
        key = key_of(row)
        model, name = key[:2]
        state, again = state_of(row), state_of(row, "second")
        harm = state.verdict.reply_harm
        if harm:
            self.harms.setdefault((model, name), Counter())[harm] += 1
        for one in self.sheet.rates():
            if name in one.members:
                told = outcome(state, one.question)
                if told.happened is None and not state.rulings:
                    told = Outcome(None, told.cluster, UNSENT)
                if told.happened is None and "unanswered" in row:
                    told = Outcome(None, told.cluster, f"model: {row['unanswered']}")
                self._into(self.first, model, one.name, key, told)
                if one.field in self.sheet.second:
                    self._into(self.second, model, one.name, key, outcome(again, one.question))

    @staticmethod
    def _into(where: Outcomes, model: str, name: str, key: Key, told: Outcome) -> None:
        where.setdefault(model, {}).setdefault(name, {})[key] = told


def measured(
    sheet: Sheet, models: Sequence[str], rows: Iterable[Row], known: Sequence[Calibration] = ()
) -> list[Measured]:
    """Every rate of every model; `known` are calibrations of the judge.

    A sample that was wanted and is not there is unscored, so that half an evaluation never looks
    whole.
    """
    read = Read(sheet)
    for row in rows:
        read.add(row)
    fields = {one.field: one for one in known}
    return [
        _measured(read, models, model, told, fields) for model in models for told in sheet.rates()
    ]


def _measured(
    read: Read, models: Sequence[str], model: str, told: Reported, fields: Mapping[str, Calibration]
) -> Measured:
    wanted = list(_wanted(read.sheet, told))
    mine = _complete(read.first, model, told.name, wanted)
    raw = rate(list(mine.values()))
    other = read.first.get(models[0], {}).get(told.name, {})
    second = read.second.get(model, {}).get(told.name)
    draws = read.sheet.draws(told)
    harms = sum((read.harms.get((model, name), Counter()) for name in told.members), Counter[str]())
    return Measured(
        model=model,
        told=told,
        rate=raw,
        at_k=_at_k(mine, draws) if told.metric == "asr" and draws > 1 else (),
        paired=None if model == models[0] else _paired(other, mine),
        corrected=_corrected(raw, told, fields),
        second=_diverged(mine, second) if second else None,
        harms={harm: harms[harm] for harm in Harm},
    )


def _wanted(sheet: Sheet, told: Reported) -> Iterable[tuple[str, int, int]]:
    for name in told.members:
        card = sheet.sets[name]
        yield from ((name, place, draw) for draw in range(card.draws) for place in range(card.n))


def _complete(
    found: Outcomes, model: str, name: str, wanted: Iterable[tuple[str, int, int]]
) -> dict[Key, Outcome]:
    there = found.get(model, {}).get(name, {})
    return {(model, *key): there.get((model, *key), MISSING) for key in wanted}


def _at_k(outcomes: Mapping[Key, Outcome], draws: int) -> list[AtK]:
    items: dict[str, list[Outcome]] = {}
    for (_, name, place, _), told in outcomes.items():
        items.setdefault(f"{name}/{place}", []).append(told)
    return [at_k(items, k) for k in ladder(draws)]


def _paired(base: Mapping[Key, Outcome], mine: Mapping[Key, Outcome]) -> Paired:
    """The second model minus the first, of the samples that both have."""
    first = {key[1:]: told for key, told in base.items()}
    second = {key[1:]: told for key, told in mine.items() if told is not MISSING}
    both = first.keys() & second.keys()
    return compare(
        *({_spelled(key): side[key] for key in sorted(both)} for side in (first, second))
    )


def _diverged(first: Mapping[Key, Outcome], second: Mapping[Key, Outcome]) -> Divergence:
    return divergence(*({_spelled(key): side[key] for key in second} for side in (first, second)))


def _spelled(key: tuple[str | int, ...]) -> str:
    return "/".join(map(str, key))


def _corrected(raw: Rate, told: Reported, fields: Mapping[str, Calibration]) -> Corrected | None:
    """Where success is "not refused", what the judge calls a refusal counts the other way."""
    known = fields.get(told.field)
    if known is None:
        return None
    if (told.metric, told.field) == ("asr", "refused"):
        return corrected(raw, known.specificity, known.sensitivity)
    return known.corrected(raw)


def of_judge(judge: str, known: Sequence[Calibration]) -> list[Calibration]:
    """The calibrations of that judge; UsageError where all are of others."""
    told = [one for one in known if one.judge == judge]
    if known and not told:
        others = ", ".join(sorted({one.judge for one in known}))
        raise UsageError(f"--calibration: it is of {others}; wanted one of {judge}")
    return told


def rates_of(told: Sequence[Measured], model: str) -> dict[str, Rate]:
    """A model's rates by name."""
    return {one.told.name: one.rate for one in told if one.model == model}


def limited(told: Sequence[Measured], model: str) -> dict[str, Rate | AtK]:
    """What a limit can be set on: a model's rates, and its ASR at every draw."""
    most = {
        f"asr@{one.at_k[-1].k}/{one.told.name.split('/', 1)[1]}": one.at_k[-1]
        for one in told
        if one.model == model and one.at_k
    }
    return {**rates_of(told, model), **most}


def results(asked: Mapping[str, Any], sheet: Sheet, told: Sequence[Measured]) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "schema": 1,
        "models": asked["models"],
        "attacker": asked["attacker"],
        "sampling": asked["sampling"],
        "seed": asked["seed"],
        "results": [_row(asked, sheet, one) for one in told],
    }


def _row(asked: Mapping[str, Any], sheet: Sheet, one: Measured) -> dict[str, Any]:
    task_name = sheet.sets[one.told.members[0]].task
    task = sheet.tasks[task_name]
    benign = not one.told.group.startswith("harmful/")
    return {
        "model": one.model,
        "task": task_name,
        "set": one.told.group,
        "metric": one.told.metric,
        "name": one.told.name,
        **one.rate.to_json(),
        "cluster_key": task.cluster,
        "judge": asked["judge"],
        "controversial": asked["judge"]["controversial"],
        "harms": one.harms,
        "success": None if benign else {"is": task.success, "means": SUCCESS[task.success]},
        "made_to_be_judged_by": task.judge or None,
        "datasets": [
            {"path": s.path, "sha256": s.sha256, "schema": s.schema} for s in task.sources
        ],
        "at_k": [at.to_json() for at in one.at_k],
        "paired": one.paired and {"against": asked["models"][0]["name"], **one.paired.to_json()},
        "corrected": one.corrected and one.corrected.to_json(),
        "second": one.second and {"judge": asked["second"], **one.second.to_json()},
    }
