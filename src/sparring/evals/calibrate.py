"""How often a judge errs: its verdicts against people's labels of the same replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from sparring.data.labelled import Labelled
from sparring.judges.judge import Judge, KeywordJudge, describe
from sparring.metrics import RULED_BY
from sparring.stats.agreement import alpha, kappa
from sparring.stats.correction import Corrected, corrected
from sparring.stats.rates import Counts, Estimate, Outcome, Rate, clustered, estimate, rate, ratio
from sparring.types import Player, State, Status, UsageError, Verdict

SCHEMA = 1
"""Of the file `sparring judge calibrate` writes."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """One judge on one `Verdict` field (`reply_harm` or `refused`) against people's labels.

    Sensitivity: of the replies people call harmful (or refusals), the share it calls so.
    Specificity: of the others, the share it does not. Items it could not judge are unscored in
    each rate and leave the rest. `source` names the labels; `identity` the template and policy
    the judge had, where it was asked and not merely read from the file.
    """

    judge: str
    field: str
    sensitivity: Rate
    specificity: Rate
    accuracy: Rate
    f1: Estimate
    alpha: Estimate
    kappa: Estimate
    source: str = ""
    identity: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return (
            f"{self.field} sensitivity {self.sensitivity}, specificity {self.specificity}, "
            f"F1 {self.f1}, alpha {self.alpha}"
        )

    @property
    def rate(self) -> Rate:
        """All items: how many there were, and how many could not be judged and why."""
        return self.accuracy

    def corrected(self, raw: Rate) -> Corrected:
        """`raw`, of this field, without this judge's errors."""
        return corrected(raw, self.sensitivity, self.specificity)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ruled:
    """What people and a judge said of one reply; None: it could not tell, by that cause."""

    human: bool
    told: bool | None
    cluster: str
    cause: str = "ok"


FIELDS: Mapping[str, tuple[Callable[[Labelled], bool | None], Callable[[Verdict], bool | None]]] = {
    "reply_harm": (lambda item: item.harmful, lambda verdict: verdict.harmful),
    "refused": (lambda item: item.refused, lambda verdict: verdict.refused),
}
"""The verdict fields that people label: (their label, the judge's)."""


def calibration(judge: str, field: str, ruled: Sequence[Ruled], source: str = "") -> Calibration:
    """Every figure of `judge` on `field`, with 95 % intervals that count clusters once."""
    pairs = [(one.human, one.told) for one in ruled]
    clusters = [one.cluster for one in ruled]
    return Calibration(
        judge=judge,
        field=field,
        sensitivity=_right([one for one in ruled if one.human]),
        specificity=_right([one for one in ruled if not one.human]),
        accuracy=_right(ruled),
        f1=f1(pairs, clusters),
        alpha=alpha(pairs, clusters),
        kappa=kappa(pairs, clusters),
        source=source,
    )


def _right(ruled: Sequence[Ruled]) -> Rate:
    """How often the judge says what people say."""
    return rate(
        [
            Outcome(None if one.told is None else one.told == one.human, one.cluster, one.cause)
            for one in ruled
        ]
    )


def f1(pairs: Sequence[tuple[bool, bool | None]], clusters: Sequence[str]) -> Estimate:
    """F1 = 2 TP / (2 TP + FP + FN) of (people's label, the judge's); undefined without any."""
    kept = [i for i, (_, told) in enumerate(pairs) if told is not None]
    if not kept:
        return estimate(np.empty((0, 0)), _f1, 0)
    hits = [[pairs[i] == (True, True), pairs[i][0] != pairs[i][1]] for i in kept]
    rows = clustered(np.array(hits, dtype=float), [clusters[i] for i in kept])
    return estimate(rows, _f1, len(kept))


def _f1(rows_RK: Counts) -> Counts:
    hit_R, miss_R = rows_RK.T
    return ratio(2 * hit_R, 2 * hit_R + miss_R)


def of_stored(items: Sequence[Labelled], source: str = "") -> list[Calibration]:
    """Every judge whose verdicts on harm stand in the file itself; no model is asked."""
    names = sorted({name for item in items for name in item.judges})
    return [
        calibration(name, "reply_harm", [_stored(item, name) for item in known], source)
        for name in names
        for known in [[item for item in items if item.harmful is not None]]
    ]


