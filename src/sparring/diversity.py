"""How different the attacker's rewrites of one seed are, and a reward for it against collapse."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from sparring.games.rewrite import attack_path, attacks_of
from sparring.types import Episode, Player


def cosine(a: Counter[str], b: Counter[str]) -> float:
    """Cosine similarity of two bags of words, 0 to 1."""
    dot = sum(n * b[word] for word, n in a.items())
    return dot / math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))


def distinctness(texts: Sequence[str]) -> list[float]:
    """1 − the mean similarity of each text to the others; 0 for a single one."""
    bags = [Counter(text.split()) for text in texts]
    if len(bags) < 2:
        return [0.0] * len(bags)
    return [
        1 - fmean(cosine(bag, other) for j, other in enumerate(bags) if j != i)
        for i, bag in enumerate(bags)
    ]


def diversity(episodes: Sequence[Episode]) -> float | None:
    """The mean distinctness of sibling attacks; None where no seed was attacked twice."""
    groups = [list(group.values()) for group in _sent(episodes).values()]
    told = [value for texts in groups if len(texts) > 1 for value in distinctness(texts)]
    return fmean(told) if told else None


def rewarded(episodes: Sequence[Episode], weight: float) -> list[Episode]:
    """The episodes with `weight` x distinctness added to the attacker's return.

    Without it a group of refused attacks has no variance, nothing is learned from it, and the
    attacker stops exploring. Only attacks that the game itself paid take part: one that the gate
    turned away keeps the floor, so gibberish earns nothing.
    """
    if not weight:
        return list(episodes)
    groups = _sent(episodes)
    bonus = {
        (opening, sibling): weight * value
        for opening, texts in groups.items()
        for sibling, value in zip(texts, distinctness(list(texts.values())), strict=True)
    }
    return [_raised(e, bonus.get((e.opening, attack_path(e.state)), 0.0)) for e in episodes]


def _raised(episode: Episode, bonus: float) -> Episode:
    if not episode.returns or not bonus:
        return episode
    attacker = episode.returns[Player.ATTACKER] + bonus
    return replace(episode, returns={**episode.returns, Player.ATTACKER: attacker})


def _sent(episodes: Sequence[Episode]) -> dict[int, dict[tuple[int, ...], str]]:
    """The played attacks that reached the defender and were paid, by opening and path.

    All that an attacker sent in one game is one text.
    """
    groups: dict[int, dict[tuple[int, ...], str]] = defaultdict(dict)
    for episode in episodes:
        paid = episode.returns is not None and Player.DEFENDER in episode.returns
        if paid and not episode.state.dealt:
            attack = " ".join(filter(None, attacks_of(episode.state)))
            groups[episode.opening][attack_path(episode.state)] = attack
    return groups
