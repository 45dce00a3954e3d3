"""SSP, Safety Self-Play (arXiv:2601.10589): one policy plays both sides, and remembers.

Every round is a tree of 4 attacks a seed and 4 replies an attack; both roles learn in it from one
graded ruling, each within its own groups. What beat the defender is kept and replayed, drawn by
UCB. What is ours in it, and why, is in docs/ssp.md. Expected on the sandbox: docs/results.md.
Known collapses: without ordinary chat in the warm-up it forgets how to help; without benign seeds
it wins by refusing everything; live attacks soon stop working, so most attacker groups have no
variance.
"""

from __future__ import annotations

from sparring.recipes.recipe import Recipe
from sparring.recipes.worlds import ONE_MODEL

ssp = Recipe(
    {
        "weights": "shared",
        "schedule": {"kind": "both"},
        "game": {"payoff": "score", "helpfulness": 0.0},
        "learner": {"num_generations": 4},
        "warm_up": {"chat": 0.5},
        "memory": {"experience": {"sampler": "ucb"}},
    },
    ONE_MODEL,
)
