"""Defender chain of thought (MAGIC's ablation): the defender thinks before it answers.

Its thought is trained on and shown to nobody; a reply that does not parse is not judged. MAGIC's
paper: WildJailbreak ASR .136, .900 of its benign requests answered, .700 of XSTest's. Known
collapse: asking the format of the defender costs helpfulness.
"""

from __future__ import annotations

from sparring.recipes.recipe import Recipe
from sparring.recipes.worlds import TWO_MODELS

defender_cot = Recipe({"game": {"reply_format": 0.5}}, TWO_MODELS)
