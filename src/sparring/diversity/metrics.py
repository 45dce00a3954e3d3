"""How different the attacker's rewrites of one seed are, as numbers to log."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sparring.diversity.bleu import bleus
from sparring.diversity.similarity import Similarity, bag_of_words, distinctness
from sparring.games.rewrite import attacks_of
from sparring.types import Episode, Player, Seed


@dataclass(frozen=True, slots=True)
class Attack:
    """One rewrite that was sent, and what it rewrites."""

    seed: Seed
    text: str


Fork = tuple[int, ...]
"""The siblings that lead to the attacker's first rewrite."""
Siblings = dict[Fork, Attack]
"""The attacks on one opening, by fork."""


def diversity(episodes: Sequence[Episode], similarity: Similarity = bag_of_words) -> float | None:
    """Mean of 1 − the similarity of each attack to its siblings; None where none has any."""
    told = [value for texts in _texts(episodes) for value in distinctness(texts, similarity)]
    return fmean(told) if told else None


def self_bleu(episodes: Sequence[Episode]) -> float | None:
    """Mean BLEU of each attack against its siblings (Zhu et al. 2018, arXiv:1802.01886).

    High where siblings share phrases; None where no attack has any.
    """
    told = [value for texts in _texts(episodes) for value in bleus(texts)]
    return fmean(told) if told else None


def strategy_entropy(counts: Iterable[float]) -> float:
    """−Σ p ln p of the counts' shares p, in nats: ln k for k equal ones, 0 for one alone."""
    told = [count for count in counts if count]
    return math.fsum(count / sum(told) * math.log(sum(told) / count) for count in told)


def siblings(episodes: Iterable[Episode]) -> dict[int, Siblings]:
    """The played attacks that reached the defender and were paid, by opening.

    All that an attacker sent in one game is one text. Where several games grew from one fork of
    the attacker its first one stands for it: what it goes on with is no sibling of itself.
    """
    groups: dict[int, Siblings] = defaultdict(dict)
    for episode in episodes:
        if paid(episode):
            text = " ".join(filter(None, attacks_of(episode.state)))
            groups[episode.opening].setdefault(fork(episode), Attack(episode.state.seed, text))
    return groups


def paid(episode: Episode) -> bool:
    """Whether the attack was the attacker's own, reached the defender, and the game paid it."""
    told = episode.returns is not None and episode.returns.keys() == set(Player)
    return told and not episode.state.dealt


def fork(episode: Episode) -> Fork:
    """Where the attacker forked in a game of its own."""
    ply = episode.state.first_ply(Player.ATTACKER)
    return () if ply is None else episode.state.path[: ply + 1]


def _texts(episodes: Iterable[Episode]) -> list[list[str]]:
    """The texts of every group of at least two."""
    groups = siblings(episodes).values()
    return [[attack.text for attack in group.values()] for group in groups if len(group) > 1]
