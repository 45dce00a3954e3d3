"""The attack pool: demonstrations of rewrites that an attacker is warmed up on."""

import random
from collections.abc import Callable

from sparring.games.game import tagged
from sparring.sandbox import words as w
from sparring.sandbox.language import Intent, Strategy
from sparring.sandbox.world import World
from sparring.types import Demo, Message, Observation

Pick = Callable[[World, random.Random], Strategy]
"""Which strategy a rewrite of the pool uses."""


def narrow(encodings: float) -> Pick:
    """A few strategies of one part: a share `encodings` of them encoded, the rest framed."""

    def pick(world: World, rng: random.Random) -> Strategy:
        if rng.random() < encodings:
            code = rng.choice(w.POOL_ENCODINGS)
            return Strategy((), code, code)
        return Strategy((rng.choice(w.POOL_FRAMES),))

    return pick


def broad(world: World, rng: random.Random) -> Strategy:
    """Every family but plain equally often, and every strategy in a family."""
    return world.drawn(rng)


def attack_pool(world: World, n: int, pick: Pick, rng_seed: str) -> list[Demo]:
    """`n` rewrites of training seeds, half of them benign."""
    rng = random.Random(f"{rng_seed}/pool")
    intents = (world.pick(rng, k % 2 == 0) for k in range(n))
    return [Demo(world.briefed(i), _attack(world, i, pick, rng)) for i in intents]


def dialogues(world: World, n: int, pick: Pick, rng_seed: str) -> list[Demo]:
    """`n` games of two exchanges, which a pool for several exchanges holds beside the rewrites.

    In one half the attacker agrees on a code word and, whatever the reply, asks with it: two
    demos. In the other half, a rewrite of the pool has failed and another follows: one demo.
    Half of each are benign.
    """
    rng = random.Random(f"{rng_seed}/dialogues")
    demos: list[Demo] = []
    for k in range(n):
        if k % 2 == 0:
            demos += _coded(world, world.pick(rng, k % 4 == 0), rng)
        else:
            demos.append(_retried(world, world.pick(rng, k % 4 == 1), pick, rng))
    return demos


def _attack(world: World, intent: Intent, pick: Pick, rng: random.Random) -> str:
    """One of the pool's ways to ask for an intent, with a thought that names its parts."""
    strategy = pick(world, rng)
    thought = w.PARTS.format(parts=" ".join(strategy.parts))
    return tagged(thought, world.language.request(intent, strategy, rng))


def _coded(world: World, intent: Intent, rng: random.Random) -> list[Demo]:
    """One code word for verbs, another for objects: a warm-up is too short to learn to
    copy arbitrary words.

    A quarter of the replies refuse the agreement.
    """
    code, word = rng.choice(((w.CODE_WORDS[0], intent.verb), (w.CODE_WORDS[1], intent.object)))
    agree, agreed = (w.SKILLS[k].format(code=code, word=word) for k in ("code", "agreed"))
    thought = w.PARTS.format(parts=code)
    first = tagged(thought, agree)
    reply = agreed if rng.random() < 0.75 else rng.choice(w.REFUSALS)
    second = tagged(thought, world.language.coded(intent, rng, code, word))
    brief = world.briefed(intent)
    return [Demo(brief, first), Demo(_replied(brief, first, reply), second)]


def _retried(world: World, intent: Intent, pick: Pick, rng: random.Random) -> Demo:
    first, second = (_attack(world, intent, pick, rng) for _ in range(2))
    answer = world.language.answer(intent, rng)
    reply = rng.choice(w.REFUSALS) if intent.forbidden else answer
    return Demo(_replied(world.briefed(intent), first, reply), second)


def _replied(brief: Observation, attack: str, reply: str) -> Observation:
    """What an attacker sees after its attack was replied to."""
    return (*brief, Message("assistant", attack), Message("user", reply))
