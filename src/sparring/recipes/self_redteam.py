"""Self-RedTeam (arXiv:2506.07468): one policy, one sample a prompt, advantages whitened by role.

Half of the seeds are rewritten and half asked as they stand; KL 0.01 to where RL began; a batch of
ordinary chat is imitated after every update; both roles think where nobody sees it. Its published
figures for Qwen2.5-7B-Instruct: WildGuardTest ASR .255 (base .365), HarmBench .237 (.363), XSTest
.904 (.940). Known collapses: the attacker settles on a few rewrites, since nothing compares the
attacks on one seed with each other.
"""

from __future__ import annotations

from sparring.recipes.recipe import Recipe
from sparring.recipes.worlds import ONE_MODEL

self_redteam = Recipe(
    {
        "weights": "shared",
        "schedule": {"kind": "both"},
        "game": {
            "payoff": "self_redteam",
            "gate": False,
            "helpfulness": 0.0,
            "format": 1.0,
            "reply_format": 1.0,
        },
        "learner": {
            "num_generations": 1,
            "advantage": "role_baseline",
            "beta": 0.01,
            "learning_rate": 5e-7,
            "chat_batch": 32,
        },
        "warm_up": {"chat": 0.5},
        "data": {"as_they_stand": 0.5},
    },
    {
        **ONE_MODEL,
        "game": {"diversity": 0.0},
        "learner": {
            "learning_rate": 3e-4,
            "num_generations": 1,
            "seeds_per_round": 256,
            "chat_batch": 32,
            "optimizer": {"micro_batch_tokens": 2048},
        },
    },
)
