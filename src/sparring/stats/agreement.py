"""How far raters agree beyond chance, and what a rate would be without the errors of its rater."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from sparring.stats import rates
from sparring.stats.rates import Counts, Estimate, Interval, Rate, Statistic, Z

Rating = Hashable | None
"""One rater's rating of an item; None where there is none."""
Ratings = Sequence[Rating]
"""The ratings of one item, by rater, in the same order for all items."""


def alpha(items: Sequence[Ratings], clusters: Sequence[str] | None = None) -> Estimate:
    """Return Krippendorff's alpha for nominal ratings of any number of raters, some missing.

    α = 1 − (n − 1) · Σ_{c≠k} o_ck / Σ_{c≠k} n_c n_k, where an item with m ratings adds
    1 / (m − 1) to the coincidence o_ck for every ordered pair of its ratings c, k; items with
    one rating are in no pair and are left out. Krippendorff, Content Analysis, 2nd ed. 2004,
    ch. 11; Computing Krippendorff's Alpha-Reliability, 2011, C. The 95 % interval is a bootstrap
    over items, or over `clusters` (one name for each item). Undefined where all ratings are equal.
    """
    return _agreement(items, clusters, _coincidences, _alpha)


def kappa(
    pairs: Sequence[tuple[Rating, Rating]], clusters: Sequence[str] | None = None
) -> Estimate:
    """Return Cohen's kappa of two raters; pairs with a missing rating are left out.

    κ = (p_o − p_e) / (1 − p_e), p_e from each rater's own shares. Cohen, Educational and
    Psychological Measurement 20, 1960, 37-46. Interval as for `alpha`. Undefined where both
    raters always give the same one rating.
    """
    return _agreement(pairs, clusters, _cell, _kappa)


def f1(pairs: Sequence[tuple[bool, bool | None]], clusters: Sequence[str]) -> Estimate:
    """Return 2 TP / (2 TP + FP + FN) of (people's label, a rater's); undefined without any."""
    return _agreement(pairs, clusters, _hit_or_miss, _f1)


def alpha_of(counts: Mapping[tuple[Any, ...], int]) -> Estimate:
    """Return `alpha` of items that are counted by their ratings; each is its own cluster."""
    return alpha(list(Counter(counts).elements()))


def _agreement(
    items: Sequence[Ratings], clusters: Sequence[str] | None, count: Any, statistic: Statistic
) -> Estimate:
    """`statistic` of the sums of `count(ratings, values)` over items with two ratings or more."""
    values = list(dict.fromkeys(r for ratings in items for r in ratings if r is not None))
    rated = [i for i, ratings in enumerate(items) if sum(r is not None for r in ratings) > 1]
    rows_NK = np.array([count(items[i], values) for i in rated])
    names: Sequence[Hashable] = clusters or range(len(items))
    rows_CK = rates.clustered(rows_NK, [names[i] for i in rated])
    return rates.estimate(rows_CK, statistic, len(rated))


def _coincidences(ratings: Ratings, values: Sequence[Rating]) -> Counts:
    """One item's coincidence matrix o_VV, flat."""
    times_V = np.array([sum(r == v for r in ratings) for v in values], dtype=float)
    pairs_VV = np.outer(times_V, times_V) - np.diag(times_V)
    coincidences_VV: Counts = pairs_VV / (times_V.sum() - 1)
    return coincidences_VV.ravel()


def _cell(pair: Ratings, values: Sequence[Rating]) -> Counts:
    """One pair in the table of first by second rater, flat."""
    table_VV = np.zeros((len(values), len(values)))
    table_VV[values.index(pair[0]), values.index(pair[1])] = 1
    return table_VV.ravel()


def _hit_or_miss(pair: Ratings, _: object) -> Counts:
    """Whether one pair is a true positive, and whether it is an error of either kind."""
    return np.array([pair == (True, True), pair[0] != pair[1]], dtype=float)


def _square(rows_RK: Counts) -> Counts:
    side = round(rows_RK.shape[1] ** 0.5)
    return rows_RK.reshape(-1, side, side)


def _alpha(rows_RK: Counts) -> Counts:
    o_RVV = _square(rows_RK)
    n_RV = o_RVV.sum(2)
    n_R = n_RV.sum(1)
    apart_R = n_R - np.trace(o_RVV, axis1=1, axis2=2)
    chance_R = n_R**2 - (n_RV**2).sum(1)
    return 1 - rates.ratio((n_R - 1) * apart_R, chance_R)


def _kappa(rows_RK: Counts) -> Counts:
    table_RVV = _square(rows_RK)
    n_R = table_RVV.sum((1, 2))
    alike_R = np.trace(table_RVV, axis1=1, axis2=2) / n_R
    chance_R = (table_RVV.sum(1) * table_RVV.sum(2)).sum(1) / n_R**2
    return rates.ratio(alike_R - chance_R, 1 - chance_R)


