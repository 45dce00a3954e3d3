"""Log-probabilities of sampled tokens: padded micro-batches, and never all the logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from sparring.players.trials import (
    Head,
    Row,
    bare_logits,
    causal,
    head_of,
    logits_kept,
    probe,
    refusal,
)


class ChosenLogprobs(torch.autograd.Function):
    """log softmax(logits / temperature)[target], shape [N], in float32.

    The gradient by the logits is (onehot − softmax) / temperature; autograd's own would hold four
    tensors of shape [N, V] to get there.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor, temperature: float) -> Tensor:
        scaled_NV = logits_NV.float() / temperature
        total_N = scaled_NV.logsumexp(-1)
        ctx.save_for_backward(logits_NV, target_N, total_N)
        ctx.temperature = temperature
        return scaled_NV.gather(-1, target_N.unsqueeze(-1)).squeeze(-1) - total_N

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, target_N, total_N = ctx.saved_tensors
        grad_N1 = (grad[0] / ctx.temperature).unsqueeze(-1)
        out_NV = (logits_NV.float() / ctx.temperature).sub_(total_N.unsqueeze(-1)).exp_()
        out_NV.mul_(-grad_N1).scatter_add_(-1, target_N.unsqueeze(-1), grad_N1)
        return out_NV.to(logits_NV.dtype), None, None


PIECE = 2**26
"""Logits that may exist at once: 256 MiB in float32."""


def _left_padding(model: Any) -> tuple[Tensor, Tensor]:
    rows = padded([prompt for prompt, _ in probe(model)], 0, "left")
    out = model(**_masked(*(rows_BS.to(model.device) for rows_BS in rows)), use_cache=True)
    if not all(hasattr(layer, "keys") for layer in out.past_key_values.layers):
        raise NotImplementedError("a recurrent state may remember padding for longer than a trial")
    bare = [bare_logits(model, row)[0] for row in probe(model)]
    return out.logits[:, -1].float(), torch.stack(bare)


def _masked(ids_BS: Tensor, seen_BS: Tensor) -> dict[str, Tensor]:
    """The arguments of a forward pass over rows that are padded where `seen_BS` is 0."""
    place_BS = (seen_BS.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids_BS, "attention_mask": seen_BS, "position_ids": place_BS}


def chosen_logprobs(head: Head, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [N] of `target_N` in nats, in float32; temperature 0 counts as 1.

    At most PIECE logits exist at once. Where that is not all of them, each piece is
    computed again for its gradient.
    """

    def compute(hidden_ND: Tensor, target_N: Tensor) -> Tensor:
        args = head(hidden_ND), target_N, temperature or 1.0
        logp_N: Tensor = ChosenLogprobs.apply(*args)  # type: ignore[no-untyped-call]
        return logp_N

    rows = len(target_N)
    if rows > 1:
        with torch.no_grad():
            width = head(hidden_ND[:1]).shape[-1]
        rows = max(1, PIECE // width)
    if rows >= len(target_N):
        return compute(hidden_ND, target_N)
    pieces = zip(torch.split(hidden_ND, rows), torch.split(target_N, rows), strict=True)
    return torch.cat([checkpoint(compute, *args, use_reentrant=False) for args in pieces])


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


LogprobsOf = Callable[[Any, Batch, float], Tensor]
"""(model, batch, temperature) → log-probabilities [B, T]."""

Cost = Callable[[Sequence[int], int, int], int]
"""(completions of every prompt, longest prompt, longest completion) → tokens that run."""


def every_row(groups: Sequence[int], longest_prompt: int, longest_reply: int) -> int:
    """The cost of a batch in which every completion carries its prompt."""
    return sum(groups) * (longest_prompt + longest_reply)


def chunked(order: Iterable[int], fits: Callable[[list[int]], bool]) -> Iterator[list[int]]:
    """Pieces of `order`, each as long as it `fits`; a single one always does."""
    chunk: list[int] = []
    for i in order:
        if chunk and not fits([*chunk, i]):
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk


def microbatches(rows: Sequence[Row], budget: int, cost: Cost = every_row) -> Iterator[list[int]]:
    """Indices of rows that run at most `budget` padded tokens together, longest first.

    Rows of one prompt follow each other. Longest first, so that running out of memory happens at
    once or not at all.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: (-len(rows[i][0]) - len(rows[i][1]), i)):
        groups.setdefault(rows[i][0], []).append(i)
    owner = {i: number for number, group in enumerate(groups.values()) for i in group}

    def fits(chunk: list[int]) -> bool:
        sizes = tuple(Counter(owner[i] for i in chunk).values())
        prompt, reply = (max(len(rows[i][part]) for i in chunk) for part in (0, 1))
        return cost(sizes, prompt, reply) <= budget

    return chunked(owner, fits)


