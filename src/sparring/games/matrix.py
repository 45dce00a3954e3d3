"""Zero-sum matrix games and their exact solutions: the games whose right answer is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter
from scipy.optimize import linprog

from sparring import packaged
from sparring.types import Completion, Message, Observation, Player, Referee, Seed, State

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class MatrixGame:
    """A zero-sum game: the attacker names a row, the defender a column, `payoff` is the attacker's.

    The moves are simultaneous, so the defender does not see the attacker's; with `seen` it sees
    the row before it answers, as a reply follows an attack. No judge is needed. A move that is no
    name ends the game: its player gets 1 less than its worst payoff, and the other is masked.
    ValueError where names and matrix do not fit.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    payoff: Rows
    seen: bool = False

    def __post_init__(self) -> None:
        shape = [len(row) for row in self.payoff]
        if not shape or shape != [len(self.columns)] * len(self.rows):
            raise ValueError(
                f"payoff has rows of lengths {shape}, expected {len(self.rows)} of "
                f"{len(self.columns)}"
            )

    needs = frozenset[str]()

    def open(self, seed: Seed) -> State:
        return State(seed)

    def to_move(self, state: State) -> Player | Referee | None:
        if not state.moves:
            return Player.ATTACKER
        named = state.moves[0].sent is not None
        return Player.DEFENDER if named and len(state.moves) == 1 else None

    def observe(self, state: State) -> Observation:
        names = self.columns if state.moves else self.rows
        row = state.moves[0].sent if state.moves and self.seen else None
        request = state.seed.text if row is None else row
        brief = f"Answer with one of: {', '.join(names)}"
        return (Message("system", brief), Message("user", request))

    def hear(self, state: State, completion: Completion) -> str | None:
        """The name of a row or column, without white space around it."""
        name = completion.text.strip()
        return name if name in (self.columns if state.moves else self.rows) else None

    def returns(self, state: State) -> Mapping[Player, float] | None:
        row, *replies = (move.sent for move in state.moves)
        if row is None:
            return {Player.ATTACKER: min(map(min, self.payoff)) - 1}
        (column,) = replies
        if column is None:
            return {Player.DEFENDER: -max(map(max, self.payoff)) - 1}
        value = self.payoff[self.rows.index(row)][self.columns.index(column)]
        return {Player.ATTACKER: value, Player.DEFENDER: -value}


@dataclass(frozen=True, slots=True)
class SolvedGame:
    """A game with an equilibrium: both mixtures, and the value to the attacker."""

    game: MatrixGame
    row: tuple[float, ...]
    column: tuple[float, ...]
    value: float
    source: str


KNOWN: Mapping[str, SolvedGame] = TypeAdapter(dict[str, SolvedGame]).validate_json(
    packaged.text("games/solved_games.json")
)
"""Textbook games by name. The equilibria are unique, except that the column mixture of `convoy` may
put up to one half on `south`.
"""

Table = Sequence[Sequence[float]]
"""Payoffs to the row player, by row and column; the column player gets their negatives."""
Mixture = tuple[float, ...]
"""A probability for each row, or for each column."""


def zero_sum(matrix: Table) -> tuple[Mixture, Mixture, float]:
    """(row mixture, column mixture, value) of a Nash equilibrium.

    The row player's linear program, maximise v subject to Σ_i x_i A_ij >= v for every column j
    (Dantzig, Linear Programming and Extensions, 1963, chapter 13), by HiGHS; the column mixture
    is its dual. No pure deviation gains more than 1e-9 of the matrix's span. Of several equilibria
    it is always the same one. ValueError for an empty, ragged or non-finite matrix.
    """
    payoff_RC = _checked(matrix)
    rows, columns = payoff_RC.shape
    span = float(np.ptp(payoff_RC)) or 1.0
    unit_RC = (payoff_RC - payoff_RC.min()) / span  # the solver's tolerances are absolute
    at_least_0: tuple[float | None, float | None] = (0, None)
    solution = linprog(
        c=np.append(np.zeros(rows), -1.0),
        A_ub=np.hstack([-unit_RC.T, np.ones((columns, 1))]),
        b_ub=np.zeros(columns),
        A_eq=np.append(np.ones(rows), 0.0).reshape(1, -1),
        b_eq=[1.0],
        bounds=[at_least_0] * rows + [(None, None)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if not solution.success or solution.x is None:
        raise ArithmeticError(f"the equilibrium was not found: {solution.message}")
    row, column = _mixture(solution.x[:-1]), _mixture(-solution.ineqlin.marginals)
    return row, column, float(np.array(row) @ payoff_RC @ np.array(column))


def exploitability(matrix: Table, row: Mixture, column: Mixture) -> tuple[float, float]:
    """The gain of each player's best response, the row player's first; (0, 0) at an equilibrium.

    max_i (A y)_i − x A y and x A y − min_j (x A)_j. Their sum is OpenSpiel's NashConv.
    """
    payoff_RC, row_R, column_C = _checked(matrix), np.array(row), np.array(column)
    value = row_R @ payoff_RC @ column_C
    best, worst = (payoff_RC @ column_C).max(), (row_R @ payoff_RC).min()
    return float(best - value), float(value - worst)


def subgame_perfect(matrix: Table) -> tuple[int, tuple[int, ...], float]:
    """(row, best column for each row, value) when the column player sees the row.

    By backward induction; of equal moves the first. This is the game of attack and reply, in which
    MAGIC's Theorem 3.2 (arXiv:2602.01539) holds: if each row has a column at
    which the column player loses nothing, its best answers lose nothing against every row.
    """
    payoff_RC = _checked(matrix)
    answers_R = payoff_RC.argmin(1)
    values_R = payoff_RC.min(1)
    row = int(values_R.argmax())
    return row, tuple(map(int, answers_R)), float(values_R[row])


def _checked(matrix: Table) -> np.ndarray:
    lengths = {len(row) for row in matrix}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"matrix has rows of lengths {sorted(lengths)}; expected one, above 0")
    payoff_RC = np.array(matrix, dtype=float)
    if not np.isfinite(payoff_RC).all():
        raise ValueError("matrix has entries that are not finite; expected a number in every cell")
    return payoff_RC


def _mixture(weights: np.ndarray) -> Mixture:
    """The solver's weights, which are probabilities except for rounding, made exactly that."""
    cut = weights.clip(min=0.0)
    return tuple((cut / cut.sum()).tolist())
