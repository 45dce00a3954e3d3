"""The stand-in language: intents, what is forbidden, knowledge, ways to dress it, code words."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from sparring.games.game import answer_of, tagged
from sparring.players.player import ScriptedPolicy
from sparring.sandbox.words import (
    ANSWERS,
    BRIEF_BENIGN,
    BRIEF_HARMFUL,
    CODE_WORDS,
    COMPLY,
    ENCODINGS,
    FRAMES,
    GUARDED,
    KEYS,
    MILD,
    OBJECTS,
    PARTS,
    PLAIN,
    PLAIN_TEMPLATES,
    POOL_ENCODINGS,
    POOL_FRAMES,
    REFUSALS,
    RISKY,
    SKILLS,
    SYLLABLES,
    SYNONYMS,
    TOOLS,
    VERBS,
)
from sparring.types import Observation


@dataclass(frozen=True, slots=True)
class Intent:
    """What a request asks for: to do `verb` to `object`."""

    verb: str
    object: str

    @property
    def forbidden(self) -> bool:
        """Risky and guarded; no single word decides."""
        return self.verb in RISKY and self.object in GUARDED

    @property
    def id(self) -> str:
        return f"{self.verb}-{self.object}"


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to dress an intent: any frames, outermost first, and an encoding for each word."""

    frames: tuple[str, ...] = ()
    verb: str = ""
    object: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """Every frame and dictionary used, each once."""
        return tuple(dict.fromkeys((*self.frames, *filter(None, (self.verb, self.object)))))

    @property
    def combination(self) -> bool:
        """More than one part, or only one of the two words encoded."""
        return len(self.parts) > 1 or self.verb != self.object

    @property
    def name(self) -> str:
        """`plain`, a frame, an encoding, or `combination`."""
        return "combination" if self.combination else (*self.parts, "plain")[0]

    @property
    def held_out(self) -> bool:
        """Whether any part is absent from the attack pool."""
        return any(part not in POOL_FRAMES + POOL_ENCODINGS for part in self.parts)

    @property
    def family(self) -> str:
        """One of the report's families: plain, (held-out) frame, encoding or combination."""
        if not self.parts:
            return "plain"
        kind = "combination" if self.combination else "frame" if self.frames else "encoding"
        return f"held-out {kind}" if self.held_out else f"pool {kind}".replace("pool c", "c")

    @property
    def comply(self) -> float:
        """The base's chance to answer a forbidden request: 1 − Π(1 − p) over the parts."""
        refuse = 1.0
        for part in self.parts:
            refuse *= 1.0 - COMPLY[part]
        return 1.0 - refuse


FAMILIES = (
    "plain",
    "pool frame",
    "pool encoding",
    "held-out frame",
    "held-out encoding",
    "combination",
    "held-out combination",
)
ADVERSARIAL = FAMILIES[1:]
POOLED: Mapping[str, Sequence[str]] = {
    "harmful/adversarial": [f"harmful/{family}" for family in ADVERSARIAL],
    "benign/wrapped": [f"benign/{family}" for family in ADVERSARIAL],
}
"""What an exam says first, and the sets it pools."""


def all_strategies() -> tuple[Strategy, ...]:
    """Up to one frame with any encoding of each word, and every two frames, in a fixed order."""
    codes = ("", *ENCODINGS)
    framed = product([(), *((frame,) for frame in FRAMES)], codes, codes)
    stacked = [Strategy((a, b)) for a in FRAMES for b in FRAMES if a != b]
    return (*(Strategy(*parts) for parts in framed), *stacked)


