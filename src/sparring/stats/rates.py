"""A rate is never a bare number: n, an interval and how, what was unscored, and the bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from math import comb, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from sparring.types import UsageError

RESAMPLES = 10_000
_HELD = 2**24
"""Numbers that resampling holds at once: 128 MiB."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One item: what happened (None: unscored, and why), and which cluster it belongs to."""

    happened: bool | None
    cluster: str
    cause: str = "ok"


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of the scored items with its 95 % interval.

    `bounds` counts all unscored items once as failures and once as successes. `value` and `ci95`
    are None when nothing was scored.
    """

    value: float | None
    ci95: tuple[float, float] | None
    method: str
    n_total: int
    n_scored: int
    clusters: int
    bounds: tuple[float, float]
    unscored: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.value is None or self.ci95 is None:
            return f"unscored (n={self.n_total})"
        low, high = self.ci95
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] n={self.n_scored}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The Wilson score interval, 95 %; `successes` need not be whole (an effective count)."""
    z = norm.ppf(0.975)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _agree(scored: Sequence[Outcome]) -> bool:
    """Whether all clusters have the same rate, so that resampling them shows no spread."""
    told: dict[str, list[bool]] = {}
    for outcome in scored:
        told.setdefault(outcome.cluster, []).append(bool(outcome.happened))
    return len({Fraction(sum(hits), len(hits)) for hits in told.values()}) == 1


