"""No game (MAGIC's ablation): the defender learns from the seeds as they stand; nobody attacks.

MAGIC's paper: WildJailbreak ASR .127, but only .496 of its benign requests answered. Expected on
the sandbox: wrapped attacks work as before (docs/results.md).
"""

from __future__ import annotations

from sparring.recipes.recipe import Recipe
from sparring.recipes.worlds import TWO_MODELS

no_game = Recipe(
    {
        "schedule": {"kind": "defender"},
        "data": {"as_they_stand": 1.0},
        "warm_up": {"steps": 0},
    },
    TWO_MODELS,
)
