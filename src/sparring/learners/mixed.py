"""A learner with a second lesson: after every RL update, one batch of ordinary chat is imitated.

Self-RedTeam (arXiv:2506.07468) mixes supervised data in this way, so that a model that plays
against itself does not forget how to talk.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sparring.learners.batching import Row
from sparring.learners.grpo import Grpo
from sparring.learners.sft import imitate
from sparring.types import Metrics, Sample


@dataclass(frozen=True)
class Mixed:
    """`grpo`, then one step on `batch_size` of `rows`.

    Which rows is drawn from the optimizer's count of steps, so a resumed run goes on alike.
    """

    grpo: Grpo
    rows: Sequence[Row]
    batch_size: int
    rng_seed: str

    def update(self, samples: Sequence[Sample]) -> Metrics:
        metrics = self.grpo.update(samples)
        optimizer, budget = self.grpo.optimizer, self.grpo.config.micro_batch_tokens
        address = f"{self.rng_seed}/{optimizer.steps}"
        batch = random.Random(address).choices(self.rows, k=self.batch_size)
        told = imitate(optimizer, batch, self.grpo.pad_id, budget, address)
        return metrics | {f"chat/{name}": value for name, value in told.items()}
