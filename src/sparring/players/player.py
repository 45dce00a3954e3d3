"""Who plays and who learns: the protocols of a policy and a learner, and a scripted policy."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sparring.types import Completion, Metrics, Observation, Sample


def drawn_at(address: str) -> random.Random:
    """Return randomness that depends on an address alone; a seed's id may hold any text."""
    return random.Random(address.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Request:
    """What one state asks of a policy: a completion for each address of randomness.

    Two requests with the same observation and address get the same completion, whatever else is
    in the batch.
    """

    observation: Observation
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn, with lengths in tokens.

    `batch_tokens` bounds rows x length of the requests that decode together; one request is never
    split. `template_kwargs` are handed to the chat template.
    """

    temperature: float = 1.0
    max_completion_length: int = 512
    batch_tokens: int = 65_536
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


class Policy(Protocol):
    """Whoever makes a player's moves."""

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """For each request, one completion per address, in order."""


class Learner(Protocol):
    """Turns samples into an update of the weights it was made with."""

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update; metrics are prefixed by the player they are about."""


@dataclass(frozen=True, slots=True)
class ScriptedPolicy:
    """A policy without a model: it answers `script(observation, address)`."""

    script: Callable[[Observation, str], str]

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return [
            [Completion(self.script(request.observation, address)) for address in request.addresses]
            for request in requests
        ]
