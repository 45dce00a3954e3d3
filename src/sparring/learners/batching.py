"""Ragged samples into padded micro-batches of similar length, and their log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparring.learners.heads import Head, causal, chosen_logprobs, head_of

if TYPE_CHECKING:
    from torch import Tensor

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt ids and completion ids."""


@dataclass(frozen=True, slots=True)
class Batch:
    """P distinct prompts, padded on the left, and B completions of them, padded on the right.

    L = longest prompt, T = longest completion, S = L + T. `index` says which rows of the whole
    these are; row b continues prompt `owner_B[b]`.
    """

    index: tuple[int, ...]
    owner_B: Tensor
    prompt_PL: Tensor
    seen_PL: Tensor
    target_BT: Tensor
    mask_BT: Tensor

    @property
    def ids_BS(self) -> Tensor:  # noqa: N802
        """Every row whole: [prompt | completion]."""
        import torch

        return torch.cat([self.prompt_PL[self.owner_B], self.target_BT], dim=1)

    @property
    def attention_BS(self) -> Tensor:  # noqa: N802
        """1 where `ids_BS` is not padding."""
        import torch

        return torch.cat([self.seen_PL[self.owner_B], self.mask_BT.long()], dim=1)


Cost = Callable[[Sequence[int], int, int], int]
"""(completions of every prompt, longest prompt, longest completion) → tokens that run."""


def every_row(groups: Sequence[int], prompt: int, reply: int) -> int:
    """Every completion carries its prompt."""
    return sum(groups) * (prompt + reply)


def microbatches(rows: Sequence[Row], budget: int, cost: Cost = every_row) -> Iterator[list[int]]:
    """Indices of rows that run at most `budget` padded tokens together, longest first.

    Rows of one prompt follow each other. Longest first, so that running out of memory happens at
    once or not at all.
    """
    chunk: list[int] = []
    size: tuple[list[int], int, int] = ([], 0, 0)
    for i in _by_prompt(rows):
        prompt, reply = rows[i]
        *done, last = (*size[0], 0) if not chunk or rows[chunk[-1]][0] != prompt else size[0]
        grown = ([*done, last + 1], max(size[1], len(prompt)), max(size[2], len(reply)))
        if chunk and cost(*grown) > budget:
            yield chunk
            chunk, grown = [], ([1], len(prompt), len(reply))
        chunk.append(i)
        size = grown
    if chunk:
        yield chunk


def _by_prompt(rows: Sequence[Row]) -> Iterator[int]:
    """Indices of groups with the same prompt, the one with the longest row first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: (-len(rows[i][0]) - len(rows[i][1]), i)):
        groups.setdefault(rows[i][0], []).append(i)
    for group in groups.values():
        yield from group


def pad(rows: Sequence[Row], index: Sequence[int], pad_id: int, device: Any) -> Batch:
    """The rows at `index` as one batch."""
    import torch

    replies = [rows[i][1] for i in index]
    owner: dict[tuple[int, ...], int] = {}
    owner_B = [owner.setdefault(rows[i][0], len(owner)) for i in index]
    prompt_PL, seen_PL = _rectangle([prompt[::-1] for prompt in owner], pad_id)
    target_BT, mask_BT = _rectangle(replies, pad_id)
    tensors = (
        torch.tensor(owner_B),
        *(prompt_PL.flip(1), seen_PL.flip(1), target_BT, mask_BT.float()),
    )
    return Batch(tuple(index), *(tensor.to(device) for tensor in tensors))


def _rectangle(ragged: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """The rows filled up on the right, and 1 where nothing was filled in."""
    import torch

    longest = max(map(len, ragged))
    ids = torch.tensor([(*row, *[fill] * (longest - len(row))) for row in ragged])
    lengths = torch.tensor([len(row) for row in ragged])
    return ids, (torch.arange(longest) < lengths.unsqueeze(1)).long()


def logprobs(model: Any, batch: Batch, temperature: float) -> Tensor:
    """Log-probabilities of the completion tokens in nats, shape [B, T]; padding holds 0.

    Every row runs whole, which any causal language model can do: the reference for `sharing`.
    """
    longest = batch.target_BT.shape[1]
    seen_BS = batch.attention_BS
    asked = {
        "input_ids": batch.ids_BS,
        "attention_mask": seen_BS,
        "position_ids": (seen_BS.cumsum(1) - 1).clamp(min=0),
        "use_cache": False,
    }
    head = head_of(model)
    if head is None:
        logits_BTV: Tensor = model(**asked, logits_to_keep=longest + 1).logits[:, :-1]
        return of_hidden(lambda logits_NV: logits_NV, logits_BTV, batch, temperature)
    hidden_BTD = causal(model).base_model(**asked).last_hidden_state[:, -longest - 1 : -1]
    return of_hidden(head, hidden_BTD, batch, temperature)


def of_hidden(head: Head, hidden_BTD: Tensor, batch: Batch, temperature: float) -> Tensor:
    """Log-probabilities [B, T] of the targets after `hidden_BTD`; no logits of padding are made."""
    kept_N = batch.mask_BT.flatten().nonzero().squeeze(1)
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, kept_N)
    logp_N = chosen_logprobs(head, hidden_ND, batch.target_BT.flatten()[kept_N], temperature)
    return (
        logp_N.new_zeros(batch.mask_BT.numel()).index_put((kept_N,), logp_N).view_as(batch.mask_BT)
    )