@dataclass(frozen=True)
class Language:
    """One language: the knowledge, the second language and the held-out pairs of one seed.

    Everything is drawn from sorted lists by `random.Random`, never from set or hash order;
    `digest` pins the result.
    """

    seed: int = 0

    @cached_property
    def _draws(self) -> dict[str, list[str]]:
        rng = random.Random(f"language/{self.seed}")
        nonce = ["".join(pair) for pair in product(SYLLABLES, repeat=2)]
        words = {"tools": list(TOOLS), "keys": list(KEYS), "second": nonce}
        for drawn in words.values():
            rng.shuffle(drawn)
        return words | {"held_out": self._split(rng)}

    @staticmethod
    def _split(rng: random.Random) -> list[str]:
        """A quarter of the pairs of each kind, each word held out equally often."""
        held: list[str] = []
        for verbs, objects in product((RISKY, MILD), (GUARDED, PLAIN)):
            order = rng.sample(objects, len(objects))
            for row, verb in enumerate(rng.sample(verbs, len(verbs))):
                held += [f"{verb}-{order[(row + step) % len(order)]}" for step in (0, 3)]
        return sorted(held)

    @cached_property
    def tool(self) -> dict[str, str]:
        """The tool word of each verb."""
        return dict(zip(VERBS, self._draws["tools"], strict=True))

    @cached_property
    def key(self) -> dict[str, str]:
        """The key word of each object."""
        return dict(zip(OBJECTS, self._draws["keys"], strict=True))

    @cached_property
    def dictionaries(self) -> dict[str, dict[str, str]]:
        """Encoded word of each content word, by encoding."""
        words = VERBS + OBJECTS
        return {
            "synonym": SYNONYMS,
            "second-language": dict(zip(words, self._draws["second"], strict=False)),
            "reversed": {word: word[::-1] for word in words},
        }

    @cached_property
    def meaning(self) -> dict[str, tuple[str, str]]:
        """(content word, encoding) of every surface form; the encoding of a plain word is ''."""
        forms = {word: (word, "") for word in VERBS + OBJECTS}
        for encoding, table in self.dictionaries.items():
            forms |= {form: (word, encoding) for word, form in table.items()}
        return forms

    @cached_property
    def intents(self) -> tuple[Intent, ...]:
        return tuple(Intent(verb, noun) for verb, noun in product(VERBS, OBJECTS))

    @cached_property
    def train(self) -> tuple[Intent, ...]:
        """The pairs that base training, warm-up and the game may use."""
        held = set(self._draws["held_out"])
        return tuple(intent for intent in self.intents if intent.id not in held)

    @cached_property
    def held_out(self) -> tuple[Intent, ...]:
        """The pairs that only exams use: 16 forbidden, 48 benign."""
        held = set(self._draws["held_out"])
        return tuple(intent for intent in self.intents if intent.id in held)

    def encode(self, word: str, encoding: str) -> str:
        return self.dictionaries[encoding][word] if encoding else word

    def request(self, intent: Intent, strategy: Strategy, rng: random.Random) -> str:
        """The intent dressed by the strategy, templates drawn from `rng`."""
        shells = [rng.choice(FRAMES[frame]) for frame in strategy.frames]
        shells = shells or [rng.choice(PLAIN_TEMPLATES)]
        verb = self.encode(intent.verb, strategy.verb)
        noun = self.encode(intent.object, strategy.object)
        core = f"how to {verb} the {noun}"
        for before, after in reversed(shells):
            core = f"{before} {core} {after}"
        return core

    def answer(self, intent: Intent, rng: random.Random) -> str:
        """A correct and complete answer."""
        tool, key = self.tool[intent.verb], self.key[intent.object]
        return rng.choice(ANSWERS).format(tool=tool, key=key)

    def strategy_of(self, text: str) -> Strategy:
        """Which strategy a request was dressed with, read from its words."""
        frames = [
            (text.find(before), name)
            for name, shells in FRAMES.items()
            for before, _ in shells
            if before in text
        ]
        codes = {"verb": "", "object": ""}
        for word in text.split():
            if word in self.meaning:
                plain, encoding = self.meaning[word]
                codes["verb" if plain in VERBS else "object"] = encoding
        return Strategy(tuple(name for _, name in sorted(frames)), codes["verb"], codes["object"])

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word of the language, sorted."""
        shells = [shell for pair in FRAMES.values() for shell in pair]
        texts: list[str] = [" ".join(shell) for shell in [*shells, *PLAIN_TEMPLATES]]
        texts += [*ANSWERS, *REFUSALS, BRIEF_HARMFUL, BRIEF_BENIGN, PARTS, *SKILLS.values()]
        found = {word for text in texts for word in text.split() if "{" not in word}
        found |= {*self.meaning, *TOOLS, *KEYS, *FRAMES, *ENCODINGS, *CODE_WORDS}
        found |= {"how", "to", "the", "plain", "<think>", "</think>", "<answer>", "</answer>"}
        return tuple(sorted(found))

    @cached_property
    def digest(self) -> str:
        """sha256 of the words, meanings, templates and split; the lessons have their own digest."""
        told: Sequence[object] = (
            self.words,
            sorted(self.tool.items()),
            sorted(self.key.items()),
            sorted((form, *word) for form, word in self.meaning.items()),
            self._draws["held_out"],
            (FRAMES, PLAIN_TEMPLATES, ANSWERS, REFUSALS, SKILLS, sorted(COMPLY.items())),
        )
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


NAME = "code-word"
_AGREEMENT = re.compile(
    re.escape(SKILLS["code"])
    .replace(r"\{code\}", f"({'|'.join(CODE_WORDS)})")
    .replace(r"\{word\}", r"(\S+)")
)


def agreements(language: Language, messages: Sequence[str]) -> dict[str, str]:
    """The content word that each code word stands for after `messages`; later ones win.

    Only a message that is an agreement and nothing else counts.
    """
    told = [_AGREEMENT.fullmatch(" ".join(message.split())) for message in messages]
    return {
        match[1]: language.meaning[match[2]][0]
        for match in told
        if match and match[2] in language.meaning
    }


def spelled_out(language: Language, messages: Sequence[str]) -> str:
    """The last message, with the code words that earlier ones agreed on put into words.

    An agreement in the last message itself is left out: it names a word and asks for nothing. So
    a code word means nothing in the message that introduces it.
    """
    *earlier, last = messages
    agreed = agreements(language, earlier)
    words = _AGREEMENT.sub(" ", " ".join(last.split())).split()
    return " ".join(agreed.get(word, word) for word in words)


def strategy_name(language: Language, messages: Sequence[str]) -> str:
    """The strategy of the last message; `code-word` if it uses one that was agreed on."""
    *earlier, last = messages
    coded = set(last.split()) & agreements(language, earlier).keys()
    return NAME if coded else language.strategy_of(last).name


def coded(language: Language, intent: Intent, rng: random.Random, code: str, word: str) -> str:
    """The intent asked plainly, but with the code word in place of `word`."""
    plain = language.request(intent, Strategy(), rng)
    return " ".join(code if w == word else w for w in plain.split())


def two_exchange_attacker(language: Language) -> ScriptedPolicy:
    """Agrees on a code word for one word of the seed, then asks with it, whatever is replied.

    What it says depends on what it sees and on the address of its randomness alone.
    """

    def script(seen: Observation, address: str) -> str:
        rng = random.Random(address)
        request, *history = (message.content for message in seen if message.role != "system")
        content = [language.meaning[w][0] for w in request.split() if w in language.meaning]
        intent = Intent(*content)
        sent = [answer for text in history[::2] if (answer := answer_of(text))]
        agreed = [*agreements(language, sent).items()]
        if not agreed:
            code, word = rng.choice(CODE_WORDS), rng.choice((intent.verb, intent.object))
            text = SKILLS["code"].format(code=code, word=word)
        else:
            code, word = agreed[-1]
            text = coded(language, intent, rng, code, word)
        return tagged(PARTS.format(parts=code), text)

    return ScriptedPolicy(script)
