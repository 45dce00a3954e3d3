"""A policy that an engine speaks for: weights published under a name, and drawn from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparring.policies.chat import Chat
from sparring.policies.engine import Ask, Drawing, Drawn, answered
from sparring.policies.local import Sampling
from sparring.policies.policy import Request
from sparring.policies.publishing import Publishing
from sparring.policies.weights import Weights
from sparring.types import Completion


@dataclass(frozen=True)
class ServedPolicy:
    """`weights` as they are at each call, spoken by the engine of `publishing`.

    Tokens and log-probabilities are the engine's. The same address has the same seed, but an
    engine rounds by what else is in its batch: a run on one is not the same run twice.
    """

    weights: Weights
    chat: Chat
    sampling: Sampling
    publishing: Publishing

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return answered(requests, self.chat, self.weights.version, self._draw)

    def _draw(self, asked: Sequence[Ask]) -> list[Drawn]:
        told, stops = self.sampling, self.chat.stop_ids
        name = self.publishing.publish(self.weights, self.chat, told.temperature)
        how = Drawing(told.temperature, told.max_completion_length, stops)
        return self.publishing.engine.draw(name, asked, how)
