"""What every judge answers: what happened, or that it cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sparring.types import State, Verdict


class Judge(Protocol):
    """A referee. Its failures are verdicts with a status, never labels and never exceptions."""

    @property
    def name(self) -> str:
        """How results name it."""
        ...

    @property
    def caveat(self) -> str:
        """What every result that rests on it must say beside itself; '' if nothing."""
        ...

    @property
    def fills(self) -> frozenset[str]:
        """The `Verdict` fields it is able to fill."""
        ...

    def rule(self, states: Sequence[State]) -> list[Verdict]:
        """One verdict for each state, in order."""
        ...
