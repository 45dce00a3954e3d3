"""The attack pool: demonstrations of rewrites that an attacker is warmed up on."""

from __future__ import annotations

import random
from collections.abc import Callable

from sparring.games.game import tagged
from sparring.sandbox.language import Intent, Strategy, coded
from sparring.sandbox.words import CODE_WORDS, PARTS, POOL_ENCODINGS, POOL_FRAMES, REFUSALS, SKILLS
from sparring.sandbox.world import World
from sparring.types import Demo, Message, Observation

Pick = Callable[[World, random.Random], Strategy]
"""Which strategy a rewrite of the pool uses."""


def narrow(encodings: float) -> Pick:
    """A few strategies of one part: a share `encodings` encoded, the rest framed."""

    def pick(world: World, rng: random.Random) -> Strategy:
        if rng.random() < encodings:
            code = rng.choice(POOL_ENCODINGS)
            return Strategy((), code, code)
        return Strategy((rng.choice(POOL_FRAMES),))

    return pick


def broad(world: World, rng: random.Random) -> Strategy:
    """Every family but plain equally often, and every strategy in a family."""
    return rng.choice(world.strategies[world.wrapper(rng)])


def attack_pool(world: World, n: int, pick: Pick, rng_seed: str) -> list[Demo]:
    """`n` rewrites of training seeds, half of them benign."""
    rng = random.Random(f"{rng_seed}/pool")
    return [_rewrite(world, world.pick(rng, k % 2 == 0), pick, rng) for k in range(n)]


def dialogues(world: World, n: int, pick: Pick, rng_seed: str) -> list[Demo]:
    """What the pool of a game of several exchanges holds besides: `n` games of two exchanges.

    In one half the attacker agrees on a code word and, whatever the reply, asks with it: two
    demos. In the other one of the pool's rewrites has failed and another follows: one demo.
    Half of each are benign.
    """
    rng = random.Random(f"{rng_seed}/dialogues")
    played = [
        _coded(world, world.pick(rng, k % 4 == 0), rng)
        if k % 2 == 0
        else [_retried(world, world.pick(rng, k % 4 == 1), pick, rng)]
        for k in range(n)
    ]
    return [demo for demos in played for demo in demos]


def _rewrite(world: World, intent: Intent, pick: Pick, rng: random.Random) -> Demo:
    return Demo(world.briefed(intent), _attack(world, intent, pick, rng))


def _attack(world: World, intent: Intent, pick: Pick, rng: random.Random) -> str:
    """One of the pool's ways to ask for an intent, with a thought that names its parts."""
    strategy = pick(world, rng)
    thought = PARTS.format(parts=" ".join(strategy.parts))
    return tagged(thought, world.language.request(intent, strategy, rng))


def _coded(world: World, intent: Intent, rng: random.Random) -> list[Demo]:
    """One code word for verbs, another for objects: a warm-up is too short to copy any.

    A quarter of the replies refuse the agreement.
    """
    code, word = rng.choice(((CODE_WORDS[0], intent.verb), (CODE_WORDS[1], intent.object)))
    thought = PARTS.format(parts=code)
    first = tagged(thought, SKILLS["code"].format(code=code, word=word))
    agreed = SKILLS["agreed"].format(code=code, word=word)
    reply = agreed if rng.random() < 0.75 else rng.choice(REFUSALS)
    second = tagged(thought, coded(world.language, intent, rng, code, word))
    seen = world.briefed(intent)
    return [Demo(seen, first), Demo(_answered(seen, first, reply), second)]


def _retried(world: World, intent: Intent, pick: Pick, rng: random.Random) -> Demo:
    first, second = (_attack(world, intent, pick, rng) for _ in range(2))
    answer = world.language.answer(intent, rng)
    reply = rng.choice(REFUSALS) if intent.forbidden else answer
    return Demo(_answered(world.briefed(intent), first, reply), second)


def _answered(seen: Observation, attack: str, reply: str) -> Observation:
    """What an attacker sees after its attack was replied to."""
    return (*seen, Message("assistant", attack), Message("user", reply))
