"""vLLM as a sampling engine: in this process or behind a URL, adapters by name."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from pydantic import AliasPath, BaseModel, Field, ValidationError

from sparring.engines.engine import Decoding, Drawn, SeededPrompt
from sparring.transport.client import NEUTRAL, PRESSED, Client, HttpRequest, too_long
from sparring.transport.guard import Address, Limits
from sparring.types import SparringError, UsageError

M = TypeVar("M", bound=BaseModel)

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as max_lora_rank."""


@dataclass(eq=False)
class VllmHere:
    """A `SamplingEngine`. The base is read from `model` a second time, into vLLM's own memory.

    The learner's share of the card is what `memory` (a share) leaves. vLLM's "auto" takes a base
    stored in float32 as bfloat16. Adapters are found by an integer in vLLM, which is never used
    twice. With `one_of_many` a launcher started this process beside others: the engine then takes
    the device of its local rank, where it would take the first one, as they all would.
    """

    model: str
    rank: int
    most_adapters: int
    memory: float
    dtype: str = "auto"
    revision: str | None = None
    one_of_many: bool = False
    _adapters: dict[str, Any] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

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
            distributed_executor_backend="external_launcher" if self.one_of_many else None,
            enable_lora=True,
            max_lora_rank=next((rank for rank in _RANKS if rank >= self.rank), self.rank),
            max_loras=2,
            max_cpu_loras=self.most_adapters,
            gpu_memory_utilization=self.memory,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
        )

    def adapters(self) -> Mapping[str, Path]:
        return {name: Path(adapter.lora_path) for name, adapter in self._adapters.items()}

    def load(self, name: str, folder: Path) -> None:
        from vllm.lora.request import LoRARequest

        self._adapters[name] = LoRARequest(name, next(self._numbers), str(folder))
        self._llm.llm_engine.add_lora(self._adapters[name])

    def unload(self, name: str) -> None:
        self._llm.llm_engine.remove_lora(self._adapters.pop(name).lora_int_id)

    def draw(self, name: str, prompts: Sequence[SeededPrompt], how: Decoding) -> list[Drawn]:
        from vllm import SamplingParams

        common = _parameters(how)
        replies = self._llm.generate(
            [{"prompt_token_ids": list(prompt.prompt_ids)} for prompt in prompts],
            [SamplingParams(**common, seed=p.seed, detokenize=False) for p in prompts],
            use_tqdm=False,
            lora_request=self._adapters[name],
        )
        return [_drawn_here(reply.outputs[0]) for reply in replies]


def _parameters(how: Decoding) -> dict[str, Any]:
    """vLLM's names for how tokens are drawn, in this process and on a server alike."""
    return {
        "max_tokens": how.max_completion_length,
        "temperature": how.temperature,
        "logprobs": 0,
        "stop_token_ids": sorted(how.stop_ids),
        "ignore_eos": True,  # the ids above say where a reply ends, and nothing else does
    }


def _drawn_here(output: Any) -> Drawn:
    ids = tuple(output.token_ids)
    logps = tuple(step[i].logprob for step, i in zip(output.logprobs, ids, strict=True))
    if not ids or any(map(math.isnan, logps)):
        raise SparringError("vllm drew from probabilities that are not numbers (NaN), or nothing")
    return Drawn(ids, logps)


FIELD = "sampling.base_url"
_PLAIN = {"return_token_ids": True, "return_tokens_as_token_ids": True, "n": 1}
_PLAIN |= NEUTRAL | {"top_k": 0}
_SECONDS = 600.0
"""How long a server may take for one completion."""
_MODELS = HttpRequest("v1/models")


class _ModelCard(BaseModel):
    id: str
    root: str = ""
    parent: str | None = None


class _ModelList(BaseModel):
    data: list[_ModelCard]


class _Choice(BaseModel):
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: list[float] = Field([], validation_alias=AliasPath("logprobs", "token_logprobs"))


