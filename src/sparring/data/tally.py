"""Counts of what a file holds: labels, repeats, clusters and categories, but no request."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparring.data.readers import seed_rows, summary
from sparring.data.splits import plain

_MOST_CATEGORIES = 10_000
_OTHER = "…"


@dataclass(frozen=True, slots=True)
class Tally:
    """The counts of one file.

    `repeated_ids` and `repeated_prompts` count rows beyond the first of each, `contradicting` the
    prompts that have both labels, `clusters` distinct ones; prompts that `plain` makes the same are
    one. `left_out` is by reason, and `longest` is in characters.
    """

    schema: str
    note: str
    seeds: int
    harmful: int
    with_goal: int
    repeated_ids: int
    repeated_prompts: int
    contradicting: int
    clusters: int
    largest_cluster: int
    longest: int
    categories: Mapping[str, int]
    left_out: Mapping[str, int]
    benign: int


def tally(path: Path | str, columns: Mapping[str, str] | None = None) -> Tally:
    """Read all of a file, keeping 32 bytes a row; UsageError names the file and the line."""
    schema, rows, left_out = seed_rows(path, columns)
    keys = array("Q")  # of each row the id, the text, the cluster and the label, as digests
    categories: Counter[str] = Counter()
    harmful = with_goal = longest = 0
    for *_, seed in rows:
        text = plain(seed.text)
        keys.extend(map(_short, (seed.id, text, seed.cluster_key, f"{seed.harmful} {text}")))
        harmful += seed.harmful
        with_goal += bool(seed.goal)
        known = seed.category in categories or len(categories) < _MOST_CATEGORIES
        categories[seed.category if known else _OTHER] += 1
        longest = max(longest, len(seed.text))
    summary(path, schema.name, len(keys) // 4, "seeds", left_out)
    columns_4N = np.asarray(keys).reshape(-1, 4).T
    ids, texts, clusters, labels = (np.unique(key, return_counts=True)[1] for key in columns_4N)
    seeds = categories.total()
    return Tally(
        schema=schema.name,
        note=schema.note,
        seeds=seeds,
        harmful=harmful,
        with_goal=with_goal,
        repeated_ids=seeds - len(ids),
        repeated_prompts=seeds - len(texts),
        contradicting=len(labels) - len(texts),
        clusters=len(clusters),
        largest_cluster=int(clusters.max()),
        longest=longest,
        categories=dict(categories.most_common()),
        left_out=dict(left_out),
        benign=seeds - harmful,
    )


def _short(text: str) -> int:
    """64 bits of a digest: two of a million texts share one with a chance of 3e-8."""
    raw = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(raw, "little")
