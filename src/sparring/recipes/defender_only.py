"""Defender only (MAGIC's ablation): the warmed-up attacker is frozen, so its attacks never change.

MAGIC's paper: WildJailbreak ASR .127, .916 of its benign requests answered, .812 of XSTest's.
Known collapse: the defence holds against the attack pool and little else.
"""

from __future__ import annotations

from sparring.recipes.recipe import Recipe
from sparring.recipes.worlds import TWO_MODELS

defender_only = Recipe({"schedule": {"kind": "defender"}}, TWO_MODELS)
