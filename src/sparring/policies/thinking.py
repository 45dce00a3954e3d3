"""A policy that thinks first: its thought is trained on, and shown to nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparring.games.tags import answer_of
from sparring.policies.chat import Chat
from sparring.policies.policy import Request, Speaker
from sparring.policies.weights import Weights
from sparring.types import Completion, Message


@dataclass(frozen=True)
class Thinking:
    """`policy` under a brief that asks for `<think>…</think><answer>…</answer>`.

    The text of a completion is the answer alone, '' where it does not parse; its tokens are all
    that was sampled, so the thought is learned from.
    """

    policy: Speaker
    brief: str

    @property
    def weights(self) -> Weights:
        return self.policy.weights

    @property
    def chat(self) -> Chat:
        return self.policy.chat

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        system = Message("system", self.brief)
        asked = [replace(r, observation=(system, *r.observation)) for r in requests]
        return [
            [replace(said, text=answer_of(said.text) or "") for said in told]
            for told in self.policy.sample(asked)
        ]
