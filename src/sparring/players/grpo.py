"""Group-relative policy optimisation on the tokens that were sampled."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sparring.players.fast.sharing import path_of
from sparring.players.logprobs import Batch, Row, microbatches, pad
from sparring.players.losses import (
    AGGREGATIONS,
    LARGEST,
    clipped_surrogate,
    count,
    k3,
    of_mismatch,
    truncated_ratio,
)
from sparring.players.optimizer import Optimizer
from sparring.players.sharding import in_step
from sparring.players.weights import Tensors
from sparring.types import Metrics, Player, Sample

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class GrpoConfig:
    """`epsilon` bounds the ratio below and above; `beta` weighs the KL term (nats).

    `updates_per_batch` passes are made over the same samples; from the second on the ratio
    differs from 1. `longest` is the completion limit in tokens (dr_grpo's constant).
    `ratio_limit` is for samples of another engine (`mismatch`); None: old log-probabilities are the
    sampled ones.
    """

    loss: str = "grpo"
    epsilon: tuple[float, float] = (0.2, 0.2)
    beta: float = 0.0
    temperature: float = 1.0
    updates_per_batch: int = 1
    longest: int = 512
    micro_batch_tokens: int = 16_384
    ratio_limit: float | None = None


@dataclass
class Grpo:
    """A learner of one set of weights, for all the players it serves.

    Each player's loss is normalised over its own samples, then weighted by `shares` and added.
    `reference` holds the weights when RL began; it is only read when beta > 0.
    """

    optimizer: Optimizer
    pad_id: int
    config: GrpoConfig
    reference: Tensors = field(default_factory=dict)
    shares: Mapping[Player, float] = field(default_factory=dict)

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update from the samples of a round; without a signal the weights stay as they are.

        A metric that is not finite is left out: records are JSON, which cannot hold it.
        """
        by_player: dict[Player, list[Sample]] = defaultdict(list)
        for sample in samples:
            by_player[sample.player].append(sample)
        jobs = [_Job(player, told, self) for player, told in sorted(by_player.items())]
        metrics: Metrics = {}
        for _ in range(self.config.updates_per_batch if any(j.run for j in jobs) else 0):
            for job in jobs:
                metrics |= job.backward(self.shares.get(job.player, 1.0))
            learning_rate = self.optimizer.learning_rate
            norm = self.optimizer.step()
            for job in jobs:
                metrics[f"{job.player}/learning_rate"] = learning_rate
                metrics[f"{job.player}/grad_norm"] = norm
        return {name: value for name, value in metrics.items() if math.isfinite(value)}


class _Job:
    """One player's part of an update: its batches, old and reference log-probabilities.

    With beta = 0 a sample whose advantage is 0 has no gradient and is not run; it still counts
    in every denominator, so leaving it out changes nothing.
    """

    def __init__(self, player: Player, samples: Sequence[Sample], learner: Grpo) -> None:
        import torch

        self.player, self.config = player, learner.config
        self.ranks = learner.optimizer.ranks
        self.model = learner.optimizer.weights.model
        self.sequences = len(samples)
        self.tokens = sum(len(s.completion.token_ids) for s in samples)
        told = [s for s in samples if s.advantage or self.config.beta]
        self.run = len(told)
        prompts = list(dict.fromkeys(s.completion.prompt_ids for s in told))
        mine = set(prompts[self.ranks.index :: self.ranks.size])  # a group stays on one rank
        run = [s for s in told if s.completion.prompt_ids in mine]
        self.rows: list[Row] = [(s.completion.prompt_ids, s.completion.token_ids) for s in run]
        device = self.model.device
        self.advantage_B = torch.tensor([s.advantage for s in run], device=device)
        self.path = path_of(self.model)
        self.batches = [
            pad(self.rows, index, learner.pad_id, device)
            for index in microbatches(self.rows, self.config.micro_batch_tokens, self.path.cost)
        ]
        self.old_BT = [_sampled(run, batch) for batch in self.batches]
        self.weight_BT: list[Tensor] = []
        self.mismatch: dict[str, float] = {}
        self.reference_BT = self._reference(learner) if self.config.beta else []

    def _reference(self, learner: Grpo) -> list[Tensor]:
        import torch

        weights, temperature = learner.optimizer.weights, self.config.temperature
        held, merged = weights.holding(learner.reference), weights.merged()
        with held, merged as model, torch.no_grad(), in_step(model):
            return [self.path.logprobs(model, batch, temperature) for batch in self.batches]

    def _weigh(self, logp_BT: Tensor, i: int, limit: float) -> None:
        """On the first pass the learner is still what the engine was given: from here on its own
        log-probabilities are the old ones, and each token is weighed by ratio to the engine's."""
        mask_BT = self.batches[i].mask_BT
        self.weight_BT.append(truncated_ratio(logp_BT, self.old_BT[i], limit))
        count(self.mismatch, logp_BT - self.old_BT[i], mask_BT, limit)
        self.old_BT[i] = logp_BT

    def backward(self, share: float) -> Metrics:
        """Add this player's gradient; micro-batches sum to the whole batch's loss exactly."""
        config = self.config
        aggregate = AGGREGATIONS[config.loss]
        sizes = self.sequences, self.tokens, config.longest
        sums: dict[str, float] = defaultdict(float)
        with in_step(self.model):
            for i, batch in enumerate(self.batches):
                logp_BT = self.path.logprobs(self.model, batch, config.temperature)
                if config.ratio_limit and len(self.weight_BT) == i:
                    self._weigh(logp_BT.detach(), i, config.ratio_limit)
                advantage_B = self.advantage_B[list(batch.index)]
                loss_BT = clipped_surrogate(logp_BT, self.old_BT[i], advantage_B, config.epsilon)
                if config.ratio_limit:
                    loss_BT = loss_BT * self.weight_BT[i]
                if config.beta:
                    kl_BT = k3(logp_BT, self.reference_BT[i])
                    loss_BT = loss_BT + config.beta * kl_BT
                    sums["kl"] += (kl_BT * batch.mask_BT).sum().item()
                loss = aggregate(loss_BT, batch.mask_BT, *sizes)
                (share * loss).backward()  # type: ignore[no-untyped-call]
                sums["loss"] += loss.item()
                self._count(sums, logp_BT.detach(), i)
        sums["run"] = sum(b.mask_BT.sum().item() for b in self.batches)
        sums = _together(self.ranks.gather(sums | self.mismatch))
        run = max(1.0, sums["run"])
        named = {"clip_ratio": sums["clipped"] / run, "loss": sums["loss"]}
        if config.beta:
            named["kl"] = sums["kl"] / run
        if self.run:  # a mean over nothing would read as 0: as if no token were likely
            named["importance_sampling_ratio/mean"] = sums["ratio"] / run
        named["sampling_logp_difference"] = sums["drift"]
        named["entropy"] = sums["entropy"] / run
        named |= of_mismatch(sums)
        return {f"{self.player}/{name}": value for name, value in named.items()}

    def _count(self, sums: dict[str, float], logp_BT: Tensor, i: int) -> None:
        mask_BT = self.batches[i].mask_BT
        difference_BT = (logp_BT - self.old_BT[i]) * mask_BT
        ratio_BT = difference_BT.exp()
        low, high = self.config.epsilon
        advantage_B1 = self.advantage_B[list(self.batches[i].index)].unsqueeze(1)
        below_BT = (ratio_BT < 1 - low) & (advantage_B1 < 0)
        above_BT = (ratio_BT > 1 + high) & (advantage_B1 > 0)
        sums["clipped"] += ((below_BT | above_BT) * mask_BT).sum().item()
        sums["ratio"] += (ratio_BT * mask_BT).sum().item()
        sums["entropy"] -= (logp_BT * mask_BT).sum().item()
        sums["drift"] = max(sums["drift"], difference_BT.abs().max().item())


def _together(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the ranks counted, added up; of what is called so, the largest."""
    told: dict[str, float] = defaultdict(float)
    for name in sorted({name for share in shares for name in share}):
        largest = name in ("drift", *LARGEST)
        told[name] = (max if largest else sum)(share.get(name, 0.0) for share in shares)
    return told


def _sampled(samples: Sequence[Sample], batch: Batch) -> Tensor:
    """The log-probabilities the tokens were sampled with, shape [B, T]."""
    import torch

    longest = batch.mask_BT.shape[1]
    told = [samples[i].completion.logprobs for i in batch.index]
    padded = [(*row, *[0.0] * (longest - len(row))) for row in told]
    return torch.tensor(padded).to(batch.mask_BT)
