"""AdamW over one player's weights, with a learning-rate schedule and an exact saved state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from sparring.players.ranks import ALONE, Ranks
from sparring.players.weights import Weights
from sparring.types import SparringError

_WIDE = "float32"
"""The name of a weight's float32 copy beside its moments."""


@dataclass(frozen=True, slots=True)
class LearningRate:
    """The learning rate over optimizer steps; `total` is needed for cosine decay."""

    peak: float
    kind: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    total: int = 0

    def at(self, step: int) -> float:
        """The rate of the 0-based `step`; cosine ends at a tenth of the peak."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        done = (step - self.warmup_steps) / max(1, self.total - self.warmup_steps)
        return self.peak * (0.55 + 0.45 * math.cos(math.pi * min(1.0, done)))


class Optimizer:
    """Clips, checks and applies one gradient at a time.

    Weights of less than 32 bits are stepped in a float32 copy and rounded from it: a step of 1e-5
    is below the spacing of bfloat16 around 0.02 (6e-5), so without the copy they would stand still.
    """

    def __init__(
        self,
        weights: Weights,
        schedule: LearningRate,
        betas: tuple[float, float] = (0.9, 0.95),
        max_grad_norm: float = 1.0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.weights, self.schedule, self.max_grad_norm = weights, schedule, max_grad_norm
        self.ranks = ranks
        self._parameters = list(weights.parameters.values())
        self._stepped = {
            name: p if p.dtype.itemsize >= 4 else Parameter(p.detach().float())
            for name, p in weights.parameters.items()
        }
        self._adam = torch.optim.AdamW(
            list(self._stepped.values()), lr=schedule.peak, betas=betas, weight_decay=0.0
        )
        self.steps = 0
        self.skipped = 0

    def step(self) -> float:
        """Apply the accumulated gradient; returns its norm before clipping.

        A gradient that is not finite is thrown away and counted; three in a row stop the run.
        """
        if self.ranks.size > 1:  # each has the gradient of its share of the batch
            for p in self._parameters:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            self.ranks.add(p.grad for p in self._parameters if p.grad is not None)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm))
        if math.isfinite(norm):
            self._adam.param_groups[0]["lr"] = self.learning_rate
            self._widen()
            self._adam.step()
            for name, p in self.weights.parameters.items():
                if self._stepped[name] is not p:  # rounded from its float32 copy
                    p.data.copy_(self._stepped[name].data)
            self.steps += 1
            self.weights.version += 1
            self.skipped = 0
        else:
            self.skipped += 1
        for parameter in (*self._parameters, *self._stepped.values()):
            parameter.grad = None
        if self.skipped == 3:
            raise SparringError(
                "three gradients in a row were not finite; the last checkpoint is good: lower "
                "learner.learning_rate, or look at the rewards of the last rounds"
            )
        return norm

    def _widen(self) -> None:
        """Gradients to the copies; a copy whose weight was loaded meanwhile begins from that."""
        for name, p in self.weights.parameters.items():
            wide = self._stepped[name]
            if wide is not p:
                wide.grad = None if p.grad is None else p.grad.float()
                wide.data = torch.where(wide.data.to(p.dtype) == p.data, wide.data, p.data.float())

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return self.schedule.at(self.steps)

    def tensors(self) -> dict[str, Tensor]:
        """The moments, as `{parameter}/{moment}`, and float32 copies, for safetensors."""
        tensors: dict[str, Tensor] = {}
        for name, p in self._stepped.items():
            tensors |= {
                f"{name}/{key}": value for key, value in self._adam.state.get(p, {}).items()
            }
        for name, p in self._stepped.items():
            if p is not self.weights.parameters[name]:
                tensors[f"{name}/{_WIDE}"] = p
        return {path: tensor.detach().clone() for path, tensor in tensors.items()}

    def counters(self) -> dict[str, int]:
        """Steps, skipped gradients in a row and the weights' version, for JSON."""
        return {"steps": self.steps, "skipped": self.skipped, "version": self.weights.version}

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, int]) -> None:
        """Take up exactly where `tensors()` and `counters()` were taken."""
        self._adam.state.clear()
        for path, tensor in tensors.items():
            name, key = path.rsplit("/", 1)
            parameter = self._stepped[name]
            if key == _WIDE:
                parameter.data.copy_(tensor)
                continue
            # AdamW counts its steps on the CPU and keeps its moments beside the parameter.
            device = tensor.device if key == "step" else parameter.device
            self._adam.state[parameter][key] = tensor.detach().clone().to(device)
        self.steps, self.skipped = counters["steps"], counters["skipped"]
        self.weights.version = counters["version"]
