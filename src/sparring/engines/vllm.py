"""vLLM as a sampling engine: in this process or behind a URL, adapters by name."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from sparring.engines.engine import Decoding, Drawn, SeededPrompt
from sparring.types import SparringError, UsageError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as max_lora_rank."""


@dataclass(eq=False)
class VllmHere:
    """A `SamplingEngine`. The base is read from `model` a second time, into vLLM's own memory.

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

    def draw(self, name: str, prompts: Sequence[SeededPrompt], how: Decoding) -> list[Drawn]:
        from vllm import SamplingParams

        each = [
            SamplingParams(
                temperature=how.temperature,
                max_tokens=how.max_completion_length,
                stop_token_ids=sorted(how.stop_ids),
                ignore_eos=True,
                seed=prompt.seed,
                logprobs=0,
                detokenize=False,
            )
            for prompt in prompts
        ]
        replies = self._llm.generate(
            [{"prompt_token_ids": list(prompt.prompt_ids)} for prompt in prompts],
            each,
            use_tqdm=False,
            lora_request=self._request(name),
        )
        return [_drawn_here(reply.outputs[0]) for reply in replies]


def _drawn_here(output: Any) -> Drawn:
    ids = tuple(output.token_ids)
    logps = tuple(step[i].logprob for step, i in zip(output.logprobs, ids, strict=True))
    if not ids or any(map(math.isnan, logps)):
        raise SparringError("vllm drew from probabilities that are not numbers (NaN), or nothing")
    return Drawn(ids, logps)


FIELD = "sampling.base_url"
_PLAIN = {
    "n": 1,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""A server takes what is left out from the model's generation_config.json: Qwen2.5's has top_p
0.8, top_k 20 and a repetition penalty, and the log-probabilities would be of another policy."""
_BUSY = (429, 502, 503, 504)
_DYNAMIC = (
    "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and --max-lora-rank at "
    "least lora.r"
)


@dataclass(eq=False)
class VllmServer:
    """A `SamplingEngine`. `model` is what the server calls the base; times in seconds.

    A request that gets no answer, or one of `_BUSY`, is sent again until `outage` has passed: its
    seed makes the second answer as good as the first. Nothing is read from the environment and no
    redirect is followed.
    """

    base_url: str
    model: str
    concurrency: int = 64
    timeout: float = 600.0
    outage: float = 300.0
    first_pause: float = 0.5

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise UsageError(
                f"{FIELD}: wanted http(s)://HOST[:PORT] without a user name, such as "
                "http://127.0.0.1:8000"
            )
        self.base_url = self.base_url.rstrip("/").removesuffix("/v1")

    @cached_property
    def _client(self) -> httpx2.Client:
        return httpx2.Client(
            timeout=httpx2.Timeout(self.timeout, connect=10.0),
            limits=httpx2.Limits(max_connections=self.concurrency),
            follow_redirects=False,
            trust_env=False,
        )

    def adapters(self) -> Mapping[str, Path]:
        """Read from `/v1/models`; UsageError if the base model is not there."""
        cards = self._json("GET", "/v1/models", None)["data"]
        if self.model not in {card["id"] for card in cards}:
            known = ", ".join(card["id"] for card in cards)
            raise UsageError(
                f"sampling.server.model: the server at {self.base_url} has no {self.model}; it "
                f"has: {known}"
            )
        return {card["id"]: Path(card["root"]) for card in cards if card.get("parent")}

    def load(self, name: str, folder: Path) -> None:
        body = {"lora_name": name, "lora_path": str(folder)}
        response = self._send("POST", "/v1/load_lora_adapter", body)
        # The answer to a first attempt may have been lost.
        if response.status_code == 400 and self.adapters().get(name) == folder:
            return
        _check(response, f"cannot load the adapter {folder}; {_DYNAMIC}, and let it read that path")

    def unload(self, name: str) -> None:
        response = self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        if response.status_code != 404:  # gone already: the server was started again
            _check(response, f"cannot unload the adapter {name}")

    def draw(self, name: str, prompts: Sequence[SeededPrompt], how: Decoding) -> list[Drawn]:
        common = {
            **_PLAIN,
            "model": name,
            "max_tokens": how.max_completion_length,
            "temperature": how.temperature,
            "logprobs": 0,
            "stop_token_ids": sorted(how.stop_ids),
            "ignore_eos": True,  # the ids above say where a reply ends, and nothing else does
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # nobody reads their text
        }

        def complete(prompt: SeededPrompt) -> Drawn:
            body = {**common, "prompt": list(prompt.prompt_ids), "seed": prompt.seed}
            return _drawn_by_server(self._json("POST", "/v1/completions", body), prompt, how)

        with ThreadPoolExecutor(min(len(prompts), self.concurrency) or 1) as threads:
            return list(threads.map(complete, prompts))

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        response = self._send(method, path, body)
        _check(response, f"{path} failed")
        try:
            return response.json()
        except json.JSONDecodeError as error:
            raise UsageError(f"{FIELD}: {response.url} answered no JSON: {error}") from error

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx2.Response:
        began, pause, why = time.monotonic(), self.first_pause, ""
        while True:
            try:
                response = self._client.request(method, self.base_url + path, json=body)
            except httpx2.TransportError as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if response.status_code not in _BUSY:
                    return response
                why = f"{response.status_code}: {response.text[:300]}"
            if time.monotonic() - began + pause > self.outage:
                raise SparringError(
                    f"{FIELD}: {self.base_url}{path} has not answered for {self.outage:.0f} s "
                    f"(last: {why}); see to the server, then the same command with --resume goes on"
                )
            time.sleep(pause)
            pause = min(2 * pause, 30.0)


def _check(response: httpx2.Response, hint: str) -> None:
    if response.status_code != httpx2.codes.OK:
        raise UsageError(
            f"{FIELD}: {response.url} says {response.status_code} {_why(response)} ({hint})"
        )


def _why(response: httpx2.Response) -> str:
    """vLLM's own words for an error, at most 300 characters."""
    try:
        return str(response.json()["error"]["message"])[:300]
    except (json.JSONDecodeError, KeyError, TypeError):
        return response.text[:300]


def _drawn_by_server(reply: Any, prompt: SeededPrompt, how: Decoding) -> Drawn:
    """What the server drew; UsageError where it is not what was requested."""
    choice = reply["choices"][0]
    if "token_ids" not in choice or "prompt_token_ids" not in choice:
        raise UsageError(
            f"{FIELD}: the server returns no token ids; vLLM 0.10.2 or newer is wanted"
        )
    if tuple(choice["prompt_token_ids"] or ()) != prompt.prompt_ids:
        raise UsageError(f"{FIELD}: the server was given other tokens than it says it read")
    logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
    return Drawn.checked(FIELD, choice["token_ids"], logprobs, how)
