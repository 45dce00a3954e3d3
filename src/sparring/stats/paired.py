"""Two runs on the same items: the difference of their rates, item by item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from sparring.stats.rates import Interval, Outcome, estimate, grouped, quotient, wilson
from sparring.types import UsageError

Pair = tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class Paired:
    """The second rate minus the first (`difference`), with its 95 % interval.

    `p` is the two-sided p-value of "the runs may be exchanged within each cluster". `only_a` and
    `only_b` count the pairs in which it happened in one run alone. Pairs with an unscored side are
    left out and counted. Without a scored pair there is no number.
    """

    n: int
    unscored: int
    clusters: int
    only_a: int
    only_b: int
    rate_a: float | None
    rate_b: float | None
    difference: float | None
    ci95: Interval | None
    p: float | None
    method: str

    def __str__(self) -> str:
        if self.difference is None or self.ci95 is None or self.p is None:
            return f"unscored (n={self.n + self.unscored})"
        low, high = self.ci95
        return f"{self.difference:+.3f} [{low:+.3f}, {high:+.3f}] p={self.p:.3g} n={self.n}"


def compare(a: Mapping[Any, Outcome], b: Mapping[Any, Outcome]) -> Paired:
    """Return the paired difference of two runs whose items go by the same keys.

    Where each item is its own cluster: McNemar's exact test and Newcombe's interval. Else the test
    flips the signs of whole clusters and the interval is a bootstrap over clusters; where all
    clusters show the same difference, which resampling would take for certainty, Newcombe's
    interval over the number of clusters stands in. UsageError if keys or clusters do not match.
    """
    _check(a, b)
    clusters = grouped(
        (x.cluster, (x.happened, y.happened))
        for x, y in ((x, b[key]) for key, x in a.items())
        if x.happened is not None and y.happened is not None
    )
    pairs = [pair for cluster in clusters.values() for pair in cluster]
    n, unscored = len(pairs), len(a) - len(pairs)
    if not n:
        return Paired(0, unscored, 0, 0, 0, None, None, None, None, None, "none")
    changes = [sum(y - x for x, y in cluster) for cluster in clusters.values()]
    method, interval = _interval(list(clusters.values()), changes)
    return Paired(
        n=n,
        unscored=unscored,
        clusters=len(clusters),
        only_a=pairs.count((True, False)),
        only_b=pairs.count((False, True)),
        rate_a=sum(x for x, _ in pairs) / n,
        rate_b=sum(y for _, y in pairs) / n,
        difference=sum(changes) / n,
        ci95=interval,
        p=sign_flip(changes),
        method=method,
    )


def _check(a: Mapping[Any, Outcome], b: Mapping[Any, Outcome]) -> None:
    only_a, only_b = a.keys() - b.keys(), b.keys() - a.keys()
    if only_a or only_b:
        raise UsageError(
            f"compare: {len(only_a)} items are only in the first run and {len(only_b)} only in the "
            f"second, such as {min(only_a | only_b)!r:.60}; wanted the same items in both "
            f"({len(a.keys() & b.keys())} are)"
        )
    moved = [key for key in a if a[key].cluster != b[key].cluster]
    if moved:
        raise UsageError(
            f"compare: {len(moved)} items belong to another cluster in the second run, such as "
            f"{moved[0]!r:.60}; wanted the same clusters in both"
        )


def _interval(clusters: Sequence[Sequence[Pair]], changes: Sequence[int]) -> tuple[str, Interval]:
    pairs = [pair for cluster in clusters for pair in cluster]
    if len(clusters) == len(pairs):
        return "exact McNemar, Newcombe interval", newcombe(pairs, len(pairs))
    rows_C2 = np.array([changes, [len(cluster) for cluster in clusters]]).T
    mean = estimate(rows_C2, quotient, len(pairs))
    if mean.value is None or mean.ci95 is None:  # every cluster shows the same difference
        return "cluster sign flips, Newcombe over clusters", newcombe(pairs, len(clusters))
    # A first difference makes nothing more certain than none at all in that many clusters.
    least = newcombe([(x, x) for pair in pairs for x in pair], len(clusters))[1]
    low, high = min(mean.ci95[0], mean.value - least), max(mean.ci95[1], mean.value + least)
    return "cluster sign flips, cluster bootstrap", (max(-1.0, low), min(1.0, high))


def sign_flip(changes: Sequence[int]) -> float:
    """Return P(|Σ ±d| >= |Σ d|) with fair, independent signs: the test of no difference.

    `changes` are whole clusters' sums of (second − first). Exact for any number of clusters: the
    sums are whole numbers, so their distribution is a convolution and needs no enumeration. With
    changes of −1, 0 and 1 alone it is McNemar's exact conditional test.
    """
    chance_S = np.ones(1)
    for size in (abs(change) for change in changes if change):
        step = np.zeros(2 * size + 1)
        step[0] = step[-1] = 0.5
        chance_S = np.convolve(chance_S, step)
    sums_S = np.arange(len(chance_S)) - len(chance_S) // 2
    return min(1.0, float(chance_S[np.abs(sums_S) >= abs(sum(changes))].sum()))


def newcombe(pairs: Sequence[Pair], n: int) -> Interval:
    """Return the 95 % interval of the second rate minus the first, as if the pairs were `n` pairs.

    Newcombe, Statistics in Medicine 17, 1998, 2635-2650, method 10: Wilson limits l, u of both
    rates combined by their correlation φ. Never a point, also without discordant pairs.
    """
    scale = n / len(pairs)
    both, first, second = (
        scale * pairs.count(kind) for kind in ((True, True), (True, False), (False, True))
    )
    neither = n - both - first - second
    p, q = (both + first) / n, (both + second) / n
    (l_p, u_p), (l_q, u_q) = wilson(p * n, n), wilson(q * n, n)
    phi = _correlation(both, first, second, neither)
    down = (q - l_q, u_p - p)
    up = (u_q - q, p - l_p)
    below, above = (sqrt(x * x - 2 * phi * x * y + y * y) for x, y in (down, up))
    return max(-1.0, q - p - below), min(1.0, q - p + above)


def _correlation(both: float, first: float, second: float, neither: float) -> float:
    """Return φ of a 2 x 2 table, drawn towards 0 where it is positive (Newcombe's correction)."""
    n = both + first + second + neither
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if margins <= 0:
        return 0.0
    cross = both * neither - first * second
    return (max(cross - n / 2, 0.0) if cross > 0 else cross) / sqrt(margins)
