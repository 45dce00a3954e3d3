"""What every measure of likeness answers: the cosine of each text with each, and the default."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import fmean

Matrix = Sequence[Sequence[float]]
Similarity = Callable[[Sequence[str]], Matrix]
"""From texts to their cosine similarities, symmetric, 1 on the diagonal."""


def bag_of_words(texts: Sequence[str]) -> Matrix:
    """Cosines of word counts, 0 to 1; words are what white space parts."""
    return _bag_of_words(tuple(texts))


@lru_cache(256)  # a round asks twice: for the diversity it logs, and for the one it rewards
def _bag_of_words(texts: tuple[str, ...]) -> Matrix:
    bags = [Counter(text.split()) for text in texts]
    squares = [sum(n * n for n in bag.values()) for bag in bags]
    told = [[1.0] * len(bags) for _ in bags]
    for i, one in enumerate(bags):
        for j in range(i):
            told[i][j] = told[j][i] = _cosine(one, bags[j], squares[i] * squares[j])
    return told


def distinctness(texts: Sequence[str], similarity: Similarity = bag_of_words) -> list[float]:
    """1 − the mean similarity of each text to the others; 0 for a single one."""
    if len(texts) < 2:
        return [0.0] * len(texts)
    return [
        1 - fmean(value for j, value in enumerate(row) if j != i)
        for i, row in enumerate(similarity(texts))
    ]


def _cosine(a: Counter[str], b: Counter[str], norms: int) -> float:
    """`norms` is the product of both squared lengths; texts without words are alike."""
    get = b.get  # a Counter answers for what it lacks in Python
    dot = sum([n * get(word, 0) for word, n in a.items()])
    return dot / math.sqrt(norms) if dot else float(a == b)
