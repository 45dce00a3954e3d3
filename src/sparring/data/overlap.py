"""Which prompts overlap with training seeds: word for word, but for their form, or nearly."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_array

from sparring.data.splits import plain
from sparring.types import Seed

KINDS = ("exact", "normalised", "near")
"""Ways to overlap, the closest first: the same text, the same by `plain`, a near-duplicate."""
_GRAM = 5
_ALIKE, _CONTAINED = 0.5, 0.9
_LEAST = 15
"""N-grams of the shortest text that may be found inside another; less is a common phrase."""
_ROWS = 200
"""Prompts that are compared at a time with all training seeds, which bounds the memory."""


def overlap(prompts: Sequence[Seed], training: Sequence[Seed]) -> list[str]:
    """Return the kind of each prompt's closest overlap with a training seed; '' where none is.

    Texts and goals are compared. Near-duplicates have the same label: of a matched pair, such as
    "open the vault of dreams" and "open the vault of the queen", one half teaches nothing about
    the other. They share half of all their n-grams of characters, or one holds nine tenths of the
    other's.
    """
    exact = _texts(training)
    normalised = {plain(text) for text in exact}
    near: set[str] = set()
    for label in (True, False):
        halves = ([s for s in seeds if s.harmful is label] for seeds in (prompts, training))
        near |= _near(*(sorted(_texts(half)) for half in halves))
    kinds = []
    for prompt in prompts:
        texts = _texts([prompt])
        matches = texts & exact, {*map(plain, texts)} & normalised, texts & near
        kinds.append(next((k for k, match in zip(KINDS, matches, strict=True) if match), ""))
    return kinds


def counted(kinds: Sequence[str]) -> dict[str, int]:
    """Return how many prompts there are, and how many overlap in each way."""
    counts = Counter(kinds)
    return {"prompts": len(kinds), **{kind: counts[kind] for kind in KINDS}}


def described(counts: Mapping[str, int]) -> str:
    """Return the numbers of `counted` as a person reads them."""
    prompts, *in_training = (f"{n} {name}" for name, n in counts.items())
    return f"{prompts}, in training: {', '.join(in_training)}"


def _texts(seeds: Sequence[Seed]) -> set[str]:
    return {text for seed in seeds for text in (seed.text, seed.goal)} - {""}


def _near(texts: Sequence[str], training: Sequence[str]) -> set[str]:
    """The texts that are nearly a training text.

    A sparse product counts the shared n-grams of all pairs, so only pairs that share one cost time.
    """
    columns: dict[str, int] = defaultdict(lambda: len(columns))
    grams, ends = array("i"), [0]
    for text in (*texts, *training):
        padded = f" {plain(text)} "
        grams.extend(
            {columns[padded[i : i + _GRAM]] for i in range(max(1, len(padded) + 1 - _GRAM))}
        )
        ends.append(len(grams))
    table = (np.ones(len(grams), np.int32), np.array(grams), np.array(ends, np.int32))
    has_NG = csr_array(table, shape=(len(ends) - 1, len(columns)))
    sizes_N, training_GM = np.diff(ends), has_NG[len(texts) :].T.tocsr()
    near: set[str] = set()
    for start in range(0, len(texts), _ROWS):
        pairs = (has_NG[start : min(start + _ROWS, len(texts))] @ training_GM).tocoo()
        shared, size = pairs.data, sizes_N[start + pairs.row]
        other = sizes_N[len(texts) + pairs.col]
        shorter = np.minimum(size, other)
        contained = (shared >= _CONTAINED * shorter) & (shorter >= _LEAST)
        alike = shared >= _ALIKE * (size + other - shared)
        near |= {texts[start + row] for row in pairs.row[alike | contained]}
    return near
