"""Counts of what a file holds: labels, repeats, clusters and categories, but no request."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparring.data.readers import stream
from sparring.types import UsageError

_MOST_CATEGORIES = 10_000
_OTHER = "…"


@dataclass(frozen=True, slots=True)
class Tally:
    """The counts of one file.

    `repeated_ids` and `repeated_prompts` count rows beyond the first of each, `clusters` counts
    distinct ones, `left_out` is by reason, and `longest` is in characters.
    """

    schema: str
    note: str
    seeds: int
    harmful: int
    with_goal: int
    repeated_ids: int
    repeated_prompts: int
    clusters: int
    largest_cluster: int
    longest: int
    categories: Mapping[str, int]
    left_out: Mapping[str, int]

    @property
    def benign(self) -> int:
        """The number of seeds that are not harmful."""
        return self.seeds - self.harmful

    def to_json(self) -> dict[str, Any]:
        """The counts by name."""
        return asdict(self) | {"benign": self.benign}


def tally(path: Path | str, columns: Mapping[str, str] | None = None) -> Tally:
    """Read all of a file, keeping 24 bytes a row; UsageError names the file and the line."""
    source = stream(path, columns)
    ids, texts, groups = (array("Q") for _ in range(3))
    counts: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    longest = 0
    for seed in source.seeds:
        ids.append(_short(seed.id))
        texts.append(_short(seed.text))
        groups.append(_short(seed.cluster_key))
        counts["harmful"] += seed.harmful
        counts["goal"] += bool(seed.goal)
        known = seed.category in categories or len(categories) < _MOST_CATEGORIES
        categories[seed.category if known else _OTHER] += 1
        longest = max(longest, len(seed.text))
    if not ids:
        raise UsageError(f"{path}: no usable rows ({dict(source.left_out)})")
    sizes = _sizes(groups)
    return Tally(
        schema=source.schema.name,
        note=source.schema.note,
        seeds=len(ids),
        harmful=counts["harmful"],
        with_goal=counts["goal"],
        repeated_ids=len(ids) - len(_sizes(ids)),
        repeated_prompts=len(texts) - len(_sizes(texts)),
        clusters=len(sizes),
        largest_cluster=max(sizes),
        longest=longest,
        categories=dict(categories.most_common()),
        left_out=dict(source.left_out),
    )


def _short(text: str) -> int:
    """64 bits of a digest: two of a million texts share one with a chance of 3e-8."""
    raw = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(raw, "little")


def _sizes(names: array[int]) -> list[int]:
    """How often each name occurs."""
    import numpy as np

    sizes: list[int] = np.unique(np.asarray(names), return_counts=True)[1].tolist()
    return sizes