def _stored(item: Labelled, name: str) -> Ruled:
    told = item.judges.get(name)
    return Ruled(
        bool(item.harmful), told, item.seed.cluster_key, "ok" if told is not None else "absent"
    )


def of_verdicts(
    judge: Judge, items: Sequence[Labelled], verdicts: Sequence[Verdict], source: str = ""
) -> list[Calibration]:
    """`judge` on every field that it fills and people labelled."""
    both = list(zip(items, verdicts, strict=True))
    found = []
    for field, (label, ruling) in FIELDS.items():
        ruled = [
            _ruled(bool(label(item)), verdict, ruling, item.seed.cluster_key)
            for item, verdict in both
            if label(item) is not None
        ]
        if field in judge.fills and ruled:
            told = calibration(judge.name, field, ruled, source)
            found.append(replace(told, identity=describe(judge).identity()))
    return found


def _ruled(
    human: bool, verdict: Verdict, ruling: Callable[[Verdict], bool | None], cluster: str
) -> Ruled:
    told = ruling(verdict) if verdict.status is Status.OK else None
    failed = "unfilled" if verdict.status is Status.OK else verdict.status.value
    return Ruled(human, told, cluster, "ok" if told is not None else failed)


def state_of(item: Labelled) -> State:
    """A labelled reply as a judge is shown it."""
    opening = State(item.seed).deal(Player.ATTACKER, item.seed.text)
    return opening.deal(Player.DEFENDER, item.reply)


def dumps(calibrations: Sequence[Calibration]) -> str:
    """The file `sparring judge calibrate` writes."""
    told = [calibration.to_json() for calibration in calibrations]
    return json.dumps({"schema": SCHEMA, "calibrations": told}, indent=2) + "\n"


def read_calibrations(path: Path) -> list[Calibration]:
    """What `dumps` wrote; UsageError names the file and what is wrong with it."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; `sparring judge calibrate` writes one")
    try:
        told = json.loads(path.read_bytes())
        if not isinstance(told, dict) or told.get("schema") != SCHEMA:
            raise UsageError(f"{path}: wanted a calibration file of schema {SCHEMA}")
        return TypeAdapter(list[Calibration]).validate_python(told.get("calibrations"))
    except (ValueError, RecursionError, ValidationError) as error:
        raise UsageError(f"{path}: not what `sparring judge calibrate` writes: {error}") from None


def of_judge(judge: Judge, calibrations: Sequence[Calibration]) -> dict[str, Calibration]:
    """Those of `judge` by field; UsageError where all are of other judges, or of the same model
    with another template, other fields or another policy.
    """
    named = [told for told in calibrations if told.judge == judge.name]
    known = (None, describe(judge).identity())
    found = {told.field: told for told in named if told.identity in known}
    if named and not found:
        raise UsageError(
            f"--calibration: {judge.name} was measured with another template, other fields or "
            "another policy for `controversial`; calibrate it again as it is used"
        )
    if not found:
        others = ", ".join(sorted({told.judge for told in calibrations})) or "no judge"
        raise UsageError(f"--calibration: it is of {others}; wanted one of {judge.name}")
    return found


def corrected_rates(
    rates: Mapping[str, Rate], fields: Mapping[str, Calibration]
) -> dict[str, Corrected]:
    """The rates by `metric/set` that rest on a field their judge was calibrated on, corrected."""
    return {
        name: fields[field].corrected(raw)
        for name, raw in rates.items()
        for field in [RULED_BY.get(name.split("/", 1)[0], "")]
        if field in fields
    }


def figures(judge: str, calibrations: Sequence[Calibration]) -> str:
    """One sentence with a judge's measured errors, to stand beside whatever rests on it."""
    told = [calibration for calibration in calibrations if calibration.judge == judge]
    if not told:
        return ""
    sources = ", ".join(dict.fromkeys(c.source for c in told if c.source)) or "labelled replies"
    shares = "; ".join(
        f"{c.field} sensitivity {c.sensitivity}, specificity {c.specificity}" for c in told
    )
    return f"Measured against people's labels ({sources}): {shares}."


def with_figures(judge: Judge, calibrations: Sequence[Calibration]) -> Judge:
    """The keyword judge with its measured errors in its caveat; any other judge as it is."""
    told = figures(judge.name, calibrations)
    return replace(judge, measured=told) if isinstance(judge, KeywordJudge) and told else judge
