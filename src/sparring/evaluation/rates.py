"""A rate is never a bare number: n, an interval and how, what was unscored, and the bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np
from scipy.stats import norm

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
