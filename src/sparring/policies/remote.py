"""A policy whose weights live on a training service: one LoRA client, spoken through chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sparring.policies.chat import Chat
from sparring.policies.engine import Drawing, answered
from sparring.policies.local import Sampling
from sparring.policies.policy import Request
from sparring.policies.service import LoraClient
from sparring.types import Completion, UsageError


@dataclass(frozen=True)
class RemotePolicy:
    """`client` as it is at each call. The same address has the same seed, but a service rounds by
    what else is in its batch: a run on one is not the same run twice.

    Temperature 1, or 0 for an exam: such a service trains on log-probabilities at temperature 1.
    """

    client: LoraClient
    chat: Chat
    sampling: Sampling

    def __post_init__(self) -> None:
        if self.sampling.temperature not in (0.0, 1.0):
            raise UsageError(
                f"sampling.temperature: got {self.sampling.temperature}; a training service tells "
                "log-probabilities at temperature 1 and learns from them: use 1 (or 0, the "
                "likeliest token, in an exam)"
            )

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        told = self.sampling
        how = Drawing(told.temperature, told.max_completion_length, self.chat.stop_ids)
        draw = partial(self.client.sample, how=how)
        return answered(requests, self.chat, self.client.version, draw)
