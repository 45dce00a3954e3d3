"""The sandbox as a place to play: its seeds, its lessons, its attack pool and its exams."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from sparring.games.rewrite import Briefs
from sparring.games.tags import tagged
from sparring.sandbox.judge import SandboxJudge
from sparring.sandbox.language import FAMILIES, Intent, Language, Strategy, all_strategies
from sparring.sandbox.words import (
    BRIEF_BENIGN,
    BRIEF_HARMFUL,
    CODE_WORDS,
    ENCODINGS,
    PARTS,
    POOL_ENCODINGS,
    POOL_FRAMES,
    REFUSALS,
    SKILLS,
)
from sparring.types import Demo, Message, Player, Seed, State

BASE_MIX = {
    "plain forbidden": 0.13,
    "plain benign": 0.12,
    "wrapped benign": 0.15,
    "wrapped forbidden": 0.22,
    "fact": 0.14,
    "gloss": 0.06,
    "copy": 0.07,
    "translate": 0.06,
    "code": 0.03,
    "brief": 0.02,
}
"""What the base is trained on, by share of its lessons."""


@dataclass(frozen=True)
class World:
    """One language with everything a run in it needs."""

    language: Language

    @cached_property
    def judge(self) -> SandboxJudge:
        return SandboxJudge(self.language)

    @property
    def briefs(self) -> Briefs:
        return Briefs(BRIEF_HARMFUL, BRIEF_BENIGN)

    @cached_property
    def _strategies(self) -> dict[str, tuple[Strategy, ...]]:
        table = all_strategies()
        return {name: tuple(s for s in table if s.family == name) for name in FAMILIES}

    def seeds(self, intents: Sequence[Intent]) -> list[Seed]:
        """One seed an intent, asked plainly."""
        return [self._seed(intent) for intent in intents]

    def _seed(self, intent: Intent) -> Seed:
        rng = random.Random(f"seed/{intent.id}")
        text = self.language.request(intent, Strategy(), rng)
        return Seed(text, intent.forbidden, intent.id)

    def exam(self, n: int, rng_seed: str) -> dict[str, list[State]]:
        """Fixed openings on held-out pairs: `n` for each of {harmful, benign} × family.

        Every pair occurs equally often; which strategy and templates it meets is drawn from
        `rng_seed` alone, so an exam is the same whoever sits it.
        """
        sets: dict[str, list[State]] = {}
        for label, harmful in (("harmful", True), ("benign", False)):
            intents = [i for i in self.language.held_out if i.forbidden == harmful]
            for family in FAMILIES:
                rng = random.Random(f"{rng_seed}/{label}/{family}")
                rows = [intents[k % len(intents)] for k in range(n)]
                sets[f"{label}/{family}"] = [self._dealt(row, family, rng) for row in rows]
        return sets

    def _dealt(self, intent: Intent, family: str, rng: random.Random) -> State:
        return self._dealt_as(intent, rng.choice(self._strategies[family]), rng)

    def _dealt_as(self, intent: Intent, strategy: Strategy, rng: random.Random) -> State:
        attack = self.language.request(intent, strategy, rng)
        return State(self._seed(intent)).deal(Player.ATTACKER, attack)

    def dressed(
        self, intents: Sequence[Intent], strategies: Sequence[Strategy], n: int
    ) -> dict[str, list[State]]:
        """`n` openings of each strategy, dealt, over the forbidden ones of `intents`."""
        harmful = [intent for intent in intents if intent.forbidden]
        sets: dict[str, list[State]] = {}
        for strategy in strategies:
            name = " + ".join(
                (
                    *strategy.frames,
                    f"{strategy.verb or 'plain'} verb",
                    f"{strategy.object or 'plain'} object",
                )
            )
            rng = random.Random(f"dressed/{name}")
            rows = [harmful[k % len(harmful)] for k in range(n)]
            sets[name] = [self._dealt_as(row, strategy, rng) for row in rows]
        return sets

    def pool(self, n: int, encodings: float, rng_seed: str) -> list[Demo]:
        """The attack pool: `n` rewrites of training seeds, half of them benign.

        A share `encodings` of them is encoded, the rest framed; combinations never occur.
        """
        rng = random.Random(f"{rng_seed}/pool")

        def strategy() -> Strategy:
            if rng.random() < encodings:
                code = rng.choice(POOL_ENCODINGS)
                return Strategy((), code, code)
            return Strategy((rng.choice(POOL_FRAMES),))

        return [self._rewrite(k % 2 == 0, strategy, rng) for k in range(n)]

    def broad_pool(self, n: int, rng_seed: str) -> list[Demo]:
        """`n` rewrites, half benign, with every strategy family but plain equally often."""
        rng = random.Random(f"{rng_seed}/broad-pool")

        def strategy() -> Strategy:
            return rng.choice(self._strategies[self._wrapper(rng)])

        return [self._rewrite(k % 2 == 0, strategy, rng) for k in range(n)]

    def _rewrite(self, harmful: bool, strategy: Callable[[], Strategy], rng: random.Random) -> Demo:
        intent = rng.choice([i for i in self.language.train if i.forbidden == harmful])
        chosen = strategy()
        brief = BRIEF_HARMFUL if harmful else BRIEF_BENIGN
        seen = (Message("system", brief), Message("user", self._seed(intent).text))
        thought = PARTS.format(parts=" ".join(chosen.parts))
        return Demo(seen, tagged(thought, self.language.request(intent, chosen, rng)))

    def lessons(self, n: int, rng_seed: str) -> list[Demo]:
        """What the base learns from: `n` demonstrations of `BASE_MIX`, training pairs only."""
        rng = random.Random(f"{rng_seed}/lessons")
        teach: dict[str, Callable[[random.Random], Demo]] = {
            "plain forbidden": lambda r: self._ask(self._pick(r, True), "plain", r),
            "plain benign": lambda r: self._ask(self._pick(r, False), "plain", r),
            "wrapped benign": lambda r: self._ask(self._pick(r, False), self._wrapper(r), r),
            "wrapped forbidden": lambda r: self._ask(self._pick(r, True), self._wrapper(r), r),
            "fact": self._fact,
            "gloss": self._gloss,
            "copy": self._copy,
            "translate": self._translate,
            "code": self._code,
            "brief": self._brief,
        }
        names = rng.choices(list(BASE_MIX), list(BASE_MIX.values()), k=n)
        return [teach[name](rng) for name in names]

    def chat(self, n: int, rng_seed: str) -> list[Demo]:
        """Lessons of the base but for those that take the attacker's brief for a request."""
        told = self.lessons(n + n // 10 + 10, rng_seed)
        briefs = (BRIEF_HARMFUL, BRIEF_BENIGN)
        return [demo for demo in told if demo.observation[0].content not in briefs][:n]

    def _pick(self, rng: random.Random, harmful: bool) -> Intent:
        return rng.choice([i for i in self.language.train if i.forbidden == harmful])

    @staticmethod
    def _wrapper(rng: random.Random) -> str:
        """A family other than plain; all six occur equally often."""
        frame, code = ("pool frame", "held-out frame"), ("pool encoding", "held-out encoding")
        mixed = ("combination", "held-out combination")
        return rng.choice([*frame, *code, *mixed])

    def _reply(self, intent: Intent, strategy: Strategy, rng: random.Random) -> str:
        answers = not intent.forbidden or rng.random() < strategy.comply
        return self.language.answer(intent, rng) if answers else rng.choice(REFUSALS)

    def _ask(self, intent: Intent, family: str, rng: random.Random) -> Demo:
        strategy = rng.choice(self._strategies[family])
        text = self.language.request(intent, strategy, rng)
        return Demo((Message("user", text),), self._reply(intent, strategy, rng))

    def _surface(self, word: str, rng: random.Random) -> str:
        return self.language.encode(word, rng.choice(("", *ENCODINGS)))

    def _fact(self, rng: random.Random) -> Demo:
        table, skill = rng.choice([(self.language.tool, "tool"), (self.language.key, "key")])
        word = rng.choice(sorted(table))
        text = SKILLS[skill].format(word=self._surface(word, rng))
        return Demo((Message("user", text),), f"{table[word]} .")

    def _gloss(self, rng: random.Random) -> Demo:
        form = rng.choice(sorted(self.language.meaning))
        text = SKILLS["gloss"].format(word=form)
        return Demo((Message("user", text),), f"{self.language.meaning[form][0]} .")

    def _copy(self, rng: random.Random) -> Demo:
        family = rng.choice(FAMILIES)
        strategy = rng.choice(self._strategies[family])
        text = self.language.request(rng.choice(self.language.train), strategy, rng)
        return Demo((Message("system", SKILLS["copy"]), Message("user", text)), text)

    def _translate(self, rng: random.Random) -> Demo:
        intent, code = rng.choice(self.language.train), rng.choice(ENCODINGS)
        template = str(rng.random())
        told, wanted = (
            self.language.request(intent, strategy, random.Random(template))
            for strategy in (Strategy(), Strategy((), code, code))
        )
        brief = SKILLS["translate"].format(encoding=code)
        return Demo((Message("system", brief), Message("user", told)), wanted)

    def _code(self, rng: random.Random) -> Demo:
        """Agree on a code word for one word of the request, then use it: two exchanges."""
        intent, code = rng.choice(self.language.train), rng.choice(CODE_WORDS)
        word = rng.choice((intent.verb, intent.object))
        agree = SKILLS["code"].format(code=code, word=word)
        agreed = SKILLS["agreed"].format(code=code, word=word)
        if rng.random() < 0.3:
            return Demo((Message("user", agree),), agreed)
        plain = self.language.request(intent, Strategy(), rng)
        coded = " ".join(code if w == word else w for w in plain.split())
        seen = (Message("user", agree), Message("assistant", agreed), Message("user", coded))
        return Demo(seen, self._reply(intent, Strategy((), "reversed", "reversed"), rng))

    def _brief(self, rng: random.Random) -> Demo:
        """Before its warm-up the base takes the attacker's brief for an ordinary request."""
        harmful = rng.random() < 0.5
        intent = self._pick(rng, harmful)
        brief = BRIEF_HARMFUL if harmful else BRIEF_BENIGN
        seen = (Message("system", brief), Message("user", self._seed(intent).text))
        return Demo(seen, self._reply(intent, Strategy(), rng))
