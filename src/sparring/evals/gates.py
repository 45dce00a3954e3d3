"""Limits on rates, such as `--fail-if 'harmbench.asr>0.05'`."""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparring.stats.rates import Rate
from sparring.types import GateError, UsageError

_GATE = re.compile(r"\s*(.+?)\s*(>=|<=|>|<)\s*([0-9]*\.?[0-9]+)\s*")
_COMPARE = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True, slots=True)
class Gate:
    """A comparison that fails the evaluation where it holds, such as `asr/harmbench>0.05`."""

    text: str
    name: str
    sign: str
    number: float

    def check(self, rates: Mapping[str, Rate]) -> None:
        """Raise GateError where the comparison holds, and where the rate has no value."""
        value = rates[self.name].value
        if value is None or _COMPARE[self.sign](value, self.number):
            raise GateError(f"--fail-if {self.text}: {self.name} is {rates[self.name]}")


def parse_gates(texts: Sequence[str], known: Sequence[str]) -> list[Gate]:
    """Read gates such as `asr/harmbench>0.05` or `harmbench.asr>0.05`, of the `known` rates."""
    gates = []
    for text in texts:
        name, sign, number = parts.groups() if (parts := _GATE.fullmatch(text)) else ("", "", "0")
        set_name, _, metric = name.rpartition(".")
        name = name if name in known else f"{metric}/{set_name}"
        if name not in known:
            raise UsageError(
                f"--fail-if {text!r:.60}: wanted RATE>NUMBER with a rate of: {', '.join(known)}"
            )
        gates.append(Gate(text, name, sign, float(number)))
    return gates
