"""How different the attacker's rewrites of one seed are: similarities, metrics and a reward."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from sparring.door import check_model
from sparring.games.game import attacks_of
from sparring.players.loading import loading
from sparring.stats.rates import grouped
from sparring.types import Episode, Metrics, Player

Matrix = Sequence[Sequence[float]]
Similarity = Callable[[Sequence[str]], Matrix]
"""From texts to their cosine similarities, symmetric, 1 on the diagonal."""
ORDER, SMOOTH = 4, 0.1
"""The longest n-grams of BLEU, and the count that stands for no match."""
FEWEST_WORDS, LEAST_NEW = 8, 0.3
"""A text of 8 words or more in which fewer than 0.3 are different ones repeats itself. The 379
requests of that length in HarmBench and StrongREJECT, with their contexts, have 0.45 or more."""
_CACHED_VECTORS = 4096


def bag_of_words(texts: Sequence[str]) -> Matrix:
    """Cosines of word counts, 0 to 1; words are separated by white space.

    Texts without words are alike.
    """
    bags = [Counter(text.split()) for text in texts]
    column = {word: i for i, word in enumerate(dict.fromkeys(chain(*bags)))}
    count_NV = np.zeros((len(bags), len(column) + 1))
    for row, bag in zip(count_NV, bags, strict=True):
        row[[column[word] for word in bag]] = list(bag.values())
        row[-1] = not bag
    dot_NN = count_NV @ count_NV.T
    square_N = dot_NN.diagonal()
    cosine_NN: Matrix = (dot_NN / np.sqrt(np.outer(square_N, square_N))).tolist()
    return cosine_NN


def embedded(model_name_or_path: str) -> Similarity:
    """Cosines of mean-pooled last hidden states, as Sentence-BERT's (arXiv:1908.10084).

    Texts longer than the model reads are cut. Each text is embedded alone, so that its vector does
    not depend on its siblings, and cached, because the reward and the metric need the same ones.
    Loads safetensors only and never remote code. UsageError if that cannot be done.
    """
    import torch

    tokenizer, model = _load(model_name_or_path)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))

    @lru_cache(_CACHED_VECTORS)
    def vector(text: str) -> Any:
        ids = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            hidden_TD = model(input_ids=ids.to(model.device)).last_hidden_state[0]
        mean_D = hidden_TD.float().mean(0).cpu()
        return mean_D / mean_D.norm()

    def similarity(texts: Sequence[str]) -> Matrix:
        vector_ND = torch.stack([vector(text) for text in texts])
        cosine_NN: Matrix = (vector_ND @ vector_ND.T).tolist()
        return cosine_NN

    return similarity


def _load(path: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    check_model(Path(path))
    with loading(path, field="game.embedding_model"):
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model: Any = AutoModel.from_pretrained(path, trust_remote_code=False, use_safetensors=True)
        if model.config.is_encoder_decoder:
            raise ValueError("it has an encoder and a decoder; expected an encoder alone")
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def distinctness(texts: Sequence[str], similarity: Similarity = bag_of_words) -> list[float]:
    """1 − the mean similarity of each text to the others; 0 for a single text."""
    if len(texts) < 2:
        return [0.0] * len(texts)
    return [
        1 - fmean(value for j, value in enumerate(row) if j != i)
        for i, row in enumerate(similarity(texts))
    ]


def bleus(texts: Sequence[str]) -> list[float]:
    """BLEU-4 of each text, 0 to 1, the others being its references; at least two texts.

    BP · (Π p_n)^(1/N), n = 1 … N (Papineni et al. 2002): p_n is the clipped n-gram precision.
    Where no n-gram matches the count is 0.1 instead of 0 (Chen and Cherry 2014, method 1), but
    without one word in common BLEU is 0. N is 4, or the number of words if smaller, so that a
    short text is like its copy. BP = min(1, exp(1 − r / c)) with c words and r the nearest length
    of a reference, of two equally near the shorter.
    """
    words = [text.split() for text in texts]
    grams = [[_grams(text, n) for text in words] for n in range(1, ORDER + 1)]
    matches = [_matched(texts_of_order) for texts_of_order in grams]
    scores: list[float] = []
    for i, length in enumerate(map(len, words)):
        if not matches[0][i]:
            scores.append(0.0)
            continue
        orders = range(min(ORDER, length))
        logs = [math.log((matches[n][i] or SMOOTH) / grams[n][i].total()) for n in orders]
        others = [len(text) for j, text in enumerate(words) if j != i]
        nearest = min((abs(other - length), other) for other in others)[1]
        scores.append(math.exp(min(0.0, 1 - nearest / length) + sum(logs) / len(logs)))
    return scores


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram occurs."""
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _matched(texts: Sequence[Counter[tuple[str, ...]]]) -> list[int]:
    """How many of each text's n-grams its references have, clipped to the most in one reference.

    Only the text that has an n-gram most often has more of it than the best of its references,
    which is the text that comes second.
    """
    counts = grouped((gram, n) for text in texts for gram, n in text.items())
    second = {gram: sorted([0, *several])[-2] for gram, several in counts.items()}
    return [sum(min(n, second[gram]) for gram, n in text.items()) for text in texts]