def resampled(above: Sequence[int], below: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of Σ above ÷ Σ below over 10,000 resamples of clusters, 95 %, seeded."""
    above_C, below_C = np.array(above), np.array(below)
    rng, clusters = np.random.default_rng(seed), len(above_C)
    ratios: list[float] = []
    while left := RESAMPLES - len(ratios):
        drawn_RC = rng.integers(0, clusters, (min(left, max(1, _HELD // clusters)), clusters))
        ratios += (above_C[drawn_RC].sum(1) / below_C[drawn_RC].sum(1)).tolist()
    low, high = np.quantile(ratios, [0.025, 0.975])
    return (float(low), float(high))


def cluster_bootstrap(outcomes: Sequence[Outcome], seed: int = 0) -> tuple[float, float]:
    """Percentile interval over 10,000 resamples of whole clusters, 95 %, seeded."""
    clusters: dict[str, list[bool]] = {}
    for outcome in outcomes:
        if outcome.happened is not None:
            clusters.setdefault(outcome.cluster, []).append(outcome.happened)
    told = clusters.values()
    return resampled([sum(one) for one in told], [len(one) for one in told], seed)


def rate(outcomes: Sequence[Outcome]) -> Rate:
    """The rate of `happened`, with the interval the data call for.

    Wilson where every cluster occurs once, else the cluster bootstrap. Where all clusters agree
    the bootstrap would say [0, 0] or [1, 1]; there Wilson over the number of clusters stands in.
    """
    scored = [o for o in outcomes if o.happened is not None]
    causes = Counter(o.cause for o in outcomes if o.happened is None)
    hits, n, total = sum(bool(o.happened) for o in scored), len(scored), len(outcomes)
    clusters = len({o.cluster for o in scored})
    bounds = (hits / total, (hits + total - n) / total) if total else (0.0, 1.0)
    if not n:
        return Rate(None, None, "none", total, 0, 0, bounds, dict(causes))
    if clusters == n:
        method, interval = "wilson", wilson(hits, n)
    elif _agree(scored):
        method = "wilson over clusters"
        interval = wilson(hits / n * clusters, clusters)
    else:
        method, interval = "cluster bootstrap", cluster_bootstrap(scored)
    return Rate(hits / n, interval, method, total, n, clusters, bounds, dict(causes))


Counts = NDArray[np.float64]
Statistic = Callable[[Counts], Counts]
"""Counts_RK of R samples to R numbers; NaN where a sample does not define one."""
_DEFINED = 0.95
"""The share of resamples that must define the statistic for their quantiles to be an interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """`value` and its 95 % interval; None where the items do not define one.

    `n` counts what it rests on, `clusters` what was resampled. Without spread among the
    clusters there is no interval: resampling would take agreement for certainty.
    """

    value: float | None
    ci95: tuple[float, float] | None
    method: str
    n: int
    clusters: int

    def __str__(self) -> str:
        if self.value is None:
            return f"undefined (n={self.n})"
        within = "[no interval]" if self.ci95 is None else "[{:.3f}, {:.3f}]".format(*self.ci95)
        return f"{self.value:.3f} {within} n={self.n}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(rows_CK: Counts, statistic: Statistic, n: int, seed: int = 0) -> Estimate:
    """`statistic` of all rows together, with a percentile bootstrap over the rows, seeded.

    One row of K counts for each cluster.
    """
    rows_CK = np.asarray(rows_CK, dtype=float)
    if not rows_CK.size:
        return Estimate(None, None, "none", 0, 0)
    kinds_JK, times_J = np.unique(rows_CK, axis=0, return_counts=True)
    return of_kinds(kinds_JK, times_J.tolist(), statistic, n, seed)


def of_kinds(
    kinds_JK: Counts, times: Sequence[int], statistic: Statistic, n: int, seed: int = 0
) -> Estimate:
    """As `estimate`, of rows of J kinds that occur `times` times each.

    Clusters with the same counts are exchangeable, so how often each kind is drawn is
    multinomial: 10,000 resamples cost the number of kinds, not of clusters.
    """
    times_J = np.asarray(times)
    clusters = int(times_J.sum())
    value = float(statistic((times_J @ kinds_JK)[None])[0])
    if np.isnan(value):
        return Estimate(None, None, "none", n, clusters)
    rng = np.random.default_rng(seed)
    drawn_RJ = rng.multinomial(clusters, times_J / clusters, RESAMPLES)
    told_R = statistic(drawn_RJ @ kinds_JK)
    told_R = told_R[~np.isnan(told_R)]
    if len(told_R) < _DEFINED * RESAMPLES:
        return Estimate(value, None, "undefined in too many resamples", n, clusters)
    if np.ptp(told_R) == 0:
        return Estimate(value, None, "no spread among clusters", n, clusters)
    low, high = np.quantile(told_R, [0.025, 0.975])
    return Estimate(value, (float(low), float(high)), "cluster bootstrap", n, clusters)


def clustered(rows_NK: Counts, clusters: Sequence[str]) -> Counts:
    """Rows of items summed by cluster."""
    places: dict[str, int] = {}
    at = [places.setdefault(name, len(places)) for name in clusters]
    out_CK = np.zeros((len(places), rows_NK.shape[1]))
    np.add.at(out_CK, at, rows_NK)
    return out_CK


def ratio(above_R: Counts, below_R: Counts) -> Counts:
    """Quotients; NaN where there is nothing below."""
    told: Counts = np.full(np.shape(above_R), np.nan)
    np.divide(above_R, below_R, out=told, where=below_R != 0)
    return told


@dataclass(frozen=True, slots=True)
class AtK:
    """The share of items, with its 95 % interval; None where no item has k scored attempts.

    `n_total` counts items, `n_scored` those with at least k scored attempts.
    """

    k: int
    value: float | None
    ci95: tuple[float, float] | None
    method: str
    n_total: int
    n_scored: int
    clusters: int

    def __str__(self) -> str:
        if self.value is None or self.ci95 is None:
            return f"unscored (n={self.n_total})"
        return f"{self.value:.3f} [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}] n={self.n_scored}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def any_of_k(n: int, c: int, k: int) -> float:
    """1 − C(n − c, k) / C(n, k): the chance that k of n attempts, c of them successes, hold one.

    Unbiased for the chance that one of k independent attempts succeeds (Chen et al.,
    arXiv:2107.03374, eq. 1).
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise UsageError(f"at k: {c} successes of {n}, k = {k}; wanted 0 <= c <= n and 1 <= k <= n")
    return 1 - comb(n - c, k) / comb(n, k)


def at_k(items: Mapping[str, Sequence[Outcome]], k: int) -> AtK:
    """The mean of `any_of_k` over items with their attempts' outcomes.

    The interval is a bootstrap over clusters; where all clusters agree, Wilson over their number.
    """
    values, clusters = [], []
    for attempts in items.values():
        told = [attempt.happened for attempt in attempts if attempt.happened is not None]
        if len(told) >= k:
            values.append([any_of_k(len(told), sum(told), k), 1.0])
            clusters.append(attempts[0].cluster)
    if not values:
        return AtK(k, None, None, "none", len(items), 0, 0)
    rows_C2 = clustered(np.array(values), clusters)
    found = estimate(rows_C2, _mean, len(values))
    value, interval, method = found.value or 0.0, found.ci95, found.method
    if interval is None:
        interval = wilson(value * found.clusters, found.clusters)
        method = "wilson over clusters"
    return AtK(k, value, interval, method, len(items), len(values), found.clusters)


def _mean(rows_R2: Counts) -> Counts:
    return ratio(rows_R2[:, 0], rows_R2[:, 1])


def ladder(n: int) -> list[int]:
    """The k that are told of n attempts: powers of two, and n."""
    return sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n})
