"""An attacker and a defender train against each other, and the defender gets safer.

The names below are the public API; everything else may move. They are loaded when they are first
used, so that importing `sparring` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring.arena import play
    from sparring.coevolve import Plan
    from sparring.data.readers import read, read_pool
    from sparring.exam import Exam
    from sparring.games.dialogue import Dialogue
    from sparring.games.game import Game
    from sparring.games.matrix import MatrixGame
    from sparring.games.payoffs import FunctionPayoff, LabelPayoff, ScorePayoff, SelfRedTeamPayoff
    from sparring.judges.judge import FunctionJudge, Judge, KeywordJudge
    from sparring.judges.panel import Panel
    from sparring.memory.experience import ExperiencePool
    from sparring.memory.league import League
    from sparring.players.grpo import Grpo, GrpoConfig
    from sparring.players.local import LocalPolicy
    from sparring.players.player import Policy, Request, Sampling, ScriptedPolicy
    from sparring.players.trainer import Trainer
    from sparring.players.weights import Weights
    from sparring.report.page import write_report
    from sparring.runs.recipes import Recipe, configured, magic, ssp
    from sparring.runs.run import Run
    from sparring.runs.train import Watch, train
    from sparring.settings.config import RunConfig
    from sparring.stats.rates import Outcome, Rate, rate
    from sparring.store.folder import RunDir
    from sparring.types import (
        Completion,
        CorruptError,
        Demo,
        Episode,
        GateError,
        Harm,
        Message,
        Move,
        Player,
        Round,
        Sample,
        Seed,
        SparringError,
        State,
        Status,
        Turn,
        UnscoredError,
        UsageError,
        Verdict,
    )

_MODULES = {
    "arena": "play",
    "coevolve": "Plan",
    "data.readers": "read read_pool",
    "exam": "Exam",
    "games.dialogue": "Dialogue",
    "games.game": "Game",
    "games.matrix": "MatrixGame",
    "games.payoffs": "FunctionPayoff LabelPayoff ScorePayoff SelfRedTeamPayoff",
    "judges.judge": "FunctionJudge Judge KeywordJudge",
    "judges.panel": "Panel",
    "memory.experience": "ExperiencePool",
    "memory.league": "League",
    "players.grpo": "Grpo GrpoConfig",
    "players.local": "LocalPolicy",
    "players.player": "Policy Request Sampling ScriptedPolicy",
    "players.trainer": "Trainer",
    "players.weights": "Weights",
    "report.page": "write_report",
    "runs.recipes": "Recipe configured magic ssp",
    "runs.run": "Run",
    "runs.train": "Watch train",
    "settings.config": "RunConfig",
    "stats.rates": "Outcome Rate rate",
    "store.folder": "RunDir",
    "types": "Completion CorruptError Demo Episode GateError Harm Message Move Player Round Sample "
    "Seed SparringError State Status Turn UnscoredError UsageError Verdict",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sparring' has no attribute {name!r}")
    return getattr(import_module(f"sparring.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
