"""Defender only (MAGIC's ablation): the warmed-up attacker is frozen, so its attacks never change.

MAGIC's paper: WildJailbreak ASR .127, .916 of its benign requests answered, .812 of XSTest's.
Known collapse: with a narrow attack pool the defence holds against that and little else; with a
broad one it does as well here as against an attacker that learns (docs/results.md).
"""

from __future__ import annotations

from sparring.recipes.recipe import Recipe
from sparring.recipes.worlds import TWO_MODELS

defender_only = Recipe({"schedule": {"kind": "defender"}}, TWO_MODELS)
