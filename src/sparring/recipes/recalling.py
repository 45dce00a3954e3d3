"""From settings to what a run remembers: the experience pool, reflection, the league."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparring.arena import Cast
from sparring.games.game import Game
from sparring.judges.judge import Judge
from sparring.memory.experience import (
    ExperiencePool,
    Held,
    Rules,
    Sampler,
    thompson,
    ucb,
    uniform,
)
from sparring.memory.league import Latest, League, Opposition, Trial, nash
from sparring.memory.league import uniform as anyone
from sparring.memory.memory import Forgetful, Memory
from sparring.memory.reflection import Reflecting, Wording
from sparring.policies.policy import Speaker
from sparring.settings import RunConfig
from sparring.types import Player, Seed, UsageError


def memory(config: RunConfig, held: Held) -> Memory:
    """The experience pool, or none; `held` says how well the defence did.

    UsageError for a reflection on what nobody remembers: it would be a run without a word of it.
    """
    told = config.memory.experience
    samplers: Mapping[str, Sampler] = {
        "uniform": uniform,
        "ucb": ucb(told.ucb_c),
        "thompson": thompson,
    }
    if told.sampler not in samplers:
        if told.reflect:
            raise UsageError(
                "memory.experience.reflect: there is no pool whose failures could be shown; set "
                "memory.experience.sampler=ucb, or leave it out"
            )
        return Forgetful()
    rules = Rules(
        capacity=told.capacity,
        replay_share=told.replay_share,
        reexamine=told.reexamine,
        admit_below=told.admit_below,
        retire_at=told.retire_at,
        retire_after=told.retire_after,
        reflect=told.reflect,
    )
    return ExperiencePool(held, samplers[told.sampler], rules, f"{config.seed}/replay")


def reflecting(config: RunConfig, cast: Cast, pool: Memory, wording: Wording) -> Cast:
    """The cast, the defender reflecting on its replays if that is asked for."""
    if not (config.memory.experience.reflect and isinstance(pool, ExperiencePool)):
        return cast
    return {**cast, Player.DEFENDER: Reflecting(cast[Player.DEFENDER], pool, wording)}


def league(
    config: RunConfig,
    policies: Mapping[Player, Speaker],
    game: Game,
    judge: Judge,
    seeds: Sequence[Seed],
) -> Opposition:
    """Past selves as opponents, or only the present ones.

    Selves are measured against each other on training seeds, never on the exam's.
    """
    told = config.memory.league
    if told.opponents == "latest":
        return Latest()
    harmful = [seed for seed in seeds if seed.harmful]
    openings = [game.open(harmful[k % len(harmful)]) for k in range(told.trials)]
    return League(
        policies=policies,
        opponents=nash if told.opponents == "nash" else anyone,
        trial=Trial(game, judge, openings, "league"),
        every=told.keep_every,
        share=told.share,
        rng_seed=f"{config.seed}/league",
    )
