"""Ragged samples into padded micro-batches of similar length, and their log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt ids and completion ids."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of [left-padded prompt | right-padded completion].

    B rows, S = longest prompt + longest completion, T = longest completion; `index` says which
    rows of the whole these are.
    """

    index: tuple[int, ...]
    ids_BS: Tensor
    attention_BS: Tensor
    target_BT: Tensor
    mask_BT: Tensor


def microbatches(rows: Sequence[Row], budget: int) -> Iterator[list[int]]:
    """Indices of rows that fit `budget` padded tokens together, longest first.

    Longest first, so that running out of memory happens at once or not at all.
    """
    chunk: list[int] = []
    prompt = reply = 0
    for i in sorted(range(len(rows)), key=lambda i: (-len(rows[i][0]) - len(rows[i][1]), i)):
        wide = max(prompt, len(rows[i][0])) + max(reply, len(rows[i][1]))
        if chunk and (len(chunk) + 1) * wide > budget:
            yield chunk
            chunk, prompt, reply = [], 0, 0
        chunk.append(i)
        prompt, reply = max(prompt, len(rows[i][0])), max(reply, len(rows[i][1]))
    if chunk:
        yield chunk


def pad(rows: Sequence[Row], index: Sequence[int], pad_id: int, device: Any) -> Batch:
    """The rows at `index` as one batch."""
    import torch

    chosen = [rows[i] for i in index]
    before = max(len(prompt) for prompt, _ in chosen)
    longest = max(len(reply) for _, reply in chosen)
    ids_BS = torch.full((len(chosen), before + longest), pad_id)
    attention_BS = torch.zeros_like(ids_BS)
    for row, (prompt, reply) in enumerate(chosen):
        start, end = before - len(prompt), before + len(reply)
        ids_BS[row, start:end] = torch.tensor((*prompt, *reply))
        attention_BS[row, start:end] = 1
    mask_BT = attention_BS[:, before:].float()
    tensors = (ids_BS, attention_BS, ids_BS[:, before:], mask_BT)
    return Batch(tuple(index), *(tensor.to(device) for tensor in tensors))


def logprobs(model: Any, batch: Batch, temperature: float) -> Tensor:
    """Log-probabilities of the completion tokens in nats, shape [B, T]; padding holds 0."""
    longest = batch.target_BT.shape[1]
    logits_BTV: Tensor = model(
        input_ids=batch.ids_BS,
        attention_mask=batch.attention_BS,
        position_ids=(batch.attention_BS.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=longest + 1,
        use_cache=False,
    ).logits[:, :-1]
    logits_BTV = logits_BTV.float() / (temperature or 1.0)
    chosen_BT: Tensor = logits_BTV.gather(-1, batch.target_BT.unsqueeze(-1)).squeeze(-1)
    total_BT: Tensor = logits_BTV.logsumexp(-1)
    return (chosen_BT - total_BT) * batch.mask_BT
