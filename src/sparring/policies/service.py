"""What a training service answers: LoRA clients of one base model, one for each role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sparring.policies.engine import Ask, Drawing, Drawn


@dataclass(frozen=True, slots=True)
class Datum:
    """One completion to learn from, with the log-probabilities it was sampled with (nats).

    `advantage` is every token's; all that a loss is divided by is already in it.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float


@dataclass(frozen=True, slots=True)
class Passed:
    """What a pass over data found: each datum's loss, shape [B], and the log-probabilities of its
    tokens under the weights as they were (nats), shape [B][T]."""

    losses: tuple[float, ...]
    logprobs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Adam:
    """One step of AdamW without weight decay; `eps` is torch's default."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8


class LoraClient(Protocol):
    """One role's adapter, which lives on the service together with its optimizer's moments."""

    @property
    def version(self) -> int:
        """How many steps the adapter has seen."""
        ...

    def sample(self, asked: Sequence[Ask], how: Drawing) -> list[Drawn]:
        """One completion for each, in order, from the adapter as it is now."""
        ...

    def forward_backward(self, data: Sequence[Datum], epsilon: tuple[float, float]) -> Passed:
        """Add the gradient of the sum over data and tokens of −min(ρA, clip(ρ, 1 − ε, 1 + ε)A).

        Once before each `optim_step`: a service may divide by how many data it has seen.
        """
        ...

    def optim_step(self, adam: Adam) -> float | None:
        """Apply the gradient; its norm, if the service tells it."""
        ...

    def save(self, name: str) -> str:
        """Keep adapter and moments under a new name; where `load` finds them."""
        ...

    def load(self, path: str, version: int) -> None:
        """Go back to what `save` kept after `version` steps."""
        ...


class Service(Protocol):
    """Holds a base model and trains any number of adapters on it."""

    def create_role(self, rank: int, seed: int) -> LoraClient:
        """A fresh adapter, which changes nothing yet."""
        ...
