"""Numbers out of other people's JSON: what is not one is absent, and never taken for 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Rated:
    """A rate as it was written: its value and 95 % interval (None: unscored), n, and causes.

    `bounds` counts all unscored items once one way and once the other.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    total: int
    unscored: Mapping[str, int] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None


def number(told: Any) -> float | None:
    """`told` as a finite float; None where it is anything else."""
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    try:
        value = float(told)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def whole(told: Any) -> int:
    """`told` as a count; 0 where it is none."""
    value = number(told)
    return int(value) if value is not None and value >= 0 else 0


def mapping(told: Any) -> Mapping[str, Any]:
    """`told` where it has names and values, else nothing."""
    return told if isinstance(told, Mapping) else {}


def listed(told: Any) -> list[Any]:
    """`told` where it is a list, else nothing."""
    return told if isinstance(told, list) else []


def rated(told: Any) -> Rated | None:
    """A rate as `Rate.to_json` wrote it; None where there is none."""
    if not isinstance(told, Mapping):
        return None
    value, interval = number(told.get("value")), _pair(told.get("ci95"))
    low, high = interval or (None, None)
    n = whole(told.get("n_scored"))
    causes = {str(k): whole(v) for k, v in mapping(told.get("unscored")).items() if whole(v)}
    total = max(n, whole(told.get("n_total")))
    return Rated(value, low, high, n, total, causes, _pair(told.get("bounds")))


def _pair(told: Any) -> tuple[float, float] | None:
    """Two numbers; None where there are not exactly two."""
    values = [value for value in map(number, listed(told)) if value is not None]
    return (values[0], values[1]) if len(values) == len(listed(told)) == 2 else None


def rates(told: Any) -> dict[str, Rated]:
    """Every rate by `metric/set`."""
    found = {str(key): rated(value) for key, value in mapping(told).items()}
    return {key: value for key, value in found.items() if value is not None}
