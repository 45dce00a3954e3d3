"""What every game answers; a game is pure: no model, no file, no random number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sparring.types import Observation, Player, Referee, Seed, State


class Game(Protocol):
    """The rules of one game."""

    @property
    def needs(self) -> frozenset[str]:
        """The `Verdict` fields that `returns` reads; a judge must fill each of them."""
        ...

    def open(self, seed: Seed) -> State:
        """The state a game about `seed` starts from."""
        ...

    def to_move(self, state: State) -> Player | Referee | None:
        """Who is next; `JUDGE`: a ruling is due now; None: the game is over."""
        ...

    def observe(self, state: State) -> Observation:
        """What the player to move may see."""
        ...

    def returns(self, state: State) -> Mapping[Player, float] | None:
        """What a finished game pays. None: unscored. A player left out is masked."""
        ...
