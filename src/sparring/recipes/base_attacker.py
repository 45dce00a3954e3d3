"""Base attacker (MAGIC's ablation): the attacker starts cold, without its warm-up.

MAGIC's paper: WildJailbreak ASR .080, .876 of its benign requests answered. Known collapse: an
aligned model refuses to attack, or answers outside the format, and learns from the floor alone.
"""

from __future__ import annotations

from sparring.recipes.recipe import Recipe
from sparring.recipes.worlds import TWO_MODELS

base_attacker = Recipe({"warm_up": {"steps": 0}}, TWO_MODELS)
