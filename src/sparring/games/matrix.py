"""Matrix games: stand-in until the real one is merged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog


def zero_sum(matrix: Sequence[Sequence[float]]) -> tuple[list[float], list[float], float]:
    """Equilibrium mixtures of rows (maximiser) and columns, and the value."""
    a = np.array(matrix, dtype=float)

    def one(m: np.ndarray) -> list[float]:
        r, c = m.shape
        res = linprog(
            c=[0.0] * r + [-1.0],
            A_ub=np.hstack([-m.T, np.ones((c, 1))]),
            b_ub=np.zeros(c),
            A_eq=[[1.0] * r + [0.0]],
            b_eq=[1.0],
            bounds=[(0, None)] * r + [(None, None)],
        )
        p = np.clip(res.x[:r], 0, None)
        return [float(v) for v in p / p.sum()]

    x, y = one(a), one(-a.T)
    return x, y, float(np.array(x) @ a @ np.array(y))
