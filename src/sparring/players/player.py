"""Who plays: the protocol of a policy, and wrappers that change one thing about one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from sparring.games.game import answer_of
from sparring.players.chat import Chat
from sparring.players.ranks import Ranks, shared_out
from sparring.players.sharding import in_step
from sparring.players.weights import Tensors, Weights
from sparring.types import Completion, Message, Observation

if TYPE_CHECKING:
    from sparring.players.chat import Chat
    from sparring.players.weights import Weights


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


@dataclass(frozen=True, slots=True)
class ScriptedPolicy:
    """Says `script(observation, address)`."""

    script: Callable[[Observation, str], str]

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return [
            [Completion(self.script(request.observation, address)) for address in request.addresses]
            for request in requests
        ]


@dataclass(frozen=True)
class Past:
    """`policy` as it was with `tensors`; the present weights are back after every call.

    So one set of weights can sit in both seats at different ages.
    """

    policy: Speaker
    tensors: Tensors

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        with self.policy.weights.holding(self.tensors):
            return self.policy.sample(requests)


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
