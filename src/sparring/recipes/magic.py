"""MAGIC (arXiv:2602.01539): two policies in an asymmetric sequential game, trained in alternation.

Phase 1 warms the attacker up on an attack pool; phase 2 alternates GRPO, defender first. What
differs from the paper, and why, is in docs/magic.md. Expected on the sandbox: docs/results.md.
Known collapses: without the gate the attacker drifts off the seed's intent; without the
helpfulness term the defender answers benign seeds with harmless garble.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparring import credit
from sparring.coevolve import Plan
from sparring.data.splits import draw
from sparring.diversity import rewarded
from sparring.games.dialogue import Dialogue
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.judges.judge import Judge
from sparring.recipes.parts import seats, setting, warm_up
from sparring.recipes.recipe import Match
from sparring.schedules import Schedule, alternate, by_metric, solo
from sparring.settings import RunConfig
from sparring.types import Player, State, Turn, UsageError

_LORA = {
    "r": 8,
    "lora_alpha": 16,
    "modules_to_save": ["embed_tokens", "lm_head"],
    "ensure_weight_tying": True,
}
"""With weights: adapters. The base never learned to emit the tags, so the output head must move."""
SANDBOX_DEFAULTS: Mapping[str, Any] = {
    "rounds": 160,
    "weights": "separate",
    "attacker": {"lora": _LORA},
    "defender": {"lora": _LORA},
    "sampling": {"max_completion_length": 56},
    "learner": {
        "learning_rate": {"attacker": 4e-4, "defender": 3e-4},
        "num_generations": {"attacker": 8, "defender": 4},
        "seeds_per_round": {"attacker": 32, "defender": 64},
        "optimizer": {"micro_batch_tokens": 2048},
    },
    "schedule": {"every": 10},
    "warm_up": {"learning_rate": 2e-3},
}
"""What the sandbox needs instead of the defaults, which are for models of billions of weights."""


def magic(config: RunConfig | None = None) -> Match:
    """The match that a configuration describes; loads models."""
    config = config or RunConfig.model_validate(SANDBOX_DEFAULTS)
    place = setting(config)
    rules = config.game
    payoff = LabelPayoff(MAGIC, rules.format, rules.helpfulness)
    game = Dialogue(payoff, place.briefs, rules.gate, rules.exchanges)
    _check_fields(game.needs, place.judge)
    table = seats(config)

    def openings(number: int, turn: Turn) -> list[State]:
        size = max(config.learner.seeds_per_round[player] for player in turn.learns)
        return [game.open(s) for s in draw(place.seeds, number, size, f"{config.seed}/seeds")]

    plan = Plan(
        game=game,
        judge=place.judge,
        openings=openings,
        schedule=_schedule(config),
        cast={player: seat.policy for player, seat in table.items()},
        learners={player: seat.learner for player, seat in table.items()},
        estimator=getattr(credit, config.learner.advantage),
        rounds=config.rounds,
        rng_seed=str(config.seed),
        measure=place.measure,
        shape=lambda episodes: rewarded(episodes, rules.diversity),
    )
    return Match(
        config=config,
        plan=plan,
        examined=replace(game, exchanges=2) if place.examiner else game,
        seats=table,
        held_out=place.held_out,
        pooled=place.pooled,
        record_attacks=place.world is None,
        warm_up=lambda: warm_up(config, table[Player.ATTACKER], place.pool),
        notes=place.notes,
        examiner=place.examiner,
    )


def _schedule(config: RunConfig) -> Schedule:
    told, widths = config.schedule, config.learner.num_generations
    turns = {p: solo(p, widths[p], config.game.replies_per_attack) for p in Player}
    if told.kind == "alternate":
        return alternate(turns, {player: told.every[player] for player in Player})
    return by_metric(turns, told.limits, told.window, told.dwell)


def _check_fields(needs: frozenset[str], judge: Judge) -> None:
    """Refuse at the door a term that no judge can tell."""
    missing = needs - judge.fills
    terms = {"on_topic": "game.gate=false", "helpful": "game.helpfulness=0"}
    ways = [f"set {terms[name]}" for name in sorted(missing & terms.keys())]
    if missing:
        raise UsageError(
            f"judge.kind: {judge.name} does not fill {', '.join(sorted(missing))}, which the game "
            f"needs; add a judge that does, or {' and '.join(ways) or 'change the payoff'}"
        )
