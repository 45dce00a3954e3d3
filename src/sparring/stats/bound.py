"""An upper confidence limit on how often a defender fails under a stated attack distribution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, t

from sparring.stats.rates import Counts, Outcome, grouped
from sparring.types import UsageError

METHOD = (
    "one-sided Clopper-Pearson limits with an effective n by cluster (Korn and Graubard 1998), "
    "Bonferroni over the families; what could not be scored counts as a failure"
)
CAVEAT = (
    "Every limit is about prompts drawn as this family's were, on seeds drawn as these were, ruled "
    "by this judge. It says nothing about any other prompt, and nothing about the judge's errors: "
    "a prompt outside the stated distribution may fail always. An attacker that adapts to this "
    "defender draws from another distribution."
)


@dataclass(frozen=True, slots=True)
class Limit:
    """The `upper` limit of one attack family, with `failures` of `n` items behind it.

    The `unscored` items count among the failures. `effective_n` is how many independent items the
    n are worth.
    """

    n: int
    failures: int
    unscored: int
    clusters: int
    effective_n: float
    upper: float


@dataclass(frozen=True, slots=True)
class Bound:
    """Limits that hold for all families at once with probability `confidence`.

    `upper`, the largest of them, holds for every mixture of the families.
    """

    families: Mapping[str, Limit]
    confidence: float
    method: str
    caveat: str
    upper: float


def bound(outcomes_by_family: Mapping[str, Sequence[Outcome]], confidence: float = 0.95) -> Bound:
    """Return limits on the chance that the defender fails (`happened`), by attack family.

    Bonferroni: each of k limits has confidence 1 − (1 − confidence) / k. A family without items
    keeps the limit 1. UsageError without families, or at a confidence below one half.
    """
    if not outcomes_by_family:
        raise UsageError("bound: no attack families; wanted at least one with its outcomes")
    if not 0.5 < confidence < 1:
        raise UsageError(f"bound: confidence is {confidence}; wanted more than 0.5, less than 1")
    alpha = (1 - confidence) / len(outcomes_by_family)
    limits = {name: _limit(outcomes, alpha) for name, outcomes in outcomes_by_family.items()}
    upper = max(limit.upper for limit in limits.values())
    return Bound(limits, confidence, METHOD, CAVEAT, upper)


def clopper_pearson_upper(failures: float, n: float, alpha: float) -> float:
    """Return the p at which `failures` or fewer of n have probability alpha; 1 if all failed.

    B⁻¹(1 − alpha; failures + 1, n − failures) (Clopper and Pearson 1934), so counts need not be
    whole.
    """
    return 1.0 if failures >= n else float(beta.ppf(1 - alpha, failures + 1, n - failures))


def _limit(outcomes: Sequence[Outcome], alpha: float) -> Limit:
    clusters = grouped((o.cluster, o.happened is not False) for o in outcomes).values()
    n, unscored = len(outcomes), sum(o.happened is None for o in outcomes)
    failures = sum(map(sum, clusters))
    if not n:
        return Limit(0, 0, 0, 0, 0.0, 1.0)
    failures_C, sizes_C = np.array([(sum(of), len(of)) for of in clusters], dtype=float).T
    worth = effective_n(failures_C, sizes_C, alpha)
    # Where failures are few their correlation cannot be estimated: a first failure would turn
    # "as many items as clusters" into "as many as items", and lower the limit.
    least = clopper_pearson_upper(0, len(clusters), alpha)
    upper = max(least, clopper_pearson_upper(failures / n * worth, worth, alpha))
    return Limit(n, failures, unscored, len(clusters), worth, upper)


def effective_n(failures_C: Counts, sizes_C: Counts, alpha: float) -> float:
    """Return how many independent items the clustered ones are worth, at most n = Σ sizes.

    n / deff · (t(n − 1) / t(C − 1))², with t the 1 − alpha quantile at those degrees of freedom,
    because deff is itself an estimate from C clusters (Korn and Graubard, Survey Methodology 24,
    1998, 193-201). deff = 1 + (Σm² / n − 1) ρ for cluster sizes m (Kish, Survey Sampling, 1965),
    ρ the one-way ANOVA estimate of the intra-cluster correlation, cut to [0, 1] (Donner,
    International Statistical Review 54, 1986, 67-82). Where all outcomes are equal ρ cannot be
    estimated, and every cluster counts once.
    """
    n, clusters, failures = float(sizes_C.sum()), len(sizes_C), failures_C.sum()
    if failures in (0, n) or clusters in (1, n):
        return float(clusters)
    share_C = failures_C / sizes_C
    between = (sizes_C * (share_C - failures / n) ** 2).sum() / (clusters - 1)
    within = (sizes_C * share_C * (1 - share_C)).sum() / (n - clusters)
    mean_square = (sizes_C**2).sum() / n
    typical = (n - mean_square) / (clusters - 1)
    rho = (between - within) / (between + (typical - 1) * within)
    deff = 1 + (mean_square - 1) * min(1.0, max(0.0, rho))
    shrinkage = (t.ppf(1 - alpha, n - 1) / t.ppf(1 - alpha, clusters - 1)) ** 2
    return float(n / deff * shrinkage)
