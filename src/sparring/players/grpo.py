"""Group-relative policy optimisation on the tokens that were sampled."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparring.players.fast import batches, path_of
from sparring.players.logprobs import Batch, pad
from sparring.players.ranks import in_step
from sparring.players.trials import Row
from sparring.players.weights import Optimizer, Tensors
from sparring.pulse import beat
from sparring.types import Metrics, Player, Sample


def clipped_surrogate(
    logp_BT: Tensor, old_BT: Tensor, advantage_B: Tensor, epsilon: tuple[float, float]
) -> Tensor:
    """Per-token loss −min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high)A), shape [B, T].

    ρ = exp(logp − old). PPO, arXiv:1707.06347, eq. 7; separate ε as in DAPO, arXiv:2503.14476.
    """
    ratio_BT = (logp_BT - old_BT).exp()
    low, high = epsilon
    bounded_BT = ratio_BT.clamp(1 - low, 1 + high)
    advantage_B1 = advantage_B.unsqueeze(1)
    return -(ratio_BT * advantage_B1).minimum(bounded_BT * advantage_B1)


def k3(logp_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """Per-token estimate of KL(π ‖ π_ref) in nats, shape [B, T]: exp(d) − d − 1, d = ref − logp.

    GRPO, arXiv:2402.03300, eq. 4; non-negative and unbiased on samples of π.
    """
    d_BT = reference_BT - logp_BT
    return d_BT.exp() - d_BT - 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a loss is averaged over: a player's whole update, so that micro-batches just add up."""

    sequences: int
    tokens: int
    max_completion_length: int


def grpo(loss_BT: Tensor, mask_BT: Tensor, sizes: Sizes) -> Tensor:
    """The mean over sequences of each one's mean over tokens (arXiv:2402.03300, eq. 3)."""
    per_sequence_B = (loss_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)
    return per_sequence_B.sum() / sizes.sequences


def dr_grpo(loss_BT: Tensor, mask_BT: Tensor, sizes: Sizes) -> Tensor:
    """The sum over tokens, divided by a constant: no bias by length (arXiv:2503.20783)."""
    return (loss_BT * mask_BT).sum() / (sizes.sequences * sizes.max_completion_length)


def dapo(loss_BT: Tensor, mask_BT: Tensor, sizes: Sizes) -> Tensor:
    """The mean over all tokens of the batch (arXiv:2503.14476, eq. 8)."""
    return (loss_BT * mask_BT).sum() / sizes.tokens


Aggregation = Callable[[Tensor, Tensor, Sizes], Tensor]
AGGREGATIONS: dict[str, Aggregation] = {"grpo": grpo, "dr_grpo": dr_grpo, "dapo": dapo}


def truncated_ratio(logp_BT: Tensor, sampled_BT: Tensor, limit: float) -> Tensor:
    """Per-token weight min(exp(logp − sampled), limit), shape [B, T]; no gradient goes through it.

    `sampled` are the engine's log-probabilities, `logp` the learner's, of the same weights.
    Truncated importance sampling, Ionides 2008, eq. 4; for the mismatch of a sampling and a
    training engine in RL of language models: Yao et al. 2025, "Your efficient RL framework
    secretly brings you off-policy RL training", with a limit of 2.
    """
    return (logp_BT - sampled_BT).exp().clamp(max=limit).detach()


MAXIMA = frozenset({"drift", "ratio/max", "ratio/difference"})
"""The counts below that are combined by max, not by sum."""


