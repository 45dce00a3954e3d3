"""A rate is never a bare number: n, an interval and how, what was unscored, and the bounds."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import comb, sqrt
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from sparring.types import UsageError

Z = float(norm.ppf(0.975))
"""Standard deviations on either side of a normal mean that hold 95 % of it."""
RESAMPLES = 10_000
_DEFINED = 0.95
"""The share of resamples that must define the statistic for their quantiles to be an interval."""
Interval = tuple[float, float]
Counts = NDArray[np.float64]
Statistic = Callable[[Counts], Counts]
"""Turns the counts_RK of R samples into R numbers; NaN where a sample does not define one."""
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item, and the cluster it belongs to.

    `happened` is None where the item is unscored; `cause` says why. Items of one `cluster` are not
    independent of each other, so intervals count the cluster and not the item.
    """

    happened: bool | None
    cluster: str
    cause: str = "ok"


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of the scored items with its 95 % interval.

    `bounds` counts all unscored items once as failures and once as successes (0 and 1 of ASR@k).
    `value` and `ci95` are None when nothing was scored.
    """

    value: float | None
    ci95: Interval | None
    method: str
    n_total: int
    n_scored: int
    clusters: int
    bounds: Interval
    unscored: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.value is None or self.ci95 is None:
            return f"unscored (n={self.n_total})"
        return f"{self.value:.3f} [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}] n={self.n_scored}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic other than a share, with its 95 % interval; None where no item defines one.

    `n` counts the items it rests on, `clusters` what was resampled. Without spread among the
    clusters there is no interval: resampling would take agreement for certainty.
    """

    value: float | None
    ci95: Interval | None
    method: str
    n: int
    clusters: int

    def __str__(self) -> str:
        if self.value is None:
            return f"undefined (n={self.n})"
        within = "[no interval]" if self.ci95 is None else "[{:.3f}, {:.3f}]".format(*self.ci95)
        return f"{self.value:.3f} {within} n={self.n}"


def wilson(successes: float, n: int) -> Interval:
    """Return the 95 % Wilson score interval; `successes` may be an effective count, not whole."""
    p = successes / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return (max(0.0, centre - half), min(1.0, centre + half))


def grouped(items: Iterable[tuple[Key, Item]]) -> dict[Key, list[Item]]:
    """Collect (key, item) pairs into lists by key, in the order of their first items."""
    groups: dict[Key, list[Item]] = {}
    for key, item in items:
        groups.setdefault(key, []).append(item)
    return groups


def rate(outcomes: Sequence[Outcome]) -> Rate:
    """Return the rate of `happened`, with the interval that the data call for.

    Wilson's where every cluster occurs once, else the cluster bootstrap. Where all clusters have
    the same rate the bootstrap would say [0, 0] or [1, 1]; there Wilson's over the number of
    clusters stands in. The bootstrap's ends are never nearer to the middle than Wilson's at no
    success, or at no failure, in that many clusters: a first failure makes nothing more certain.
    """
    clusters = grouped((o.cluster, o.happened) for o in outcomes if o.happened is not None)
    causes = Counter(o.cause for o in outcomes if o.happened is None)
    rows_C2 = np.array([(sum(hits), len(hits)) for hits in clusters.values()])
    hits, n = (int(count) for count in rows_C2.sum(0)) if clusters else (0, 0)
    total = len(outcomes)
    bounds = (hits / total, (hits + total - n) / total) if total else (0.0, 1.0)
    if not n:
        return Rate(None, None, "none", total, 0, 0, bounds, dict(causes))
    alone = len(clusters) == n
    method, interval = ("wilson", wilson(hits, n)) if alone else _clustered_interval(rows_C2, n)
    return Rate(hits / n, interval, method, total, n, len(clusters), bounds, dict(causes))


def _clustered_interval(rows_C2: Counts, n: int) -> tuple[str, Interval]:
    """The method and the interval of Σ rows[:, 0] ÷ Σ rows[:, 1], each row being a cluster."""
    mean = estimate(rows_C2, quotient, n)
    if mean.value is not None and mean.ci95 is None:
        return "wilson over clusters", wilson(mean.value * mean.clusters, mean.clusters)
    low, high = mean.ci95 or (0.0, 1.0)
    most, least = wilson(mean.clusters, mean.clusters)[0], wilson(0, mean.clusters)[1]
    return mean.method, (min(low, most), max(high, least))


