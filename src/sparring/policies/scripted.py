"""Players without a model: they say what a function says. For tests, baselines and examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparring.policies.policy import Request
from sparring.types import Completion, Observation


@dataclass(frozen=True, slots=True)
class ScriptedPolicy:
    """Says `script(observation, address)`."""

    script: Callable[[Observation, str], str]

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return [
            [Completion(self.script(request.observation, address)) for address in request.addresses]
            for request in requests
        ]