def siblings(episodes: Iterable[Episode]) -> dict[int, dict[int, Episode]]:
    """By opening, one paid game for each of the attacker's siblings.

    Where several games grew from one first attack the first game stands for it: what the attacker
    goes on with is no sibling of itself.
    """
    groups: dict[int, dict[int, Episode]] = defaultdict(dict)
    for episode in filter(_paid, episodes):
        groups[episode.opening].setdefault(episode.state.path[0], episode)
    return groups


def _paid(episode: Episode) -> bool:
    """Whether the attack was the attacker's own, reached the defender, and both were paid."""
    both = episode.returns is not None and episode.returns.keys() == set(Player)
    return both and not episode.state.dealt


def _attack(episode: Episode) -> str:
    """All that the attacker sent in a game, as one text."""
    return " ".join(filter(None, attacks_of(episode.state)))


def diversity_metrics(episodes: Iterable[Episode], embedding: Similarity | None = None) -> Metrics:
    """Means over every attack that has siblings; nothing where none has any.

    `diversity`: 1 − its similarity to them; `diversity_embedding`: the same by an embedding.
    `self_bleu`: its BLEU against them (Zhu et al. 2018, arXiv:1802.01886), high where they share
    phrases.
    """
    measures: dict[str, Callable[[Sequence[str]], list[float]]]
    measures = {"diversity": distinctness, "self_bleu": bleus}
    if embedding:
        measures["diversity_embedding"] = partial(distinctness, similarity=embedding)
    groups = [[_attack(e) for e in group.values()] for group in siblings(episodes).values()]
    groups = [texts for texts in groups if len(texts) > 1]
    return {
        name: fmean(value for texts in groups for value in measure(texts))
        for name, measure in (measures if groups else {}).items()
    }


def strategy_entropy(counts: Iterable[float]) -> float:
    """−Σ p ln p of the counts' shares p, in nats: ln k for k equal counts, 0 for a single one."""
    positive = [count for count in counts if count]
    total = sum(positive)
    return math.fsum(count / total * math.log(total / count) for count in positive)


def wraps_the_seed(seed: str, attack: str) -> bool:
    """Whether the seed's text is part of the attack, up to case and white space."""
    return _plain(seed) in _plain(attack)


def repeats_itself(seed: str, attack: str) -> bool:
    """Whether the attack is long and made of few different words (a low type/token ratio)."""
    words = _plain(attack).split()
    return len(words) >= FEWEST_WORDS and len(set(words)) / len(words) < LEAST_NEW


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


GUARDS: tuple[Callable[[str, str], bool], ...] = (wraps_the_seed, repeats_itself)
"""(seed's text, attack) → whether the attack earns no bonus."""


def rewarded(
    episodes: Sequence[Episode], weight: float, similarity: Similarity = bag_of_words
) -> list[Episode]:
    """The episodes with `weight` x distinctness added to the attacker's return.

    Without it a group of refused attacks has no variance, so nothing is learned from it and the
    attacker stops exploring. Only attacks that the game itself paid take part: one that the gate
    rejected keeps the floor, so gibberish earns nothing. An attack that a guard catches earns no
    bonus either, but its siblings are still paid for differing from it.
    """
    bonuses: dict[tuple[int, int], float] = {}
    for opening, group in siblings(episodes).items() if weight else ():
        attacks = [_attack(episode) for episode in group.values()]
        values = distinctness(attacks, similarity)
        for (sibling, episode), attack, value in zip(group.items(), attacks, values, strict=True):
            if not any(guard(episode.state.seed.text, attack) for guard in GUARDS):
                bonuses[opening, sibling] = weight * value
    return [_raised(e, bonuses.get((e.opening, e.state.path[0]), 0.0)) for e in episodes]


def _raised(episode: Episode, bonus: float) -> Episode:
    if not bonus or not episode.returns or not _paid(episode):
        return episode
    attacker = episode.returns[Player.ATTACKER] + bonus
    return replace(episode, returns={**episode.returns, Player.ATTACKER: attacker})
