"""MAGIC (arXiv:2602.01539): two policies in an asymmetric sequential game, trained in alternation.

Phase 1 warms the attacker up on an attack pool; phase 2 alternates GRPO, defender first. What
differs from the paper, and why, is in docs/magic.md. Expected on the sandbox: docs/results.md.
Known collapses: without the gate the attacker drifts off the seed's intent; without the
helpfulness term the defender answers benign seeds with harmless garble.
"""

from __future__ import annotations

from sparring.recipes.recipe import Recipe
from sparring.recipes.worlds import TWO_MODELS

magic = Recipe({}, TWO_MODELS)
