"""How different the attacker's rewrites of one seed are: measures, and a reward for it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sparring.games.game import attacks_of
from sparring.types import Episode, Player, Seed, UsageError

if TYPE_CHECKING:
    from torch import Tensor

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


_REMEMBERED = 4096


def embedded(model_name_or_path: str) -> Similarity:
    """Cosines of mean-pooled last hidden states, as Sentence-BERT's (arXiv:1908.10084).

    Texts longer than the model reads are cut. Each is embedded alone, so that its vector does not
    depend on its siblings, and remembered, because the reward and the metric ask for the same
    ones. Loads safetensors only and never remote code. UsageError if that cannot be done.
    """
    import torch

    tokenizer, model = _load(model_name_or_path)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))

    @lru_cache(_REMEMBERED)
    def vector(text: str) -> Tensor:
        ids = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            hidden_TD = model(input_ids=ids.to(model.device)).last_hidden_state[0]
        mean_D = hidden_TD.float().mean(0).cpu()
        unit_D: Tensor = mean_D / mean_D.norm()
        return unit_D

    def similarity(texts: Sequence[str]) -> list[list[float]]:
        vector_ND = torch.stack([vector(text) for text in texts])
        cosine_NN: list[list[float]] = (vector_ND @ vector_ND.T).tolist()
        return cosine_NN

    return similarity


def _load(path: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    where = f"game.embedding_model: cannot load {path}"
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model: Any = AutoModel.from_pretrained(path, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError) as error:
        line = str(error).strip().split("\n", 1)[0]
        raise UsageError(f"{where}: {line}") from error
    if model.config.is_encoder_decoder:
        raise UsageError(f"{where}: it is an encoder with a decoder; wanted an encoder alone")
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


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
