"""A policy whose requests are shared out over the processes of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparring.policies.chat import Chat
from sparring.policies.policy import Request, Speaker
from sparring.policies.sharding import in_step
from sparring.policies.weights import Weights
from sparring.ranks import Ranks, shared_out
from sparring.types import Completion


@dataclass(frozen=True)
class Split:
    """`policy`, of which every rank samples its share; what is said does not depend on how many."""

    policy: Speaker
    ranks: Ranks

    @property
    def weights(self) -> Weights:
        return self.policy.weights

    @property
    def chat(self) -> Chat:
        return self.policy.chat

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return shared_out(self.ranks, requests, self._share)

    def _share(self, requests: Sequence[Request]) -> list[list[Completion]]:
        with in_step(self.weights.model):
            return self.policy.sample(requests)
