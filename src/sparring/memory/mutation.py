"""Mutation: attacks whose wording is shaken, so that the defender learns what is asked, not how.

An attacker that has learned writes few of the texts that carry a request, and a defender that has
met these alone may answer the same request where a clause stands twice or in front of another one.
The mutations and the crossover of evolutionary search cost no sampling: spans of words are
repeated, dropped, moved, and taken from other attacks of the round. The judge rules on what comes
out, so a text that no longer carries its request counts as any attack that is off topic.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparring.arena import Cast
from sparring.games.game import answer_of
from sparring.memory.memory import Opposition
from sparring.players.player import Policy, Request
from sparring.types import Completion, Metrics, Player, Turn

WORDS = re.compile(r"\s*\S+")
CHANGES, LONGEST, GROWTH = 6, 10, 3
"""At most: changes of a text, words of a span, and how many times its words a text may grow to."""
TIMES = (1, 1, 2, 4, 8, 16)
"""How often a span may be said again."""


def mutated(text: str, others: Sequence[str], rng: random.Random) -> str:
    """Return the text after one or more changes, each of the same chance: a span of words is said
    again, perhaps many times, repeated elsewhere, taken from another text or moved, or up to three
    words are dropped."""
    words = WORDS.findall(f" {text}")
    most = GROWTH * len(words)
    for _ in range(rng.randint(1, CHANGES)):
        change = rng.choice(("again", "repeat", "borrow", "move", "drop"))
        source = WORDS.findall(f" {rng.choice(others)}") if change == "borrow" else words
        start = rng.randrange(len(source))
        span = source[start : start + rng.randint(1, 3 if change == "drop" else LONGEST)]
        place = start if change == "again" else rng.randint(0, len(words))
        if change in {"drop", "move"} and len(span) < len(words):
            del words[start : start + len(span)]
        if change != "drop":
            times = rng.choice(TIMES) if change == "again" else 1
            words[place:place] = span * min(times, (most - len(words)) // len(span))
    return "".join(words).strip()


@dataclass(frozen=True)
class Mutating:
    """A policy, a share of whose attacks is mutated.

    What comes out cannot be learned from: its tokens are those of the text before.
    """

    policy: Policy
    share: float

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        sampled = self.policy.sample(requests)
        texts = [answer for group in sampled for c in group if (answer := answer_of(c.text))]
        return [
            [self._changed(*pair, texts) for pair in zip(group, request.addresses, strict=True)]
            for request, group in zip(requests, sampled, strict=True)
        ]

    def _changed(self, completion: Completion, address: str, texts: Sequence[str]) -> Completion:
        rng, answer = random.Random(f"{address}/mutation"), answer_of(completion.text)
        if not answer or rng.random() >= self.share:
            return completion
        before, _, after = completion.text.rpartition(answer)
        return replace(completion, text=f"{before}{mutated(answer, texts, rng)}{after}")


@dataclass(frozen=True)
class Mutation(Opposition):
    """Wraps an opposition; in rounds where the attacker does not learn its attacks are mutated."""

    opposition: Opposition
    share: float

    def cast(
        self, number: int, turn: Turn, cast: Cast, past: Sequence[Metrics]
    ) -> tuple[Cast, Turn, Metrics]:
        cast, turn, metrics = self.opposition.cast(number, turn, cast, past)
        if Player.ATTACKER not in turn.learns:
            cast = {**cast, Player.ATTACKER: Mutating(cast[Player.ATTACKER], self.share)}
        return cast, turn, metrics

    def keeps(self, number: int, past: Sequence[Metrics]) -> bool:
        return self.opposition.keeps(number, past)

    def keep(self, number: int, past: Sequence[Metrics]) -> None:
        self.opposition.keep(number, past)

    def state(self) -> dict[str, Any]:
        return self.opposition.state()

    def load(self, state: Mapping[str, Any], selves: Sequence[int]) -> None:
        self.opposition.load(state, selves)
