"""What a run may keep of its rounds: a memory of games, and past selves as opponents.

The two classes here keep nothing. The experience pool and the league override their methods.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.arena import Cast
from sparring.types import Episode, Metrics, State, Turn

OpeningsAndReplays = tuple[Sequence[State], Sequence[State]]


class Memory:
    """What a run remembers from round to round; its state is saved with the checkpoints."""

    def deal(self, number: int, turn: Turn, openings: Sequence[State]) -> OpeningsAndReplays:
        """Replace some fresh openings by replays; return those that remain, and the replays.

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


class Opposition:
    """Decides whom a round is played against, and which selves are kept for later rounds.

    `past` is the metrics of all rounds before, or of more than these.
    """

    def cast(
        self, number: int, turn: Turn, cast: Cast, past: Sequence[Metrics]
    ) -> tuple[Cast, Turn, Metrics]:
        """The round's cast and who still learns in it; metrics start with `league/`."""
        return cast, turn, {}

    def keeps(self, number: int, past: Sequence[Metrics]) -> bool:
        """Whether the selves after `number` rounds are needed later."""
        return False

    def keep(self, number: int, past: Sequence[Metrics]) -> None:
        """At the start of round `number`, keep the present selves if they are needed later."""

    def state(self) -> dict[str, Any]:
        """What was measured of past selves, as JSON can hold it."""
        return {}

    def load(self, state: Mapping[str, Any], selves: Sequence[int]) -> None:
        """Go on from what `state()` returned; `selves` says after how many rounds each was kept."""
