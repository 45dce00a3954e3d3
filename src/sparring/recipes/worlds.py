"""What the sandbox needs instead of the defaults, which are for models of billions of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LORA = {
    "r": 8,
    "lora_alpha": 16,
    "modules_to_save": ["embed_tokens", "lm_head"],
    "ensure_weight_tying": True,
}
"""With weights: adapters. The base never learned to emit the tags, so the output head must move."""
TWO_MODELS: Mapping[str, Any] = {
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
    "game": {"diversity": 0.5},
    "warm_up": {"learning_rate": 2e-3, "pool": "broad"},
    "memory": {"experience": {"capacity": 256}, "league": {"opponents": "uniform"}},
}
"""An attacker and a defender of full weights each, learning in turn.

The broad pool, the diversity term and the league are what held against attackers that train on
the defender (docs/results.md).
"""

ONE_MODEL: Mapping[str, Any] = {
    "rounds": 160,
    "attacker": {"lora": _LORA},
    "defender": {"lora": _LORA},
    "sampling": {"max_completion_length": 56},
    "learner": {
        "learning_rate": 3e-4,
        "num_generations": 4,
        "seeds_per_round": 32,
        "optimizer": {"micro_batch_tokens": 2048},
    },
    "game": {"diversity": 0.25},
    "warm_up": {"learning_rate": 2e-3, "steps": 375, "pool": "broad"},
    "memory": {"experience": {"capacity": 256}},
}
"""One model of full weights in both seats, learning every round."""
