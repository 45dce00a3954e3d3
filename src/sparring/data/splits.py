"""Which seeds a round is played from: an equal mix of labels, every seed once an epoch."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sparring.types import Seed


def draw(seeds: Sequence[Seed], number: int, size: int, rng_seed: str) -> list[Seed]:
    """The seeds of round `number`: half harmful and half benign, if there are both.

    Each label is dealt like a deck that is shuffled again at every pass; a pure function of its
    arguments. An odd `size` gives harmful one more.
    """
    harmful = [seed for seed in seeds if seed.harmful]
    benign = [seed for seed in seeds if not seed.harmful]
    if not harmful or not benign:
        return _deal(harmful or benign, number * size, size, rng_seed)
    half = size // 2
    return [
        *_deal(harmful, number * (size - half), size - half, f"{rng_seed}/harmful"),
        *_deal(benign, number * half, half, f"{rng_seed}/benign"),
    ]


def _deal(deck: Sequence[Seed], start: int, size: int, rng_seed: str) -> list[Seed]:
    dealt: list[Seed] = []
    while len(dealt) < size:
        at = start + len(dealt)
        epoch, offset = divmod(at, len(deck))
        shuffled = random.Random(f"{rng_seed}/{epoch}").sample(deck, len(deck))
        dealt += shuffled[offset : offset + size - len(dealt)]
    return dealt


def hold_out(seeds: Sequence[Seed], share: float, rng_seed: str) -> tuple[list[Seed], list[Seed]]:
    """(training, held out): a share of each label, at least one; never the same text in both."""
    held: set[str] = set()
    for harmful in (True, False):
        texts = sorted({seed.text for seed in seeds if seed.harmful == harmful} - held)
        n = min(len(texts) - 1, max(1, round(share * len(texts))))
        held |= set(random.Random(f"{rng_seed}/{harmful}").sample(texts, max(0, n)))
    train = [seed for seed in seeds if seed.text not in held]
    return train, [seed for seed in seeds if seed.text in held]
