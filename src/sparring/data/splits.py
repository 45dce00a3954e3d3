"""Which seeds a round is played from: a mix of both labels, every seed once an epoch."""

import random
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from math import floor

from sparring.types import Seed


def plain(text: str) -> str:
    """The request without case, punctuation, more than single spaces, and its Unicode form."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = unicodedata.normalize("NFKC", folded.translate(_unread())).split()
    return " ".join(words) or text


@cache
def _unread() -> Mapping[int, None]:
    """Punctuation, and characters that nobody sees."""
    kinds = ((code, unicodedata.category(chr(code))) for code in range(sys.maxunicode + 1))
    return {code: None for code, kind in kinds if kind[0] == "P" or kind == "Cf"}


def contradicting(seeds: Sequence[Seed]) -> int:
    """How many requests are labelled harmful in one place and benign in another."""
    labels = defaultdict[str, set[bool]](set)
    for seed in seeds:
        labels[plain(seed.text)].add(seed.harmful)
    return sum(len(both) > 1 for both in labels.values())


def draw(
    seeds: Sequence[Seed], dealt: Mapping[bool, int], size: int, rng_seed: str, harmful: float = 0.5
) -> list[Seed]:
    """Return the seeds of a round: a share is harmful, the others benign, if there are both.

    `dealt` says by label (harmful: true) how many seeds the rounds before have played. Each label
    is dealt like a deck that is shuffled again at every pass, so rounds of any sizes play each of
    its seeds equally often; a pure function of its arguments. A remainder is harmful.
    """
    decks = {label: [seed for seed in seeds if seed.harmful is label] for label in (True, False)}
    benign = floor(round(size * (1 - harmful), 6))
    shares = {True: size - benign, False: benign}
    drawn: list[Seed] = []
    for label, deck in decks.items():
        share = shares[label] if decks[not label] else size
        drawn += _deal(deck, dealt[label], share, f"{rng_seed}/{label}") if deck else []
    return drawn


def _deal(deck: Sequence[Seed], start: int, size: int, rng_seed: str) -> list[Seed]:
    drawn: list[Seed] = []
    while len(drawn) < size:
        epoch, offset = divmod(start + len(drawn), len(deck))
        shuffled = random.Random(f"{rng_seed}/{epoch}").sample(deck, len(deck))
        drawn += shuffled[offset : offset + size - len(drawn)]
    return drawn


def hold_out(seeds: Sequence[Seed], share: float) -> tuple[list[Seed], list[Seed]]:
    """(training, held out): a share of each label's families, at least one.

    The same request (`plain`), or a seed of the same cluster, is never in both. A function of the
    seeds alone: runs that differ in their random seed hold out the same, so that they can be
    compared, and what trains on one of them (`exploit`) is examined on what it never saw.
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
    """Map each text to one that stands for all texts linked to it, by clusters in common."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for seed in seeds:
        for group in (f"plain {plain(seed.text)}", seed.cluster and f"cluster {seed.cluster}"):
            if group:
                parent[root(group)] = root(f"text {seed.text}")
    texts = sorted({seed.text for seed in seeds}, reverse=True)
    first = {root(f"text {text}"): text for text in texts}
    return {text: first[root(f"text {text}")] for text in texts}


def without(seeds: Sequence[Seed], held: Sequence[Seed]) -> list[Seed]:
    """The seeds that share neither text (`plain`) nor cluster with those held out."""
    texts, clusters = {plain(seed.text) for seed in held}, {seed.cluster for seed in held} - {""}
    return [s for s in seeds if plain(s.text) not in texts and s.cluster not in clusters]
