"""Protocols of replay memory and of a league of past opponents.

The methods as they stand here remember nothing: `Forgetful` and `Latest` are made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sparring.arena import Cast
from sparring.types import Episode, Metrics, State, Turn

Dealt = tuple[Sequence[State], Sequence[State]]
"""(fresh openings, replays)"""


class Memory(Protocol):
    """What a run remembers from round to round; its state is saved with the checkpoints."""

    def deal(self, number: int, turn: Turn, openings: Sequence[State]) -> Dealt:
        """Replace some fresh openings by replays; returns those that remain, and the replays.

        They are played in this order, and kept apart because a round is measured on the fresh
        openings alone.
        """
        return openings, ()

    def add(self, number: int, episodes: Sequence[Episode]) -> Metrics:
        """Remember what the round's games say; the metrics' names start with `replay/`."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything that the next round depends on, as JSON can hold it."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        return


class Forgetful(Memory):
    """A `Memory` that remembers nothing."""


class Opposition(Protocol):
    """Decides whom a round is played against, and which selves are kept for later rounds."""

    def cast(self, number: int, turn: Turn, cast: Cast) -> tuple[Cast, Turn, Metrics]:
        """The round's cast and who still learns in it; metrics start with `league/`."""
        return cast, turn, {}

    def keeps(self, number: int) -> bool:
        """Whether the selves after `number` rounds are needed later."""
        return False

    def keep(self, number: int) -> None:
        """Called at the start of round `number`: keep the present selves if `keeps(number)`."""
        return

    def state(self) -> dict[str, Any]:
        """What was measured of past selves, as JSON can hold it."""
        return {}

    def load(self, state: Mapping[str, Any], selves: Sequence[int]) -> None:
        """Go on from what `state()` returned; `selves` are the rounds that have kept selves."""
        return


class Latest(Opposition):
    """No league: every round is played by the present selves."""
