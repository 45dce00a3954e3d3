"""What every memory answers: which openings to play again, and what to keep of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sparring.types import Episode, Metrics, State, Turn

Dealt = tuple[Sequence[State], Sequence[State]]
"""(fresh openings, replays)"""


class Memory(Protocol):
    """What a run remembers from round to round; its state is saved with the checkpoints."""

    def deal(self, number: int, turn: Turn, openings: Sequence[State]) -> Dealt:
        """The round's openings, and the replays some of them make way for; played in this order.

        Apart, for what a live attacker achieves is measured on the fresh ones alone.
        """
        ...

    def add(self, number: int, episodes: Sequence[Episode]) -> Metrics:
        """Learn what became of the round's games; metrics start with `replay/`."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything the next round depends on, as JSON can hold it."""
        ...

    def load(self, told: Mapping[str, Any]) -> None:
        """Take up exactly where `state()` was taken."""
        ...


class Forgetful:
    """Remembers nothing."""

    def deal(self, number: int, turn: Turn, openings: Sequence[State]) -> Dealt:
        return openings, ()

    def add(self, number: int, episodes: Sequence[Episode]) -> Metrics:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, told: Mapping[str, Any]) -> None:
        return None
