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


def hold_out(seeds: Sequence[Seed], share: float) -> tuple[list[Seed], list[Seed]]:
    """(training, held out): a share of each label's families, at least one.

    The same text, or a seed of the same cluster, is never in both. A function of the seeds alone:
    runs that differ in their random seed hold out the same, so that they can be compared, and
    what trains on one of them (`exploit`) is examined on what it never saw.
    """
    family = _families(seeds)
    held: set[str] = set()
    for harmful in (True, False):
        names = sorted({family[s.text] for s in seeds if s.harmful == harmful} - held)
        n = min(len(names) - 1, max(1, round(share * len(names))))
        held |= set(random.Random(f"holdout/{harmful}").sample(names, max(0, n)))
    train = [seed for seed in seeds if family[seed.text] not in held]
    return train, [seed for seed in seeds if family[seed.text] in held]


def _families(seeds: Sequence[Seed]) -> dict[str, str]:
    """By text, one text that stands for all it is linked to: by a cluster, or clusters in turn."""
    links: dict[str, set[str]] = {}
    for seed in seeds:
        linked = links.setdefault(f"text {seed.text}", set())
        if seed.cluster:
            linked.add(f"cluster {seed.cluster}")
            links.setdefault(f"cluster {seed.cluster}", set()).add(f"text {seed.text}")
    family: dict[str, str] = {}
    for text in sorted({seed.text for seed in seeds}):
        reached = [] if text in family else [f"text {text}"]
        while reached:
            name = reached.pop()
            reached += links.pop(name, ())
            if name.startswith("text "):
                family[name.removeprefix("text ")] = text
    return family


def without(seeds: Sequence[Seed], held: Sequence[Seed]) -> list[Seed]:
    """The seeds that share neither text nor cluster with those held out."""
    texts, clusters = {seed.text for seed in held}, {seed.cluster for seed in held} - {""}
    return [s for s in seeds if s.text not in texts and s.cluster not in clusters]
