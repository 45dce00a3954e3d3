"""BLEU of one text against several, small and without a library."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

ORDER = 4
SMOOTH = 0.1


def bleu(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4, 0 to 1 (Papineni et al. 2002): BP · (Π p_n)^(1/N), n = 1 … N.

    p_n is the clipped n-gram precision. Where no n-gram matches the count is 0.1 instead of 0
    (Chen and Cherry 2014, method 1), but without one word in common BLEU is 0. N is 4, or the
    number of words if smaller, so that a short text is like its copy. BP = min(1, exp(1 − r / c))
    with c words and r the nearest length of a reference, of two equally near the shorter.
    """
    length = len(words)
    if not set(words) & {word for reference in references for word in reference}:
        return 0.0
    orders = range(1, min(ORDER, length) + 1)
    logs = [math.log(_precision(words, references, n)) for n in orders]
    nearest = min((abs(len(r) - length), len(r)) for r in references)[1]
    return math.exp(min(0.0, 1 - nearest / length) + sum(logs) / len(logs))


def _precision(words: Sequence[str], references: Sequence[Sequence[str]], n: int) -> float:
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= _grams(reference, n)
    grams = _grams(words, n)
    return (sum((grams & most).values()) or SMOOTH) / grams.total()


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
