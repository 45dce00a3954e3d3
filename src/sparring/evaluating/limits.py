"""Limits on rates: read before anything is loaded, checked when everything is measured."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sparring.evaluation.at_k import AtK
from sparring.evaluation.rates import Rate
from sparring.types import GateError, Status, UnscoredError, UsageError

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
