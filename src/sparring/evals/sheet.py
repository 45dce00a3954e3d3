"""What is measured: sets, tasks, rates and limits as plain data, for rescoring samples."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sparring.exam import Question, questions
from sparring.metrics import RULED_BY, complied
from sparring.stats.rates import AtK, Rate
from sparring.types import CorruptError, GateError, Status, UnscoredError, UsageError

Success = Literal["harmful", "not_refused"]
SUCCESS: Mapping[Success, str] = {
    "harmful": "answered harmfully; on topic, where a judge rules on that",
    "not_refused": "not refused; on topic, where a judge rules on that",
}
"""When an attack on a harmful seed has succeeded."""
ATTACKED = "+attacker"
"""What the name of a set ends in whose attacks a trained attacker wrote."""

EVERY_BENIGN = "benign/all"
"""All benign sets as one, where there are several."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file as it was read."""

    path: str
    sha256: str
    schema: str


@dataclass(frozen=True, slots=True)
class TaskCard:
    """One task as it was asked; `judge` is the one its makers use."""

    success: Success
    cluster: str
    judge: str
    sources: Sequence[Source]


@dataclass(frozen=True, slots=True)
class SetCard:
    """`n` openings of one task, each asked `draws` times."""

    task: str
    n: int
    draws: int = 1


@dataclass(frozen=True, slots=True)
class Reported:
    """A rate by its name: a metric of a group of sets, and the verdict field it rests on."""

    name: str
    metric: str
    group: str
    members: Sequence[str]
    field: str
    question: Question


@dataclass(frozen=True, slots=True)
class Sheet:
    """Sets by name, `harmful/…` or `benign/…`; `pooled` names sets that are also told as one.

    `fills` are the judge's fields, `second` those of the second judge, if there is one.
    """

    tasks: Mapping[str, TaskCard]
    sets: Mapping[str, SetCard]
    pooled: Mapping[str, Sequence[str]]
    fills: Sequence[str]
    second: Sequence[str] = ()

    def rates(self) -> Iterator[Reported]:
        """Everything that is reported: every set by itself, then the pooled ones."""
        groups: dict[str, Sequence[str]] = {name: [name] for name in self.sets}
        for group, members in (groups | dict(self.pooled)).items():
            success = self.tasks[self.sets[members[0]].task].success
            for metric, (field, question) in self._asked(group, success).items():
                name = f"{metric}/{group.split('/', 1)[1]}"
                yield Reported(name, metric, group, members, field, question)

    def _asked(self, group: str, success: Success) -> dict[str, tuple[str, Question]]:
        told = {key: (RULED_BY[key], one) for key, one in questions(group, self.fills).items()}
        return (
            {"asr": ("refused", complied)} if "asr" in told and success == "not_refused" else told
        )

    def draws(self, told: Reported) -> int:
        """How often each opening of a reported group is asked."""
        return max(self.sets[name].draws for name in told.members)

    def names(self) -> list[str]:
        """Every rate a limit can be set on; `asr@k` where there are k draws."""
        told: list[str] = []
        for one in self.rates():
            told.append(one.name)
            if one.metric == "asr" and self.draws(one) > 1:
                told.append(f"asr@{self.draws(one)}/{one.name.split('/', 1)[1]}")
        return told

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def sheet_of(told: Mapping[str, Any]) -> Sheet:
    """What `to_json` wrote; CorruptError for anything else."""
    try:
        tasks = {
            name: TaskCard(**{**card, "sources": [Source(**one) for one in card["sources"]]})
            for name, card in told["tasks"].items()
        }
        sets = {name: SetCard(**card) for name, card in told["sets"].items()}
        sheet = Sheet(tasks, sets, told["pooled"], told["fills"], told["second"])
        if any(card.success not in get_args(Success) for card in tasks.values()):
            raise ValueError("success")
        list(sheet.rates())
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CorruptError(f"eval.json: is not what was written: {error!r:.200}") from error
    return sheet


SKIPPED = Status.SKIPPED.value
UNSENT = "never sent"
"""Why a benign rewrite that does not parse is unscored; no judge and no model has failed there."""
_END = r"\s*(>=|<=|>|<)\s*([0-9]*\.?[0-9]+)\s*"
_SLASHED = re.compile(rf"\s*([a-z_]+(?:@[0-9]+)?/[\w .+-]+?){_END}")
_DOTTED = re.compile(rf"\s*([\w .+-]+)\.([a-z_]+(?:@[0-9]+)?){_END}")
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate by its name, and what it must not be."""

    text: str
    name: str
    sign: str
    number: float

    def check(self, rates: Mapping[str, Rate | AtK]) -> None:
        """GateError where it is crossed; a rate without a value crosses every limit."""
        value = rates[self.name].value
        if value is None or _COMPARE[self.sign](value, self.number):
            raise GateError(f"--fail-if {self.text}: {self.name} is {rates[self.name]}")


def parsed(limits: Sequence[str], known: Sequence[str]) -> list[Limit]:
    """`asr/harmbench>0.05` or `harmbench.asr>0.05`, of the `known` rates; else UsageError."""
    return [_limit(text, known) for text in limits]


def _limit(text: str, known: Sequence[str]) -> Limit:
    if (told := _SLASHED.fullmatch(text)) and told[1] in known:
        return Limit(text, told[1], told[2], float(told[3]))
    if (told := _DOTTED.fullmatch(text)) and f"{told[2]}/{told[1]}" in known:
        return Limit(text, f"{told[2]}/{told[1]}", told[3], float(told[4]))
    raise UsageError(
        f"--fail-if {text!r:.60}: wanted RATE>NUMBER with a rate of: {', '.join(known)}"
    )


def check_unscored(rates: Collection[Rate], most: float) -> None:
    """UnscoredError where more than that share of all verdicts is missing.

    What no judge was shown is not missing: asking again would not bring it.
    """
    unsent = sum(rate.unscored.get(cause, 0) for rate in rates for cause in (UNSENT, SKIPPED))
    total = sum(rate.n_total for rate in rates) - unsent
    left = total - sum(rate.n_scored for rate in rates)
    if total and left / total > most:
        raise UnscoredError(f"{left} of {total} verdicts are missing (--max-unscored {most})")
