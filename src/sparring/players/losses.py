"""Pure tensor functions: the clipped surrogate, the KL estimator, token means, mismatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sparring.types import Metrics

if TYPE_CHECKING:
    from torch import Tensor


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


def grpo(loss_BT: Tensor, mask_BT: Tensor, sequences: int, tokens: int, longest: int) -> Tensor:
    """The mean over sequences of each one's mean over tokens (arXiv:2402.03300, eq. 3)."""
    per_sequence_B = (loss_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)
    return per_sequence_B.sum() / sequences


def dr_grpo(loss_BT: Tensor, mask_BT: Tensor, sequences: int, tokens: int, longest: int) -> Tensor:
    """The sum over tokens, divided by a constant: no bias by length (arXiv:2503.20783)."""
    return (loss_BT * mask_BT).sum() / (sequences * longest)


def dapo(loss_BT: Tensor, mask_BT: Tensor, sequences: int, tokens: int, longest: int) -> Tensor:
    """The mean over all tokens of the batch (arXiv:2503.14476, eq. 8)."""
    return (loss_BT * mask_BT).sum() / tokens


Aggregation = Callable[["Tensor", "Tensor", int, int, int], "Tensor"]
AGGREGATIONS: dict[str, Aggregation] = {"grpo": grpo, "dr_grpo": dr_grpo, "dapo": dapo}
"""`sequences`, `tokens` and `longest` describe the whole update, so micro-batches just add up."""


def truncated_ratio(logp_BT: Tensor, sampled_BT: Tensor, limit: float) -> Tensor:
    """Per-token weight min(exp(logp − sampled), limit), shape [B, T]; no gradient goes through it.

    `sampled` is what the engine said it drew with, `logp` what the learner says of the same
    weights. Truncated importance sampling, Ionides 2008, eq. 4; for the mismatch of a sampling
    and a training engine in RL of language models: Yao et al. 2025, "Your efficient RL framework
    secretly brings you off-policy RL training", with a limit of 2.
    """
    return (logp_BT - sampled_BT).exp().clamp(max=limit).detach()


LARGEST = ("ratio/max", "ratio/difference")
"""The sums of `count` that are none: what is told is the largest."""


def count(sums: dict[str, float], difference_BT: Tensor, mask_BT: Tensor, limit: float) -> None:
    """Add a micro-batch's tokens to `sums`; `difference` is logp − sampled in nats."""
    difference_BT = difference_BT * mask_BT
    ratio_BT = difference_BT.exp() * mask_BT
    found = {
        "ratio/tokens": mask_BT.sum().item(),
        "ratio/total": ratio_BT.sum().item(),
        "ratio/truncated": float((ratio_BT > limit).sum().item()),
        "ratio/max": ratio_BT.max().item(),
        "ratio/difference": difference_BT.abs().max().item(),
    }
    for name, value in found.items():
        before = sums.get(name, 0.0)
        sums[name] = max(before, value) if name in LARGEST else before + value


def of_mismatch(sums: Mapping[str, float]) -> Metrics:
    """Of the ratio before it is truncated; nothing where no token was weighed."""
    tokens = sums.get("ratio/tokens")
    if not tokens:
        return {}
    return {
        "sampling_ratio/mean": sums["ratio/total"] / tokens,
        "sampling_ratio/max": sums["ratio/max"],
        "sampling_ratio/truncated": sums["ratio/truncated"] / tokens,
        "sampling_logp_difference": sums["ratio/difference"],
    }
