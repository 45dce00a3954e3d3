"""A policy in this process: transformers, one decode batch, randomness by address."""

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
from sparring.pulse import beat, part
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
        length, temperature = self.sampling.max_completion_length, self.sampling.temperature
        ends = Ends(self.chat.stop_ids, self.chat.context, self.chat.pad_id)
        with self.weights.merged() as model:
            chunks = [*self._chunks(prompts, requests, fits)]
            for number, chunk in enumerate(chunks):
                owner = [place for place, i in enumerate(chunk) for _ in requests[i].addresses]
                addresses = [address for i in chunk for address in requests[i].addresses]
                u_BT = np.stack([uniforms(address, length) for address in addresses])
                own = [prompts[i] for i in chunk]
                with part(number, len(chunks)):
                    rows = decode(model, own, owner, u_BT, temperature, ends)
                for place, (ids, logps) in zip(owner, rows, strict=True):
                    whole = self.chat.completion(own[place], ids, logps, self.weights.version)
                    completions[chunk[place]].append(whole)
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


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends a completion: any of `stop_ids`, or a prompt and completion of `context` tokens.

    `pad_id` fills the holes of a batch.
    """

    stop_ids: frozenset[int]
    context: int
    pad_id: int


def decode(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    owner: Sequence[int],
    u_BT: np.ndarray,
    temperature: float,
    ends: Ends,
) -> list[tuple[list[int], list[float]]]:
    """At most T token ids and their log-probabilities (nats) for each row of `u_BT`, in [0, 1).

    Row b continues `prompts[owner[b]]`. Every prompt runs once and its cache is forked per row;
    rows that end leave the batch. SparringError where a log-probability is not a number.
    """
    length, device = u_BT.shape[1], model.device
    room_B = torch.tensor([ends.context - len(prompts[i]) for i in owner], device=device)
    stop = torch.tensor(sorted(ends.stop_ids), device=device)
    uniform_BT = torch.from_numpy(u_BT).to(device)
    alive = torch.arange(len(owner), device=device)
    drawn: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        step = begin(model, prompts, owner, ends.pad_id)
        for t in range(length):
            beat("sampling", t, length)
            token_B, logp_B = _draw(step.logits_BV, uniform_BT[alive, t], temperature)
            drawn.append((alive, token_B, logp_B))
            ended_B = torch.isin(token_B, stop) | (room_B[alive] == t + 1)
            going = (~ended_B).nonzero().squeeze(1)
            alive = alive[going]
            if not len(alive) or t + 1 == length:
                break
            step.advance(token_B[going], going)
    rows: list[tuple[list[int], list[float]]] = [([], []) for _ in owner]
    for values in drawn:  # moved off the device only now, so that no step waits for it
        for row, token, logp in zip(*(tensor.tolist() for tensor in values), strict=True):
            rows[row][0].append(token)
            rows[row][1].append(logp)
    # Inverse-CDF sampling from NaN takes the last token, and an exam would call that harmless.
    if broken := sum(any(map(math.isnan, logps)) for _, logps in rows):
        raise SparringError(
            f"{broken} of {len(rows)} completions were drawn from probabilities that are "
            "not numbers (NaN): the weights are damaged, or their dtype cannot hold the "
            "activations; go back to an earlier checkpoint, or load the model as bfloat16 or "
            "float32"
        )
    return rows


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