class _Completions(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


@dataclass(eq=False)
class VllmServer:
    """A `SamplingEngine`. `model` is what the server calls the base; times in seconds.

    A request that gets no answer, or one of `PRESSED`, is sent again until `outage` has passed: its
    seed makes the second answer as good as the first.
    """

    base_url: str
    model: str
    concurrency: int = 64
    outage: float = 300.0
    first_pause: float = 0.5
    allow_insecure: bool = False

    def __post_init__(self) -> None:
        base = self.base_url.rstrip("/").removesuffix("/v1")
        self._client = Client(
            Address(base, FIELD, self.allow_insecure, "sampling.server.allow_insecure"),
            limits=Limits(
                concurrency=self.concurrency,
                timeout=_SECONDS,
                deadline=_SECONDS + self.outage,
                round_deadline=math.inf,
                outage_seconds=self.outage,
                attempts=sys.maxsize,
                first_pause=self.first_pause,
                open_after=1,
                largest_body=64 * 2**20,
            ),
            outage_error=SparringError,
        )

    def adapters(self) -> Mapping[str, Path]:
        """Read from `/v1/models`; UsageError if the base model is not there."""
        response = self._client.responses([_MODELS], PRESSED)[0]
        cards = self._parsed(_ModelList, _MODELS.path, response).data
        if self.model not in {card.id for card in cards}:
            known = ", ".join(card.id for card in cards)
            raise UsageError(
                f"sampling.server.model: the server at {self._client.address.shown} has no "
                f"{self.model}; it has: {known}"
            )
        return {card.id: Path(card.root) for card in cards if card.parent}

    def load(self, name: str, folder: Path) -> None:
        path = "v1/load_lora_adapter"
        [response] = self._posted(path, [{"lora_name": name, "lora_path": str(folder)}])
        # The answer to a first attempt may have been lost.
        if response.status_code == 400 and self.adapters().get(name) == folder:
            return
        self._check(
            path,
            response,
            f"cannot load the adapter {folder}; start it with "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and --max-lora-rank at least "
            "lora.r, and let it read that path",
        )

    def unload(self, name: str) -> None:
        path = "v1/unload_lora_adapter"
        [response] = self._posted(path, [{"lora_name": name}])
        if response.status_code != 404:  # gone already: the server was started again
            self._check(path, response, f"cannot unload the adapter {name}")

    def draw(self, name: str, prompts: Sequence[SeededPrompt], how: Decoding) -> list[Drawn]:
        path = "v1/completions"
        common = {"model": name, **_PLAIN, **_parameters(how)}
        bodies = [{**common, "prompt": list(p.prompt_ids), "seed": p.seed} for p in prompts]

        def drawn(response: httpx2.Response, prompt: SeededPrompt) -> Drawn:
            if response.status_code == httpx2.codes.BAD_REQUEST and too_long(response.text):
                return Drawn((), ())
            choice = self._parsed(_Completions, path, response).choices[0]
            return _drawn_by_server(choice, prompt, how)

        return list(map(drawn, self._posted(path, bodies), prompts))

    def _posted(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[httpx2.Response]:
        requests = [HttpRequest(path, json.dumps(body).encode()) for body in bodies]
        return self._client.responses(requests, PRESSED, hello=_MODELS)

    def _parsed(self, model: type[M], path: str, response: httpx2.Response) -> M:
        self._check(path, response, f"/{path} failed")
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            why = error.errors(include_input=False, include_url=False)[0]["msg"]
            where = f"{FIELD}: {self._client.address.named(path)}"
            raise UsageError(f"{where} answered something else than a vLLM server: {why}") from None

    def _check(self, path: str, response: httpx2.Response, hint: str) -> None:
        if response.status_code != httpx2.codes.OK:
            code, why = response.status_code, self._client.shown(_message(response.content))
            where = f"{FIELD}: {self._client.address.named(path)}"
            raise UsageError(f"{where} says {code} {why} ({hint})")


def _message(body: bytes) -> str:
    """vLLM's own words for an error."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return body.decode("utf-8", "replace")


def _drawn_by_server(choice: _Choice, prompt: SeededPrompt, how: Decoding) -> Drawn:
    """What the server drew; UsageError where it is not what was requested."""
    if choice.token_ids is None or choice.prompt_token_ids is None:
        raise UsageError(
            f"{FIELD}: the server returns no token ids; vLLM 0.10.2 or newer is wanted"
        )
    if tuple(choice.prompt_token_ids) != prompt.prompt_ids:
        raise UsageError(f"{FIELD}: the server was given other tokens than it says it read")
    return Drawn.checked(FIELD, choice.token_ids, choice.logprobs, how)