def combined(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The counts of several micro-batches or processes as those of the whole."""
    total: dict[str, float] = defaultdict(float)
    for each in counts:
        for name, value in each.items():
            total[name] = max(total[name], value) if name in MAXIMA else total[name] + value
    return total


def token_counts(
    logp_BT: Tensor,
    old_BT: Tensor,
    advantage_B: Tensor,
    mask_BT: Tensor,
    epsilon: tuple[float, float],
) -> dict[str, float]:
    """What `grpo_metrics` needs of a micro-batch."""
    difference_BT = (logp_BT - old_BT) * mask_BT
    ratio_BT = difference_BT.exp()
    cut_BT = ratio_BT - ratio_BT.clamp(1 - epsilon[0], 1 + epsilon[1])
    return {
        "run": mask_BT.sum().item(),
        "clipped": ((cut_BT * advantage_B.unsqueeze(1) > 0) * mask_BT).sum().item(),
        "ratio": (ratio_BT * mask_BT).sum().item(),
        "entropy": -(logp_BT * mask_BT).sum().item(),
        "drift": difference_BT.abs().max().item(),
    }


ALARM = 0.05
"""Nats a token, mean: above it sampling and learning are two policies. Rounding of bfloat16 makes
.03 where keys have biases as large as Qwen2.5-7B's."""


def mismatch_counts(
    difference_BT: Tensor, mask_BT: Tensor, limit: float | None
) -> dict[str, float]:
    """What `grpo_metrics` needs of a micro-batch's first pass; learned − sampled, in nats.

    Ratios are counted where tokens are weighed by them, up to `limit`.
    """
    difference_BT = difference_BT * mask_BT
    counts = {"first": mask_BT.sum().item(), "apart": difference_BT.abs().sum().item()}
    if not limit:
        return counts
    ratio_BT = difference_BT.exp() * mask_BT
    return counts | {
        "ratio/total": ratio_BT.sum().item(),
        "ratio/truncated": float((ratio_BT > limit).sum().item()),
        "ratio/max": ratio_BT.max().item(),
        "ratio/difference": difference_BT.abs().max().item(),
    }


def grpo_metrics(counts: Mapping[str, float]) -> Metrics:
    """Metrics of one player's update, named as TRL does where it has them.

    `sampling_ratio/…` are those before truncation, and are left out where no token was weighed.
    `sampling_logp_difference/mean` is of the first pass, and above ALARM `sampling_alarm` is 1.
    """
    tokens = max(1.0, counts["run"])
    metrics = {"clip_ratio": counts["clipped"] / tokens, "loss": counts["loss"]}
    if "kl" in counts:
        metrics["kl"] = counts["kl"] / tokens
    if counts["run"]:  # a mean over nothing would read as 0: as if no token were likely
        metrics["importance_sampling_ratio/mean"] = counts["ratio"] / tokens
    metrics["sampling_logp_difference"] = counts["drift"]
    metrics["entropy"] = counts["entropy"] / tokens
    if not (first := counts.get("first", 0.0)):
        return metrics
    metrics["sampling_logp_difference/mean"] = counts["apart"] / first
    if counts["apart"] / first > ALARM:
        metrics["sampling_alarm"] = 1.0
    if "ratio/total" in counts:
        metrics["sampling_ratio/mean"] = counts["ratio/total"] / first
        metrics["sampling_ratio/max"] = counts["ratio/max"]
        metrics["sampling_ratio/truncated"] = counts["ratio/truncated"] / first
        metrics["sampling_logp_difference"] = counts["ratio/difference"]
    return metrics


def by_player(samples: Sequence[Sample]) -> list[tuple[Player, list[Sample]]]:
    """The samples of each player that has any, in the order of players."""
    groups = [(player, [s for s in samples if s.player is player]) for player in Player]
    return [(player, own) for player, own in groups if own]


def finite(metrics: Metrics) -> Metrics:
    """The metrics that are finite: records are JSON, which cannot hold the others."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


@dataclass(frozen=True, slots=True)
class GrpoConfig:
    """`epsilon` bounds the ratio below and above; `beta` weighs the KL term (nats).

    `updates_per_batch` passes are made over the same samples; from the second on the ratio
    differs from 1. `max_completion_length` (tokens) is dr_grpo's constant. `ratio_limit` is for
    samples of another engine, or of one that rounds as bfloat16 does (`truncated_ratio`); None:
    old log-probabilities are the sampled ones.
    """

    loss: str = "grpo"
    epsilon: tuple[float, float] = (0.2, 0.2)
    beta: float = 0.0
    temperature: float = 1.0
    updates_per_batch: int = 1
    max_completion_length: int = 512
    micro_batch_tokens: int = 16_384
    ratio_limit: float | None = None

    def sizes(self, samples: Sequence[Sample]) -> Sizes:
        """What the loss of one player's samples is averaged over."""
        tokens = sum(len(sample.completion.token_ids) for sample in samples)
        return Sizes(len(samples), tokens, self.max_completion_length)


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
        """One update from the samples of a round; without a signal the weights stay as they are."""
        losses = [PlayerLoss(player, own, self) for player, own in by_player(samples)]
        metrics: Metrics = {}
        signal = any(loss.samples for loss in losses)
        for _ in range(self.config.updates_per_batch if signal else 0):
            for loss in losses:
                metrics |= loss.backward(self.shares.get(loss.player, 1.0))
            step = self.optimizer.step()
            for loss in losses:
                metrics |= {f"{loss.player}/{name}": value for name, value in step.items()}
        return finite(metrics)


class PlayerLoss:
    """One player's part of an update: its batches, old and reference log-probabilities.

    With beta = 0 a sample whose advantage is 0 has no gradient and is not run; it still counts
    in every denominator, so leaving it out changes nothing. `samples` is how many run, on all
    ranks together.
    """

    def __init__(self, player: Player, samples: Sequence[Sample], learner: Grpo) -> None:
        optimizer, config = learner.optimizer, learner.config
        self.player, self.config, self.ranks = player, config, optimizer.ranks
        self.model, self.sizes = optimizer.weights.model, config.sizes(samples)
        signal = [s for s in samples if s.advantage or config.beta]
        self.samples = len(signal)
        prompts = list(dict.fromkeys(s.completion.prompt_ids for s in signal))
        own = set(prompts[self.ranks.index :: self.ranks.size])  # a group stays on one rank
        run = [s for s in signal if s.completion.prompt_ids in own]
        rows: list[Row] = [(s.completion.prompt_ids, s.completion.token_ids) for s in run]
        self.advantage_B = torch.tensor([s.advantage for s in run], device=self.model.device)
        self.path = path_of(self.model)
        self.batches = [
            pad(rows, index, learner.pad_id, self.model.device)
            for index in batches(rows, config.micro_batch_tokens, self.path, self.model)
        ]
        self.old_BT = [_sampled(run, batch) for batch in self.batches]
        self.weight_BT: list[Tensor] = []
        self.mismatch: list[dict[str, float]] = []
        self.reference_BT = self._reference(learner) if config.beta else []

    def _reference(self, learner: Grpo) -> list[Tensor]:
        weights, temperature = learner.optimizer.weights, self.config.temperature
        reference, merged = weights.holding(learner.reference), weights.merged()
        with reference, merged as model, torch.no_grad(), in_step(model):
            return [self.path.logprobs(model, batch, temperature) for batch in self.batches]

    def backward(self, share: float) -> Metrics:
        """Add this player's gradient; micro-batches sum to the whole batch's loss exactly."""
        counts: list[Mapping[str, float]] = []
        with in_step(self.model):
            for i, batch in enumerate(self.batches):
                beat("learning", i, len(self.batches))
                logp_BT = self.path.logprobs(self.model, batch, self.config.temperature)
                counts.append(self._backward(logp_BT, i, share))
        here = combined([*counts, *self.mismatch])
        metrics = grpo_metrics(combined(self.ranks.gather(here)))
        return {f"{self.player}/{name}": value for name, value in metrics.items()}

    def _backward(self, logp_BT: Tensor, i: int, share: float) -> dict[str, float]:
        """The gradient of one micro-batch, and what it counted."""
        config, mask_BT = self.config, self.batches[i].mask_BT
        if len(self.mismatch) == i:
            # On the first pass the learner still has the weights that the engine sampled with.
            own_BT, engine_BT, limit = logp_BT.detach(), self.old_BT[i], config.ratio_limit
            self.mismatch.append(mismatch_counts(own_BT - engine_BT, mask_BT, limit))
            if limit:
                # From here on its own log-probabilities are the old ones, and each token is
                # weighed by the ratio to the engine's.
                self.weight_BT.append(truncated_ratio(own_BT, engine_BT, limit))
                self.old_BT[i] = own_BT
        advantage_B = self.advantage_B[list(self.batches[i].index)]
        loss_BT = clipped_surrogate(logp_BT, self.old_BT[i], advantage_B, config.epsilon)
        if config.ratio_limit:
            loss_BT = loss_BT * self.weight_BT[i]
        counts = {}
        if config.beta:
            kl_BT = k3(logp_BT, self.reference_BT[i])
            loss_BT = loss_BT + config.beta * kl_BT
            counts["kl"] = (kl_BT * mask_BT).sum().item()
        loss = AGGREGATIONS[config.loss](loss_BT, mask_BT, self.sizes)
        (share * loss).backward()  # type: ignore[no-untyped-call]
        counts["loss"] = loss.item()
        tokens = logp_BT.detach(), self.old_BT[i], advantage_B, mask_BT
        return counts | token_counts(*tokens, config.epsilon)


def _sampled(samples: Sequence[Sample], batch: Batch) -> Tensor:
    """The log-probabilities the tokens were sampled with, shape [B, T]."""
    rows = [torch.tensor(samples[i].completion.logprobs) for i in batch.index]
    return pad_sequence(rows, batch_first=True).to(batch.mask_BT)
