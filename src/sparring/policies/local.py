"""A policy in this process: transformers, one decode batch, randomness by address."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparring.policies.chat import Chat
from sparring.policies.policy import Request
from sparring.policies.weights import Weights
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
        prompts = [self.chat.prompt_ids(request.observation) for request in requests]
        said: list[list[Completion]] = [[] for _ in requests]
        for chunk in self._chunks(prompts, requests):
            rows = [(i, address) for i in chunk for address in requests[i].addresses]
            drawn = _decode(
                self.weights.model,
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
    tokens: list[list[int]] = [[] for _ in owner]
    logprobs: list[list[float]] = [[] for _ in owner]
    alive = torch.arange(len(owner), device=model.device)
    with torch.inference_mode():
        step = _Stepper(model, prompts, owner, chat.pad_id)
        for t in range(sampling.max_completion_length):
            token_B, logp_B = _draw(step.logits_BV, u_BT[alive, t], sampling.temperature)
            for row, token, logp in zip(
                alive.tolist(), token_B.tolist(), logp_B.tolist(), strict=True
            ):
                tokens[row].append(token)
                logprobs[row].append(logp)
            going = (~torch.isin(token_B, stop)).nonzero().squeeze(1)
            alive = alive[going]
            if not len(alive) or t + 1 == sampling.max_completion_length:
                break
            step.advance(token_B[going], going)
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


class _Stepper:
    """A decode batch between two tokens: cache, mask, positions and the next logits."""

    def __init__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], owner: Sequence[int], pad: int
    ) -> None:
        import torch

        longest = max(len(prompt) for prompt in prompts)
        ids_PT = torch.full((len(prompts), longest), pad)
        mask_PT = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_PT[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask_PT[row, longest - len(prompt) :] = 1
        mask_PT = mask_PT.to(model.device)
        out = model(
            input_ids=ids_PT.to(model.device),
            attention_mask=mask_PT,
            position_ids=(mask_PT.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        fork = torch.tensor(owner, device=model.device)
        self.model, self.cache = model, out.past_key_values
        self.cache.batch_select_indices(fork)
        self.mask_BT = mask_PT[fork]
        self.logits_BV = out.logits[fork, -1]

    def advance(self, token_B: Tensor, going: Tensor) -> None:
        """Feed one token to each row in `going`; the others leave."""
        import torch

        if len(going) < len(self.mask_BT):
            self.cache.batch_select_indices(going)
            self.mask_BT = self.mask_BT[going]
        self.mask_BT = torch.cat([self.mask_BT, self.mask_BT.new_ones(len(going), 1)], dim=1)
        out = self.model(
            input_ids=token_B.unsqueeze(1),
            attention_mask=self.mask_BT,
            position_ids=self.mask_BT.sum(1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.logits_BV = out.logits[:, -1]
