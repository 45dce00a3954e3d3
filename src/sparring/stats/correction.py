"""What a rate would be if its judge made no errors, from how often people say it errs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

from scipy.stats import norm

from sparring.stats.rates import Rate

Z = float(norm.ppf(0.975))
METHOD = "Rogan-Gladen, Lang-Reiczigel interval"
TRANSFER = (
    "A corrected rate holds as far as the judge errs here as often as on the replies it was "
    "calibrated on."
)
"""What every corrected rate must say beside itself."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """A rate without its judge's errors, with its 95 % interval, beside the raw one.

    `value` and `ci95` are None where the correction cannot be made; `why` says why.
    """

    raw: Rate
    value: float | None
    ci95: tuple[float, float] | None
    method: str = METHOD
    why: str = ""

    def __str__(self) -> str:
        if self.value is None or self.ci95 is None:
            return f"not corrected: {self.why}"
        return f"{self.value:.3f} [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def corrected(rate: Rate, sensitivity: Rate, specificity: Rate) -> Corrected:
    """`rate` as it would be without errors: p = (p_obs + Sp − 1) / (Se + Sp − 1), within [0, 1].

    Rogan and Gladen, Am. J. Epidemiology 107, 1978, 71-76. The interval carries the uncertainty
    of all three (`lang_reiczigel`). Clustered rates count as the number of independent items
    that would have given their interval. Not corrected where the judge was not measured, where
    it cannot be told from a coin (Se + Sp = 1), or where the rate is one its errors rule out.
    """
    if rate.value is None:
        return Corrected(rate, None, None, why="nothing was scored")
    if sensitivity.value is None or specificity.value is None:
        return Corrected(rate, None, None, why="people labelled no item of one of the two kinds")
    youden = sensitivity.value + specificity.value - 1
    interval = lang_reiczigel(
        (rate.value, effective_n(rate)),
        (sensitivity.value, effective_n(sensitivity)),
        (specificity.value, effective_n(specificity)),
    )
    if youden <= 0 or interval is None:
        why = f"sensitivity + specificity is {youden + 1:.3f}, which cannot be told from a coin's 1"
        return Corrected(rate, None, None, why=why)
    low, high = interval
    if high < 0 or low > 1:
        why = "the raw rate is one that a judge with these errors would not give"
        return Corrected(rate, None, None, why=why)
    value = (rate.value + specificity.value - 1) / youden
    return Corrected(rate, _share(value), (_share(low), _share(high)))


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


def effective_n(rate: Rate) -> float:
    """How many independent items would give the rate's interval; at most those it has."""
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
) -> tuple[float, float] | None:
    """95 % limits of the corrected rate, not clipped; each argument is (share, n).

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
    """A share and its n with `more` observations joined, half of them successes."""
    return (n * share + more / 2) / (n + more), n + more
