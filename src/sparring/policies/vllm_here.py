"""vLLM in this process: one engine beside the learner, adapters by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparring.policies.engine import Ask, Drawing, Drawn
from sparring.types import SparringError, UsageError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as max_lora_rank."""


@dataclass(eq=False)
class VllmHere:
    """An `Engine`. The base model is read from `model` a second time, into vLLM's own memory.

    The learner's share of the card is what `memory` (a share) leaves. vLLM's "auto" takes a base
    stored in float32 as bfloat16. Adapters are found by an
    integer in vLLM, which is never used twice.
    """

    model: str
    rank: int
    most_adapters: int
    memory: float
    dtype: str = "auto"
    revision: str | None = None
    _numbers: dict[str, int] = field(default_factory=dict)
    _folders: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if find_spec("vllm") is None:
            raise UsageError(
                "sampling.engine: vllm is not installed here; install sparring[vllm], or give "
                "sampling.base_url the URL of a vLLM server"
            )

    @cached_property
    def _llm(self) -> Any:
        from vllm import LLM

        return LLM(
            model=self.model,
            revision=self.revision,
            dtype=self.dtype,
            enable_lora=True,
            max_lora_rank=next((rank for rank in _RANKS if rank >= self.rank), self.rank),
            max_loras=2,
            max_cpu_loras=self.most_adapters,
            gpu_memory_utilization=self.memory,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
        )

    def adapters(self) -> Mapping[str, Path]:
        return dict(self._folders)

    def load(self, name: str, folder: Path) -> None:
        self._numbers[name] = max(self._numbers.values(), default=0) + 1
        self._folders[name] = folder
        self._llm.llm_engine.add_lora(self._request(name))

    def unload(self, name: str) -> None:
        self._llm.llm_engine.remove_lora(self._numbers[name])
        del self._folders[name]

    def _request(self, name: str) -> Any:
        from vllm.lora.request import LoRARequest

        return LoRARequest(name, self._numbers[name], str(self._folders[name]))

    def draw(self, name: str, asked: Sequence[Ask], how: Drawing) -> list[Drawn]:
        from vllm import SamplingParams

        each = [
            SamplingParams(
                temperature=how.temperature,
                max_tokens=how.longest,
                stop_token_ids=sorted(how.stop_ids),
                ignore_eos=True,
                seed=ask.seed,
                logprobs=0,
                detokenize=False,
            )
            for ask in asked
        ]
        told = self._llm.generate(
            [{"prompt_token_ids": list(ask.prompt_ids)} for ask in asked],
            each,
            use_tqdm=False,
            lora_request=self._request(name),
        )
        return [_drawn(reply.outputs[0]) for reply in told]


def _drawn(output: Any) -> Drawn:
    ids = tuple(output.token_ids)
    logps = tuple(step[i].logprob for step, i in zip(output.logprobs, ids, strict=True))
    if not ids or any(map(math.isnan, logps)):
        raise SparringError("vllm drew from probabilities that are not numbers (NaN), or nothing")
    return Drawn(ids, logps)
