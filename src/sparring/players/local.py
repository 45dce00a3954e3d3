"""A policy in this process: transformers, one decode batch, randomness by address."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparring.players.chat import Chat
from sparring.players.fast.decoding import begin
from sparring.players.player import Request
from sparring.players.weights import Weights
from sparring.types import Completion, SparringError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. Lengths in tokens; `batch_tokens` bounds rows x length
    of requests that decode together; one request is never split."""

    temperature: float = 1.0
    max_completion_length: int = 512
    batch_tokens: int = 65_536


def uniforms(address: str, n: int) -> np.ndarray:
    """`n` numbers in [0, 1) that depend on `address` alone, shape [n]."""
    spelled = address.encode("utf-8", "surrogatepass")  # a seed's id may hold any text
    key = int.from_bytes(hashlib.sha256(spelled).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(n)


@dataclass(frozen=True)
class LocalPolicy:
    """`weights` speaking through `chat`."""

    weights: Weights
    chat: Chat
    sampling: Sampling

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        prompts = self.chat.prompts([request.observation for request in requests])
        said: list[list[Completion]] = [[] for _ in requests]
        with self.weights.merged() as model:
            for chunk in self._chunks(prompts, requests):
                rows = [(i, address) for i in chunk for address in requests[i].addresses]
                drawn = _decode(
                    model,
                    [prompts[i] for i in chunk],
                    [chunk.index(i) for i, _ in rows],
                    self._draws([address for _, address in rows]),
                    self,
                )
                for (i, _), completion in zip(rows, drawn, strict=True):
                    said[i].append(completion)
        return said

    def _chunks(
        self, prompts: Sequence[tuple[int, ...]], requests: Sequence[Request]
    ) -> Iterator[list[int]]:
        """Indices of requests that decode together: of similar length, within the budget."""
        chunk: list[int] = []
        rows = 0
        for i in sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i)):
            length = len(prompts[i]) + self.sampling.max_completion_length
            width = len(requests[i].addresses)
            if chunk and (rows + width) * length > self.sampling.batch_tokens:
                yield chunk
                chunk, rows = [], 0
            chunk.append(i)
            rows += width
        if chunk:
            yield chunk

    def _draws(self, addresses: Sequence[str]) -> np.ndarray:
        length = self.sampling.max_completion_length
        return np.stack([uniforms(address, length) for address in addresses])


def _decode(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    owner: Sequence[int],
    uniform_BT: np.ndarray,
    policy: LocalPolicy,
) -> list[Completion]:
    """Sample one completion per row; row b continues `prompts[owner[b]]`.

    The prompt runs once and its cache is forked per row; rows that end leave the batch.
    """
    import torch

    chat, sampling = policy.chat, policy.sampling
    stop = torch.tensor(sorted(chat.stop_ids), device=model.device)
    u_BT = torch.from_numpy(uniform_BT).to(model.device)
    alive = torch.arange(len(owner), device=model.device)
    drawn: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        step = begin(model, prompts, owner, chat.pad_id)
        for t in range(sampling.max_completion_length):
            token_B, logp_B = _draw(step.logits_BV, u_BT[alive, t], sampling.temperature)
            drawn.append((alive, token_B, logp_B))
            going = (~torch.isin(token_B, stop)).nonzero().squeeze(1)
            alive = alive[going]
            if not len(alive) or t + 1 == sampling.max_completion_length:
                break
            step.advance(token_B[going], going)
    tokens, logprobs = _by_row(drawn, len(owner))
    _refuse_nan(logprobs)
    return [
        Completion(
            text=chat.text(ids),
            token_ids=tuple(ids),
            logprobs=tuple(logps),
            prompt_ids=prompts[i],
            version=policy.weights.version,
            finished=ids[-1] in chat.stop_ids,
        )
        for ids, logps, i in zip(tokens, logprobs, owner, strict=True)
    ]


def _by_row(
    drawn: Sequence[tuple[Tensor, Tensor, Tensor]], rows: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Tokens and log-probabilities of every row, from those of every step."""
    tokens: list[list[int]] = [[] for _ in range(rows)]
    logprobs: list[list[float]] = [[] for _ in range(rows)]
    for step in drawn:
        for row, token, logp in zip(*(told.tolist() for told in step), strict=True):
            tokens[row].append(token)
            logprobs[row].append(logp)
    return tokens, logprobs


def _refuse_nan(logprobs: Sequence[Sequence[float]]) -> None:
    """Inverse-CDF sampling from NaN takes the last token, and an exam would call that harmless."""
    broken = sum(any(map(math.isnan, logps)) for logps in logprobs)
    if broken:
        raise SparringError(
            f"{broken} of {len(logprobs)} completions were drawn from probabilities that are not "
            "numbers (NaN): the weights are damaged, or their dtype cannot hold the activations; "
            "go back to an earlier checkpoint, or load the model as bfloat16 or float32"
        )


def _draw(logits_BV: Tensor, u_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Inverse-CDF sampling: token ids [B] and their log-probabilities [B] in nats.

    Temperature 0 takes the likeliest token and tells its log-probability at temperature 1.
    """
    import torch

    logp_BV = torch.log_softmax(logits_BV.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token_B = logp_BV.argmax(-1)
    else:
        cdf_BV = logp_BV.double().exp().cumsum(-1)
        point_B1 = (u_B * cdf_BV[:, -1]).unsqueeze(1)
        token_B = torch.searchsorted(cdf_BV, point_B1, right=True).squeeze(1)
        token_B = token_B.clamp_(max=logp_BV.shape[-1] - 1)
    return token_B, logp_BV.gather(1, token_B.unsqueeze(1)).squeeze(1)
