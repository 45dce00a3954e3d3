"""Which of many rates is read first: the one pooled over attack families, where there is one."""

from __future__ import annotations

from collections.abc import Iterable

POOLED = ("adversarial", "wrapped", "rewritten")
"""Sets that stand for others, in the order in which they are preferred."""


def families(keys: Iterable[str], metric: str) -> list[str]:
    """The sets that a metric was measured on, pooled ones first."""
    names = [key.split("/", 1)[1] for key in keys if key.startswith(f"{metric}/")]
    return sorted(names, key=lambda name: name not in POOLED)


def headline_key(keys: Iterable[str], metric: str) -> str | None:
    """The rate that stands for a metric; None where it was not measured."""
    names = families(keys, metric)
    if not names:
        return None
    pooled = [name for name in POOLED if name in names]
    other = [name for name in names if name != "plain"]
    return f"{metric}/{(pooled or other or names)[0]}"
