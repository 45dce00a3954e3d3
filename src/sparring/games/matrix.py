"""Games given by a payoff matrix, for which the right answer is in the textbooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparring.types import Message, Observation, Player, Referee, Seed, State

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class MatrixGame:
    """Zero-sum: the attacker names a row, the defender a column, `payoff` goes to the attacker.

    The moves are simultaneous, so the defender sees nothing of the attacker's; with `seen` it
    sees the row and answers it, as a reply answers an attack. Nobody is asked to rule. A move
    that names nothing ends the game: whoever made it gets 1 less than its worst payoff, the
    other is masked. ValueError where names and matrix do not fit.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    payoff: Rows
    seen: bool = False

    def __post_init__(self) -> None:
        shape = [len(row) for row in self.payoff]
        if not shape or shape != [len(self.columns)] * len(self.rows):
            raise ValueError(
                f"payoff has rows of lengths {shape}, wanted {len(self.rows)} of "
                f"{len(self.columns)}"
            )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def open(self, seed: Seed) -> State:
        return State(seed)

    def to_move(self, state: State) -> Player | Referee | None:
        if not state.moves:
            return Player.ATTACKER
        named = _place(state, 0, self.rows) is not None
        return Player.DEFENDER if named and len(state.moves) == 1 else None

    def observe(self, state: State) -> Observation:
        names = self.columns if state.moves else self.rows
        told = state.moves[0].completion.text if state.moves and self.seen else state.seed.text
        return (Message("system", f"Answer with one of: {', '.join(names)}"), Message("user", told))

    def returns(self, state: State) -> Mapping[Player, float] | None:
        row, column = _place(state, 0, self.rows), _place(state, 1, self.columns)
        if row is None:
            return {Player.ATTACKER: min(map(min, self.payoff)) - 1}
        if column is None:
            return {Player.DEFENDER: -max(map(max, self.payoff)) - 1}
        value = self.payoff[row][column]
        return {Player.ATTACKER: value, Player.DEFENDER: -value}


def _place(state: State, ply: int, names: tuple[str, ...]) -> int | None:
    """Which of `names` the move at `ply` says."""
    said = state.moves[ply].completion.text.strip() if ply < len(state.moves) else ""
    return names.index(said) if said in names else None


@dataclass(frozen=True, slots=True)
class Known:
    """A game with an equilibrium: both mixtures, and the value to the attacker."""

    game: MatrixGame
    row: tuple[float, ...]
    column: tuple[float, ...]
    value: float
    source: str


_COIN = ("heads", "tails")
_HAND = ("rock", "paper", "scissors")
_STOP = ("Dover", "Canterbury")
_ROUTE = ("north", "south")
KNOWN: Mapping[str, Known] = {
    "matching pennies": Known(
        MatrixGame(_COIN, _COIN, ((1, -1), (-1, 1))),
        (1 / 2, 1 / 2),
        (1 / 2, 1 / 2),
        0,
        "von Neumann and Morgenstern, Theory of Games and Economic Behavior, 1944, section 18.4",
    ),
    "rock paper scissors": Known(
        MatrixGame(_HAND, _HAND, ((0, -1, 1), (1, 0, -1), (-1, 1, 0))),
        (1 / 3, 1 / 3, 1 / 3),
        (1 / 3, 1 / 3, 1 / 3),
        0,
        "von Neumann and Morgenstern, 1944, section 18.4 (stone, paper, scissors)",
    ),
    "pursuit": Known(
        MatrixGame(_STOP, _STOP, ((100, 0), (-50, 100))),
        (3 / 5, 2 / 5),
        (2 / 5, 3 / 5),
        40,
        "Moriarty after Holmes: von Neumann and Morgenstern, 1944, section 18.4.4",
    ),
    "convoy": Known(
        MatrixGame(_ROUTE, _ROUTE, ((2, 2), (1, 3))),
        (1, 0),
        (1, 0),
        2,
        "the Bismarck Sea, in days of bombing; a saddle point; north dominates for the convoy: "
        "Haywood, Operations Research 2, 1954, 365-385",
    ),
}
"""By name. The equilibria are unique, but that the convoy may go south up to half of the time."""
