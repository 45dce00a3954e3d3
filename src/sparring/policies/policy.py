"""What every policy answers: completions for observations, with the randomness given to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sparring.types import Completion, Observation

if TYPE_CHECKING:
    from sparring.policies.chat import Chat
    from sparring.policies.weights import Weights


@dataclass(frozen=True, slots=True)
class Request:
    """What one state asks of a policy: a completion for each address of randomness.

    Two requests with the same observation and address get the same completion, whatever else is
    in the batch.
    """

    observation: Observation
    addresses: tuple[str, ...]


class Policy(Protocol):
    """Who sits in a seat."""

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """For each request, one completion per address, in order."""
        ...


class Speaker(Policy, Protocol):
    """A policy with weights of its own, which a learner may change and a checkpoint may hold."""

    @property
    def weights(self) -> Weights:
        """What speaks."""
        ...

    @property
    def chat(self) -> Chat:
        """How messages become tokens."""
        ...