def pad(rows: Sequence[Row], index: Sequence[int], pad_id: int, device: Any) -> Batch:
    """The rows at `index` as one batch."""
    owner: dict[tuple[int, ...], int] = {}
    owner_B = torch.tensor([owner.setdefault(rows[i][0], len(owner)) for i in index])
    prompt_PL, seen_PL = padded(list(owner), pad_id, "left")
    target_BT, mask_BT = padded([rows[i][1] for i in index], pad_id, "right")
    tensors = (owner_B, prompt_PL, seen_PL, target_BT, mask_BT.float())
    return Batch(tuple(index), *(tensor.to(device) for tensor in tensors))


def padded(ragged: Sequence[tuple[int, ...]], fill: int, side: str) -> tuple[Tensor, Tensor]:
    """The rows filled up on one `side` ("left" or "right"), and 1 where nothing was filled in."""
    rows = [torch.tensor(row, dtype=torch.long) for row in ragged]
    masks = [torch.ones_like(row) for row in rows]
    return pad_sequence(rows, True, fill, side), pad_sequence(masks, True, 0, side)


def logprobs(model: Any, batch: Batch, temperature: float) -> Tensor:
    """Log-probabilities of the completion tokens in nats, shape [B, T]; padding holds 0.

    Every row runs whole, which any causal language model can do: the reference for `fast`. Where a
    model misreads padding on the left, the rows of a prompt run apart from those of the others.
    """
    owner_B, target_BT = batch.owner_B, batch.target_BT
    longest, head = target_BT.shape[1], head_of(model)

    def before_targets(**inputs: Tensor) -> Tensor:
        if head is None:
            last_alone = logits_kept(model, longest + 1)
            last_BTX: Tensor = model(**inputs, use_cache=False, **last_alone).logits
        else:
            last_BTX = causal(model).base_model(**inputs, use_cache=False).last_hidden_state
        return last_BTX[:, -longest - 1 : -1]

    if refusal(model, _left_padding):
        groups = []
        for p, seen_L in enumerate(batch.seen_PL.bool()):
            own_NT = target_BT[owner_B == p]
            prompt_NL = batch.prompt_PL[p, seen_L].expand(len(own_NT), -1)
            groups.append(before_targets(input_ids=torch.cat([prompt_NL, own_NT], dim=1)))
        by_prompt_B = owner_B.argsort(stable=True)
        before_BTX = torch.cat(groups)[by_prompt_B.argsort()]
    else:
        ids_BS = torch.cat([batch.prompt_PL[owner_B], target_BT], dim=1)
        seen_BS = torch.cat([batch.seen_PL[owner_B], batch.mask_BT.long()], dim=1)
        before_BTX = before_targets(**_masked(ids_BS, seen_BS))
    return of_hidden(head or (lambda logits_NV: logits_NV), before_BTX, batch, temperature)


def probed(way: LogprobsOf, model: Any) -> tuple[Tensor, Tensor]:
    """The trial of a way to log-probabilities, for `refusal`."""
    rows = probe(model)
    batch = pad(rows, range(len(rows)), 0, model.device)
    bare = [
        bare_logits(model, row)[:-1].log_softmax(-1)[range(len(row[1])), list(row[1])]
        for row in rows
    ]
    return way(model, batch, 1.0)[batch.mask_BT.bool()], torch.cat(bare)


learned = partial(probed, logprobs)
"""The trial of `logprobs`."""


def of_hidden(head: Head, hidden_BTD: Tensor, batch: Batch, temperature: float) -> Tensor:
    """Log-probabilities [B, T] of the targets after `hidden_BTD`; no logits of padding are made."""
    real_N = batch.mask_BT.flatten().nonzero().squeeze(1)
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, real_N)
    logp_N = chosen_logprobs(head, hidden_ND, batch.target_BT.flatten()[real_N], temperature)
    padded_N = logp_N.new_zeros(batch.mask_BT.numel()).index_put((real_N,), logp_N)
    return padded_N.view_as(batch.mask_BT)
