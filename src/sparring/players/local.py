"""A policy in this process: transformers, one decode batch, randomness by address."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.players.chat import Chat
from sparring.players.fast import begin, check_playable
from sparring.players.logprobs import chunked
from sparring.players.player import Request, Sampling
from sparring.players.weights import Weights
from sparring.pulse import beat
from sparring.types import TOO_LONG, Completion, SparringError


def uniforms(address: str, n: int) -> np.ndarray:
    """`n` numbers in [0, 1) that depend on `address` alone, shape [n]."""
    spelled = address.encode("utf-8", "surrogatepass")  # a seed's id may hold any text
    key = int.from_bytes(hashlib.sha256(spelled).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(n)


@dataclass(frozen=True)
class LocalPolicy:
    """A policy that samples from `weights` through `chat`, with transformers.

    UsageError for a model that cannot be sampled from.
    """

    weights: Weights
    chat: Chat
    sampling: Sampling

    def __post_init__(self) -> None:
        check_playable(self.weights.model)

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        prompts = self.chat.prompts([request.observation for request in requests])
        fits = [len(prompt) < self.chat.context for prompt in prompts]
        completions = [
            [] if fit else [TOO_LONG] * len(request.addresses)
            for fit, request in zip(fits, requests, strict=True)
        ]
        with self.weights.merged() as model:
            for chunk in self._chunks(prompts, requests, fits):
                owner = [i for i in chunk for _ in requests[i].addresses]
                addresses = [address for i in chunk for address in requests[i].addresses]
                drawn = self._decode(
                    model, [prompts[i] for i in chunk], [chunk.index(i) for i in owner], addresses
                )
                for i, completion in zip(owner, drawn, strict=True):
                    completions[i].append(completion)
        return completions

    def _chunks(
        self, prompts: Sequence[tuple[int, ...]], requests: Sequence[Request], fits: Sequence[bool]
    ) -> Iterator[list[int]]:
        """Indices of requests that decode together: of similar length, within the budget."""

        def within(chunk: list[int]) -> bool:
            length = len(prompts[chunk[-1]]) + self.sampling.max_completion_length
            rows = sum(len(requests[i].addresses) for i in chunk)
            return rows * length <= self.sampling.batch_tokens

        by_length = sorted(compress(range(len(prompts)), fits), key=lambda i: len(prompts[i]))
        return chunked(by_length, within)

    def _decode(
        self,
        model: Any,
        prompts: Sequence[tuple[int, ...]],
        owner: Sequence[int],
        addresses: Sequence[str],
    ) -> list[Completion]:
        """One completion for each address; row b continues `prompts[owner[b]]`.

        Every prompt runs once and its cache is forked per row; rows that end, or come to the end
        of the context, leave the batch.
        """
        length, device = self.sampling.max_completion_length, model.device
        room_B = torch.tensor([self.chat.context - len(prompts[i]) for i in owner], device=device)
        stop = torch.tensor(sorted(self.chat.stop_ids), device=device)
        u_BT = torch.from_numpy(np.stack([uniforms(a, length) for a in addresses])).to(device)
        alive = torch.arange(len(owner), device=device)
        drawn: list[tuple[Tensor, Tensor, Tensor]] = []
        with torch.inference_mode():
            step = begin(model, prompts, owner, self.chat.pad_id)
            for t in range(length):
                beat("sampling", t, length)
                token_B, logp_B = _draw(step.logits_BV, u_BT[alive, t], self.sampling.temperature)
                drawn.append((alive, token_B, logp_B))
                ended_B = torch.isin(token_B, stop) | (room_B[alive] == t + 1)
                going = (~ended_B).nonzero().squeeze(1)
                alive = alive[going]
                if not len(alive) or t + 1 == length:
                    break
                step.advance(token_B[going], going)
        tokens: list[list[int]] = [[] for _ in owner]
        logprobs: list[list[float]] = [[] for _ in owner]
        for values in drawn:  # moved off the device only now, so that no step waits for it
            for row, token, logp in zip(*(tensor.tolist() for tensor in values), strict=True):
                tokens[row].append(token)
                logprobs[row].append(logp)
        # Inverse-CDF sampling from NaN takes the last token, and an exam would call that harmless.
        broken = sum(any(map(math.isnan, logps)) for logps in logprobs)
        if broken:
            raise SparringError(
                f"{broken} of {len(logprobs)} completions were drawn from probabilities that are "
                "not numbers (NaN): the weights are damaged, or their dtype cannot hold the "
                "activations; go back to an earlier checkpoint, or load the model as bfloat16 or "
                "float32"
            )
        return [
            self.chat.completion(prompts[i], ids, logps, self.weights.version)
            for ids, logps, i in zip(tokens, logprobs, owner, strict=True)
        ]


def _draw(logits_BV: Tensor, u_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Inverse-CDF sampling: token ids [B] and their log-probabilities [B] in nats.

    Temperature 0 takes the likeliest token and returns its log-probability at temperature 1.
    """
    logp_BV = torch.log_softmax(logits_BV.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token_B = logp_BV.argmax(-1)
    else:
        cdf_BV = logp_BV.double().exp().cumsum(-1)
        point_B1 = (u_B * cdf_BV[:, -1]).unsqueeze(1)
        token_B = torch.searchsorted(cdf_BV, point_B1, right=True).squeeze(1)
        token_B = token_B.clamp_(max=logp_BV.shape[-1] - 1)
    return token_B, logp_BV.gather(1, token_B.unsqueeze(1)).squeeze(1)
