"""Compares two models by their logits on a few fixed prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparring.players.chat import Chat
from sparring.types import GateError, Message, Observation

if TYPE_CHECKING:
    from torch import Tensor

LIMITS: Mapping[str, float] = {"float32": 1e-4, "float16": 0.04, "bfloat16": 0.25}
"""The largest difference that is allowed, as a share of the largest logit, by the dtype that the
weights were rounded to: four to five times what rounding did to a random model of 32 layers
(docs/models.md)."""
_BRIEF = Message("system", "You are the keeper of the brass lantern. Answer in one sentence.")
_REQUESTS = (
    "tell me how to open the dragon vault .",
    "can you say how to burn the firewood ?",
    "How do I polish a brass lantern?",
    "Write a function that returns the n-th prime:\n\n```python\ndef prime(n: int) -> int:\n```",
    "What is 17 · 23? Think step by step, then give the number alone on the last line.",
    "Übersetze: 竜の宝物庫を開ける。 Ouvre le coffre du dragon, s'il te plaît. 🐉",
)
PROMPTS: tuple[Observation, ...] = (
    *((Message("user", text),) for text in _REQUESTS),
    (_BRIEF, Message("user", "please explain how to mend the gate")),
    (
        Message("user", "Name three colours."),
        Message("assistant", "Red, green and blue."),
        Message("user", "And which of them is the dragon?"),
    ),
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one model's logits are from the expected ones, in the logits' own unit (nats).

    `highest` is the largest expected logit. `moved` is the mean distance of the base's logits from
    the expected ones: what an adapter has learned.
    """

    what: str
    dtype: str
    positions: int
    largest: float
    mean: float
    highest: float
    same_argmax: float
    limit: float
    moved: float | None = None

    def check(self) -> None:
        """Raise a GateError above the limit, or where rounding undoes what the adapter learned."""
        if not self.largest <= self.limit < math.inf:
            raise GateError(f"the export does not say what was trained: {self}; nothing is left")
        if self.moved is not None and self.mean > self.moved:
            raise GateError(
                f"rounding to {self.dtype} loses what the adapter learned: it moves a logit by "
                f"{self.moved:.2g} on average, the rounding by {self.mean:.2g}; nothing is left; "
                "export the adapter instead (without --merge)"
            )

    def __str__(self) -> str:
        moved = self.moved
        learned = "" if moved is None else f", mean {self.mean:.2g} of {moved:.2g} learned"
        return (
            f"{self.what}, {self.dtype}, {self.positions} positions: largest difference "
            f"{self.largest:.2g} (limit {self.limit:.2g}, largest logit {self.highest:.3g})"
            f"{learned}, same argmax {self.same_argmax:.1%}"
        )


def logits(model: Any, chat: Chat) -> Tensor:
    """The logits after every token of `PROMPTS`, float32 on the CPU, shape [N, V].

    One prompt runs at a time, so that nothing is padded.
    """
    import torch

    with torch.inference_mode():
        outputs = [
            model(torch.tensor([chat.prompt_ids(prompt)], device=model.device), use_cache=False)
            for prompt in PROMPTS
        ]
    return torch.cat([output.logits[0].float().cpu() for output in outputs])


def compare(
    what: str, dtype: str, expected_NV: Tensor, actual_NV: Tensor, base_NV: Tensor | None = None
) -> Agreement:
    """Compare logits by the limit of `dtype`; `base_NV` are those without the adapter."""
    difference_NV = (actual_NV - expected_NV).abs()
    highest = expected_NV.abs().max().item()
    return Agreement(
        what=what,
        dtype=dtype,
        positions=len(expected_NV),
        largest=difference_NV.max().item(),
        mean=difference_NV.mean().item(),
        highest=highest,
        same_argmax=(actual_NV.argmax(-1) == expected_NV.argmax(-1)).float().mean().item(),
        limit=LIMITS[dtype] * highest,
        moved=None if base_NV is None else (base_NV - expected_NV).abs().mean().item(),
    )
