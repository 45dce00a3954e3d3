"""BLEU of each of several texts against the others, small and without a library."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

ORDER = 4
SMOOTH = 0.1
Grams = Sequence[Counter[tuple[str, ...]]]
"""How often each n-gram of a text occurs, for n = 1 … 4."""


def grams(text: str) -> Grams:
    """The n-grams of a text's words, which are what white space parts."""
    words = text.split()
    return [Counter(zip(*(words[i:] for i in range(n)), strict=False)) for n in range(1, ORDER + 1)]


def bleus(texts: Sequence[str]) -> list[float]:
    """BLEU-4 of each text, 0 to 1, the others being its references; at least two texts.

    BP · (Π p_n)^(1/N), n = 1 … N (Papineni et al. 2002): p_n is the clipped n-gram precision.
    Where no n-gram matches the count is 0.1 instead of 0 (Chen and Cherry 2014, method 1), but
    without one word in common BLEU is 0. N is 4, or the number of words if smaller, so that a
    short text is like its copy. BP = min(1, exp(1 − r / c)) with c words and r the nearest length
    of a reference, of two equally near the shorter.
    """
    told = [grams(text) for text in texts]
    matched = [_matched([text[n] for text in told]) for n in range(ORDER)]
    lengths = [text[0].total() for text in told]
    return [
        _bleu(text, [column[i] for column in matched], [*lengths[:i], *lengths[i + 1 :]])
        for i, text in enumerate(told)
    ]


def _bleu(text: Grams, matched: Sequence[int], lengths: Sequence[int]) -> float:
    if not matched[0]:
        return 0.0
    length = text[0].total()
    orders = range(min(ORDER, length))
    logs = [math.log((matched[n] or SMOOTH) / text[n].total()) for n in orders]
    nearest = min((abs(words - length), words) for words in lengths)[1]
    return math.exp(min(0.0, 1 - nearest / length) + sum(logs) / len(logs))


def _matched(texts: Sequence[Counter[tuple[str, ...]]]) -> list[int]:
    """How many of each text's n-grams others have too, each at most as often as one of them has it.

    All but what the one that has an n-gram most often has beyond the next: one pass over all texts
    instead of one for each.
    """
    most: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, counts in enumerate(texts):
        for gram, n in counts.items():
            first, owner, second = most.get(gram, (0, i, 0))
            if n > first:
                most[gram] = (n, i, first)
            elif n > second:
                most[gram] = (first, owner, n)
    matched = [counts.total() for counts in texts]
    for first, owner, second in most.values():
        matched[owner] -= first - second
    return matched
