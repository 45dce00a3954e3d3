"""A policy that an engine speaks for: weights published under a name, and drawn from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparring.policies.chat import Chat
from sparring.policies.engine import Ask, Drawing, Drawn, seed_of
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
        prompts = self.chat.prompts([request.observation for request in requests])
        asked = [
            Ask(prompt, seed_of(address))
            for prompt, request in zip(prompts, requests, strict=True)
            for address in request.addresses
        ]
        if not asked:
            return [[] for _ in requests]
        temperature, stops = self.sampling.temperature, self.chat.stop_ids
        name = self.publishing.publish(self.weights, self.chat, temperature)
        how = Drawing(temperature, self.sampling.max_completion_length, stops)
        drawn = iter(self.publishing.engine.draw(name, asked, how))
        return [
            [self._completion(prompt, next(drawn)) for _ in request.addresses]
            for prompt, request in zip(prompts, requests, strict=True)
        ]

    def _completion(self, prompt: tuple[int, ...], drawn: Drawn) -> Completion:
        return Completion(
            text=self.chat.text(drawn.token_ids),
            token_ids=drawn.token_ids,
            logprobs=drawn.logprobs,
            prompt_ids=prompt,
            version=self.weights.version,
            finished=drawn.token_ids[-1] in self.chat.stop_ids,
        )
