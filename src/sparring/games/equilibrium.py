"""Exact solutions of matrix games: equilibria, and how far any play is from one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog

Table = Sequence[Sequence[float]]
"""Payoffs to the row player, by row and column; the column player gets their negatives."""
Mixture = tuple[float, ...]
"""A probability for each row, or for each column."""


def zero_sum(matrix: Table) -> tuple[Mixture, Mixture, float]:
    """(row mixture, column mixture, value) of a Nash equilibrium.

    The row player's linear program, maximise v subject to Σ_i x_i A_ij >= v for every column j
    (Dantzig, Linear Programming and Extensions, 1963, chapter 13), by HiGHS; the column mixture
    is its dual. No pure deviation gains more than 1e-9 of the matrix's span. Of several equilibria
    always the same one. ValueError for an empty, ragged or non-finite matrix.
    """
    payoff_RC = _checked(matrix)
    rows, columns = payoff_RC.shape
    span = float(np.ptp(payoff_RC)) or 1.0
    unit_RC = (payoff_RC - payoff_RC.min()) / span  # the solver's tolerances are absolute
    at_least_0: tuple[float | None, float | None] = (0, None)
    told = linprog(
        c=np.append(np.zeros(rows), -1.0),
        A_ub=np.hstack([-unit_RC.T, np.ones((columns, 1))]),
        b_ub=np.zeros(columns),
        A_eq=np.append(np.ones(rows), 0.0).reshape(1, -1),
        b_eq=[1.0],
        bounds=[at_least_0] * rows + [(None, None)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if not told.success or told.x is None:
        raise ArithmeticError(f"the equilibrium was not found: {told.message}")
    row, column = _mixture(told.x[:-1]), _mixture(-told.ineqlin.marginals)
    return row, column, float(np.array(row) @ payoff_RC @ np.array(column))


def exploitability(matrix: Table, row: Mixture, column: Mixture) -> tuple[float, float]:
    """What each player would gain by its best response, the row player first; (0, 0): Nash.

    max_i (A y)_i − x A y and x A y − min_j (x A)_j. Their sum is OpenSpiel's NashConv.
    """
    payoff_RC, row_R, column_C = _checked(matrix), np.array(row), np.array(column)
    value = row_R @ payoff_RC @ column_C
    best, worst = (payoff_RC @ column_C).max(), (row_R @ payoff_RC).min()
    return float(best - value), float(value - worst)


def subgame_perfect(matrix: Table) -> tuple[int, tuple[int, ...], float]:
    """(row, the column that answers each row, value) when the column player sees the row.

    Backward induction; of equal moves the first. This is the game of attack and reply, in which
    MAGIC's Theorem 3.2 (arXiv:2602.01539) holds: where every row has a column that costs the
    column player nothing, none of its answers costs it anything, to whichever row.
    """
    payoff_RC = _checked(matrix)
    answers_R = payoff_RC.argmin(1)
    values_R = payoff_RC.min(1)
    row = int(values_R.argmax())
    return row, tuple(map(int, answers_R)), float(values_R[row])


def _checked(matrix: Table) -> np.ndarray:
    lengths = {len(row) for row in matrix}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"matrix has rows of lengths {sorted(lengths)}; wanted one, above 0")
    payoff_RC = np.array(matrix, dtype=float)
    if not np.isfinite(payoff_RC).all():
        raise ValueError("matrix has entries that are not finite; wanted a number in every cell")
    return payoff_RC


def _mixture(weights: np.ndarray) -> Mixture:
    """Non-negative and summing to 1, which the solver's are but for rounding."""
    cut = weights.clip(min=0.0)
    return tuple((cut / cut.sum()).tolist())