def estimate(rows_CK: Counts, statistic: Statistic, n: int, seed: int = 0) -> Estimate:
    """Return `statistic` of all rows together, with a percentile bootstrap over the rows.

    Each row holds the K counts of one cluster; the draws depend on `seed` alone. Clusters with the
    same counts are exchangeable, so how often each of the J kinds is drawn is multinomial: 10,000
    resamples cost the number of kinds, not of clusters.
    """
    rows_CK = np.asarray(rows_CK, dtype=float)
    if not rows_CK.size:
        return Estimate(None, None, "none", 0, 0)
    # In the order of their first rows: rows of the other sign then have the same draws.
    kinds = Counter(map(tuple, rows_CK.tolist()))
    kinds_JK, times_J = np.array(list(kinds)), np.array(list(kinds.values()))
    clusters = len(rows_CK)
    value = float(statistic((times_J @ kinds_JK)[None])[0])
    if np.isnan(value):
        return Estimate(None, None, "none", n, clusters)
    rng = np.random.default_rng(seed)
    values_R = statistic(rng.multinomial(clusters, times_J / clusters, RESAMPLES) @ kinds_JK)
    values_R = values_R[~np.isnan(values_R)]
    if len(values_R) < _DEFINED * RESAMPLES:
        return Estimate(value, None, "undefined in too many resamples", n, clusters)
    if np.ptp(values_R) == 0:
        return Estimate(value, None, "no spread among clusters", n, clusters)
    low, high = np.quantile(values_R, [0.025, 0.975])
    return Estimate(value, (float(low), float(high)), "cluster bootstrap", n, clusters)


def clustered(rows_NK: Counts, clusters: Sequence[Hashable]) -> Counts:
    """Sum the rows of items by cluster."""
    rows = grouped(zip(clusters, rows_NK, strict=True)).values()
    return np.array([np.sum(of_cluster, axis=0) for of_cluster in rows])


def ratio(above_R: Counts, below_R: Counts) -> Counts:
    """Divide number by number; NaN where there is nothing below."""
    quotients_R: Counts = np.full(np.shape(above_R), np.nan)
    np.divide(above_R, below_R, out=quotients_R, where=below_R != 0)
    return quotients_R


def quotient(rows_R2: Counts) -> Counts:
    """Divide the first of two counts by the second: the statistic of a rate or of a mean."""
    return ratio(rows_R2[:, 0], rows_R2[:, 1])


def any_of_k(n: int, c: int, k: int) -> float:
    """Return 1 − C(n − c, k) / C(n, k): the chance that k of n attempts hold one of c successes.

    Unbiased for the chance that one of k independent attempts succeeds (Chen et al.,
    arXiv:2107.03374, eq. 1).
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise UsageError(f"at k: {c} successes of {n}, k = {k}; wanted 0 <= c <= n and 1 <= k <= n")
    return 1 - comb(n - c, k) / comb(n, k)


def at_k(items: Mapping[Any, Sequence[Outcome]], k: int) -> Rate:
    """Return the mean of `any_of_k` over items, of which each has the outcomes of its attempts.

    `n_total` counts items, `n_scored` those with at least k scored attempts. The interval is a
    bootstrap over clusters; where all clusters agree, Wilson's over their number.
    """
    values, clusters = [], []
    for attempts in items.values():
        scored = [(a.happened, a.cluster) for a in attempts if a.happened is not None]
        if len(scored) >= k:
            values.append([any_of_k(len(scored), sum(hit for hit, _ in scored), k), 1.0])
            clusters.append(scored[0][1])
    if not values:
        return Rate(None, None, "none", len(items), 0, 0, (0.0, 1.0))
    rows_C2 = clustered(np.array(values), clusters)
    method, interval = _clustered_interval(rows_C2, len(values))
    value = float(quotient(rows_C2.sum(0)[None])[0])
    return Rate(value, interval, method, len(items), len(values), len(rows_C2), (0.0, 1.0))


def ladder(n: int) -> list[int]:
    """Return the k that are reported of n attempts: the powers of two, and n itself."""
    return sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n})
