"""A past self: a policy that speaks with weights it no longer has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparring.policies.policy import Request, Speaker
from sparring.policies.weights import Tensors
from sparring.types import Completion


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
