"""The protocol of a run's memory: which openings are played again, and what a round adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sparring.types import Episode, Metrics, State, Turn

Dealt = tuple[Sequence[State], Sequence[State]]
"""(fresh openings, replays)"""


class Memory(Protocol):
    """What a run remembers from round to round; its state is saved with the checkpoints."""

    def deal(self, number: int, turn: Turn, openings: Sequence[State]) -> Dealt:
        """The openings that are left, and the replays that replace the others.

        They are played in this order, and kept apart because a round is measured on the fresh
        openings alone.
        """
        ...

    def add(self, number: int, episodes: Sequence[Episode]) -> Metrics:
        """Remember what the round's games say; the metrics' names start with `replay/`."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that the next round depends on, as JSON can hold it."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        ...


class Forgetful:
    """A `Memory` that remembers nothing."""

    def deal(self, number: int, turn: Turn, openings: Sequence[State]) -> Dealt:
        return openings, ()

    def add(self, number: int, episodes: Sequence[Episode]) -> Metrics:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        return None
