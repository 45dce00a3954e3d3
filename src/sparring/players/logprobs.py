"""Log-probabilities of sampled tokens: padded micro-batches, and never all the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint


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


Head = Callable[[Tensor], Tensor]
"""Hidden states [N, D] to logits [N, V]."""

PIECE = 2**26
"""Logits that may exist at once: 256 MiB in float32."""

_SEPARABLE: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def causal(model: Any) -> Any:
    """The language model inside a PEFT model, adapters in place; others as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_of(model: Any) -> Head | None:
    """What turns the last hidden state of `causal(model).base_model` into logits.

    None where that is not the output embedding (and Gemma's cap) alone: some families scale
    their logits. Two tokens are run through a model once to find out.
    """
    whole = causal(model)
    if whole not in _SEPARABLE:
        _SEPARABLE[whole] = _gives_its_logits(whole)
    return _head(whole) if _SEPARABLE[whole] else None


def _head(whole: Any) -> Head:
    output = whole.get_output_embeddings()
    cap = getattr(whole.config.get_text_config(), "final_logit_softcapping", None)
    return (lambda hidden: cap * (output(hidden) / cap).tanh()) if cap else output


def _gives_its_logits(whole: Any) -> bool:
    if whole.base_model is whole or whole.get_output_embeddings() is None:
        return False
    outputs: list[Any] = []
    hook = whole.base_model.register_forward_hook(lambda *call: outputs.append(call[-1]))
    try:
        with torch.no_grad(), torch.random.fork_rng():  # a model in training may draw dropout
            ids = torch.tensor([[1, 2]], device=whole.device)
            logits = whole(input_ids=ids, use_cache=False).logits
            by_head = _head(whole)(outputs[0].last_hidden_state)
    finally:
        hook.remove()
    return by_head.shape == logits.shape and torch.allclose(by_head, logits, rtol=1e-3, atol=1e-4)


def chosen_logprobs(
    head: Head, hidden_ND: Tensor, target_N: Tensor, temperature: float, piece: int | None = None
) -> Tensor:
    """Log-probabilities [N] of `target_N` in nats, in float32; temperature 0 counts as 1.

    At most `piece` logits exist at once, or PIECE. Where that is not all of them, each piece is
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
        rows = max(1, (piece or PIECE) // width)
    if rows >= len(target_N):
        return compute(hidden_ND, target_N)
    pieces = zip(torch.split(hidden_ND, rows), torch.split(target_N, rows), strict=True)
    return torch.cat([checkpoint(compute, *args, use_reentrant=False) for args in pieces])


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


Cost = Callable[[Sequence[int], int, int], int]
"""(completions of every prompt, longest prompt, longest completion) → tokens that run."""


def every_row(groups: Sequence[int], longest_prompt: int, longest_reply: int) -> int:
    """The cost of a batch in which every completion carries its prompt."""
    return sum(groups) * (longest_prompt + longest_reply)


def microbatches(rows: Sequence[Row], budget: int, cost: Cost = every_row) -> Iterator[list[int]]:
    """Indices of rows that run at most `budget` padded tokens together, longest first.

    Rows of one prompt follow each other. Longest first, so that running out of memory happens at
    once or not at all.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: (-len(rows[i][0]) - len(rows[i][1]), i)):
        groups.setdefault(rows[i][0], []).append(i)
    chunk: list[int] = []
    size: tuple[list[int], int, int] = ([], 0, 0)
    for i in chain.from_iterable(groups.values()):
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

    Every row runs whole, which any causal language model can do: the reference for `fast`.
    """
    longest, owner_B = batch.target_BT.shape[1], batch.owner_B
    seen_BS = torch.cat([batch.seen_PL[owner_B], batch.mask_BT.long()], dim=1)
    inputs = {
        "input_ids": torch.cat([batch.prompt_PL[owner_B], batch.target_BT], dim=1),
        "attention_mask": seen_BS,
        "position_ids": (seen_BS.cumsum(1) - 1).clamp(min=0),
        "use_cache": False,
    }
    head = head_of(model)
    if head is None:
        logits_BTV: Tensor = model(**inputs, logits_to_keep=longest + 1).logits[:, :-1]
        return of_hidden(lambda logits_NV: logits_NV, logits_BTV, batch, temperature)
    hidden_BTD = causal(model).base_model(**inputs).last_hidden_state[:, -longest - 1 : -1]
    return of_hidden(head, hidden_BTD, batch, temperature)


def of_hidden(head: Head, hidden_BTD: Tensor, batch: Batch, temperature: float) -> Tensor:
    """Log-probabilities [B, T] of the targets after `hidden_BTD`; no logits of padding are made."""
    real_N = batch.mask_BT.flatten().nonzero().squeeze(1)
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, real_N)
    logp_N = chosen_logprobs(head, hidden_ND, batch.target_BT.flatten()[real_N], temperature)
    padded_N = logp_N.new_zeros(batch.mask_BT.numel()).index_put((real_N,), logp_N)
    return padded_N.view_as(batch.mask_BT)
