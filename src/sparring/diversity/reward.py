"""A reward for differing from one's siblings, against the attacker's collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sparring.diversity.metrics import Attack, fork, paid, siblings
from sparring.diversity.similarity import Similarity, bag_of_words, distinctness
from sparring.types import Episode, Player

FEWEST_WORDS, LEAST_NEW = 8, 0.3
"""A text of 8 words or more in which fewer than 0.3 are different ones repeats itself. The 379
requests of that length in HarmBench and StrongREJECT, with their contexts, have 0.45 or more."""


def wraps_the_seed(attack: Attack) -> bool:
    """Whether the seed stands in the attack word for word, but for case and white space."""
    return _plain(attack.seed.text) in _plain(attack.text)


def repeats_itself(attack: Attack) -> bool:
    """Whether it is long and made of few different words (a low type/token ratio)."""
    words = _plain(attack.text).split()
    return len(words) >= FEWEST_WORDS and len(set(words)) / len(words) < LEAST_NEW


GUARDS: tuple[Callable[[Attack], bool], ...] = (wraps_the_seed, repeats_itself)
"""An attack of which one of these is true earns no bonus."""


def rewarded(
    episodes: Sequence[Episode], weight: float, similarity: Similarity = bag_of_words
) -> list[Episode]:
    """The episodes with `weight` x distinctness added to the attacker's return.

    Without it a group of refused attacks has no variance, nothing is learned from it, and the
    attacker stops exploring. Only attacks that the game itself paid take part: one that the gate
    turned away keeps the floor, so gibberish earns nothing. One that a guard catches earns
    nothing either, but its siblings are still paid for differing from it.
    """
    if not weight:
        return list(episodes)
    bonus = {
        (opening, branch): weight * value
        for opening, group in siblings(episodes).items()
        for (branch, attack), value in zip(
            group.items(), distinctness([a.text for a in group.values()], similarity), strict=True
        )
        if not any(guard(attack) for guard in GUARDS)
    }
    return [_raised(e, bonus.get((e.opening, fork(e)), 0.0)) for e in episodes]


def _raised(episode: Episode, bonus: float) -> Episode:
    if not episode.returns or not paid(episode) or not bonus:
        return episode
    attacker = episode.returns[Player.ATTACKER] + bonus
    return replace(episode, returns={**episode.returns, Player.ATTACKER: attacker})


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
