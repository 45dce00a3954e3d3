"""Pure tensor functions: the clipped surrogate, the KL estimator, and how tokens are averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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