def _f1(rows_R2: Counts) -> Counts:
    hit_R, miss_R = rows_R2.T
    return rates.ratio(2 * hit_R, 2 * hit_R + miss_R)


TRANSFER = (
    "A corrected rate holds as far as the judge errs here as often as on the replies it was "
    "calibrated on."
)
"""The caveat that stands beside every corrected rate."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """A rate without its judge's errors, with its 95 % interval, beside the raw one.

    `value` and `ci95` are None where the correction cannot be made; `why` says why.
    """

    raw: Rate
    value: float | None
    ci95: Interval | None
    method: str = "Rogan-Gladen, Lang-Reiczigel interval"
    why: str = ""

    def __str__(self) -> str:
        if self.value is None or self.ci95 is None:
            return f"not corrected: {self.why}"
        return f"{self.value:.3f} [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]"


def corrected(rate: Rate, sensitivity: Rate, specificity: Rate) -> Corrected:
    """Return `rate` as it would be without errors: p = (p_obs + Sp − 1) / (Se + Sp − 1) in [0, 1].

    Rogan and Gladen, Am. J. Epidemiology 107, 1978, 71-76. The interval carries the uncertainty
    of all three (`lang_reiczigel`). Clustered rates count as the number of independent items
    that would have given their interval. Not corrected where the judge was not measured, where
    it cannot be distinguished from a coin (Se + Sp = 1), or where its errors rule the rate out.
    """
    if rate.value is None:
        return Corrected(rate, None, None, why="nothing was scored")
    if sensitivity.value is None or specificity.value is None:
        return Corrected(rate, None, None, why="people labelled no item of one of the two kinds")
    youden = sensitivity.value + specificity.value - 1
    measured = (rate, sensitivity, specificity)
    interval = lang_reiczigel(*((known.value or 0.0, independent_n(known)) for known in measured))
    if youden <= 0 or interval is None:
        why = f"sensitivity + specificity is {youden + 1:.3f}, which cannot be told from a coin's 1"
        return Corrected(rate, None, None, why=why)
    if interval[1] < 0 or interval[0] > 1:
        why = "the raw rate is one that a judge with these errors would not give"
        return Corrected(rate, None, None, why=why)
    value = (rate.value + specificity.value - 1) / youden
    value, low, high = (min(1.0, max(0.0, share)) for share in (value, *interval))
    return Corrected(rate, value, (low, high))


def independent_n(rate: Rate) -> float:
    """Return how many independent items would give the rate's interval; at most those it has."""
    if rate.value is None or rate.ci95 is None:
        return 0.0
    if rate.method == "wilson":
        return float(rate.n_scored)
    if rate.method == "wilson over clusters":
        return float(rate.clusters)
    deviation = (rate.ci95[1] - rate.ci95[0]) / (2 * Z)
    return min(float(rate.n_scored), rate.value * (1 - rate.value) / deviation**2)


def lang_reiczigel(
    observed: tuple[float, float],
    sensitivity: tuple[float, float],
    specificity: tuple[float, float],
) -> Interval | None:
    """Return 95 % limits of the corrected rate, not clipped; each argument is (share, n).

    Lang and Reiczigel, Preventive Veterinary Medicine 113, 2014, 13-22, eqs 4, 7, 16 and 17:
    z²/2 of z² pseudo-observations join the rate, 1 of 2 join Se and Sp (primes), and
    p' + δ ± z · sqrt(p_obs'(1−p_obs')/n' + p'² Se'(1−Se')/n_Se' + (1−p')² Sp'(1−Sp')/n_Sp')
    / (Se' + Sp' − 1), δ = 2z² (p' Se'(1−Se')/n_Se' − (1−p') Sp'(1−Sp')/n_Sp').
    None where Se' + Sp' is not above 1 by z of its own standard errors.
    """
    p_obs, n = _padded(*observed, Z * Z)
    se, n_se = _padded(*sensitivity, 2)
    sp, n_sp = _padded(*specificity, 2)
    youden = se + sp - 1
    var_se, var_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    if youden <= Z * sqrt(var_se + var_sp):
        return None
    p = (p_obs + sp - 1) / youden
    shift = 2 * Z * Z * (p * var_se - (1 - p) * var_sp)
    variance = p_obs * (1 - p_obs) / n + p * p * var_se + (1 - p) ** 2 * var_sp
    half = Z * sqrt(variance) / youden
    return p + shift - half, p + shift + half


def _padded(share: float, n: float, more: float) -> tuple[float, float]:
    """A share and its n with `more` observations added, half of them successes."""
    return (n * share + more / 2) / (n + more), n + more
