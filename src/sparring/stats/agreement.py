"""How far raters agree beyond chance: Krippendorff's alpha, Cohen's kappa."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sparring.stats.rates import Counts, Estimate, clustered, estimate, of_kinds, ratio

Rating = Hashable | None
"""What one rater said of an item; None: nothing."""
Ratings = Sequence[Rating]
"""What each rater said of one item, in the same order for all items."""


def alpha(items: Sequence[Ratings], clusters: Sequence[str] | None = None) -> Estimate:
    """Krippendorff's alpha for nominal ratings, any number of raters, ratings may be missing.

    α = 1 − (n − 1) · Σ_{c≠k} o_ck / Σ_{c≠k} n_c n_k, where an item with m ratings adds
    1 / (m − 1) to the coincidence o_ck for every ordered pair of its ratings c, k; items with
    one rating are in no pair and leave. Krippendorff, Content Analysis, 2nd ed. 2004, ch. 11;
    Computing Krippendorff's Alpha-Reliability, 2011, C. 95 % interval: a bootstrap over items,
    or over `clusters` (one name for each item). Undefined where all ratings are the same.
    """
    values = _values(items)
    kept = [i for i, ratings in enumerate(items) if _told(ratings) > 1]
    rows = np.array([_coincidences(items[i], values) for i in kept])
    if clusters is not None and kept:
        rows = clustered(rows, [clusters[i] for i in kept])
    return estimate(rows, _alpha, len(kept))


def alpha_of(counts: Mapping[tuple[Any, ...], int]) -> Estimate:
    """`alpha` of items that are counted by their ratings; each is its own cluster."""
    values = _values(counts)
    kept = {ratings: times for ratings, times in counts.items() if _told(ratings) > 1}
    if not kept:
        return estimate(np.empty((0, 0)), _alpha, 0)
    kinds = np.array([_coincidences(ratings, values) for ratings in kept])
    return of_kinds(kinds, list(kept.values()), _alpha, sum(kept.values()))


def kappa(
    pairs: Sequence[tuple[Rating, Rating]], clusters: Sequence[str] | None = None
) -> Estimate:
    """Cohen's kappa of two raters; pairs with a missing rating leave.

    κ = (p_o − p_e) / (1 − p_e), p_e from each rater's own shares. Cohen, Educational and
    Psychological Measurement 20, 1960, 37-46. Interval as for `alpha`. Undefined where both
    raters only ever say the same one thing.
    """
    values = _values(pairs)
    kept = [i for i, pair in enumerate(pairs) if None not in pair]
    rows = np.array([_cell(pairs[i], values) for i in kept])
    if clusters is not None and kept:
        rows = clustered(rows, [clusters[i] for i in kept])
    return estimate(rows, _kappa, len(kept))


def _values(items: Iterable[Ratings]) -> list[Rating]:
    """Every rating that occurs, in order of its first."""
    return list(dict.fromkeys(r for ratings in items for r in ratings if r is not None))


def _told(ratings: Ratings) -> int:
    return sum(rating is not None for rating in ratings)


def _coincidences(ratings: Ratings, values: Sequence[Rating]) -> Counts:
    """One item's coincidence matrix o_VV, flat."""
    times_V = np.array([sum(r == v for r in ratings) for v in values], dtype=float)
    pairs_VV = np.outer(times_V, times_V) - np.diag(times_V)
    coincidences_VV: Counts = pairs_VV / (times_V.sum() - 1)
    return coincidences_VV.ravel()


def _cell(pair: tuple[Rating, Rating], values: Sequence[Rating]) -> Counts:
    """One pair in the table of first by second rater, flat."""
    table_VV = np.zeros((len(values), len(values)))
    table_VV[values.index(pair[0]), values.index(pair[1])] = 1
    return table_VV.ravel()


def _square(rows_RK: Counts) -> Counts:
    side = round(rows_RK.shape[1] ** 0.5)
    return rows_RK.reshape(-1, side, side)


def _alpha(rows_RK: Counts) -> Counts:
    o_RVV = _square(rows_RK)
    n_RV = o_RVV.sum(2)
    n_R = n_RV.sum(1)
    apart_R = n_R - np.trace(o_RVV, axis1=1, axis2=2)
    chance_R = n_R**2 - (n_RV**2).sum(1)
    return 1 - ratio((n_R - 1) * apart_R, chance_R)


def _kappa(rows_RK: Counts) -> Counts:
    table_RVV = _square(rows_RK)
    n_R = table_RVV.sum((1, 2))
    alike_R = np.trace(table_RVV, axis1=1, axis2=2) / n_R
    chance_R = (table_RVV.sum(1) * table_RVV.sum(2)).sum(1) / n_R**2
    return ratio(alike_R - chance_R, 1 - chance_R)
