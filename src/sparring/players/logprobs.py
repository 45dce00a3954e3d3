"""Log-probabilities of sampled tokens: padded micro-batches, and never all the logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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


ATTENTION = frozenset({"full_attention", "sliding_attention"})
"""The kinds of layers whose whole past is the keys and values of a cache."""


def causal(model: Any) -> Any:
    """The language model inside a PEFT model, adapters in place; others as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def kinds(model: Any) -> set[str]:
    """The kinds of this language model's layers, as transformers' caches call them."""
    from transformers.cache_utils import get_layer_types_and_kwargs

    return set(get_layer_types_and_kwargs(model.config.get_text_config())[0])


def attends(model: Any) -> bool:
    """Whether every layer of the model is attention over a cache, full or within a window."""
    config = model.config.get_text_config()
    plain = config._attn_implementation in ("sdpa", "eager") and not config.is_encoder_decoder
    return plain and kinds(model) <= ATTENTION


def logits_kept(model: Any, tokens: int) -> dict[str, int]:
    """The argument for logits of the last `tokens` alone, for models that take it."""
    takes = "logits_to_keep" in inspect.signature(causal(model).forward).parameters
    return {"logits_to_keep": tokens} if takes else {}


Row = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt ids and completion ids."""

PROBE: tuple[Row, ...] = (
    ((4, 5, 6, 7, 8, 9), (1, 2, 3)),
    ((3, 2), (5,)),
    ((4, 5, 6, 7, 8, 9), (7, 6)),
)
"""A batch of two prompts that a model is tried with."""

Trial = Callable[[Any], tuple[Tensor, Tensor]]
"""Runs a model in some way; returns what that way computes and what a bare forward pass does."""

_TRIED: WeakKeyDictionary[Any, dict[Trial, str]] = WeakKeyDictionary()


def refusal(model: Any, trial: Trial) -> str:
    """Why the model cannot run in the way of `trial`; empty if it can.

    Families differ in their caches, masks and arguments, and new ones come every month: so no list
    of names says which ways are open to a model, but one trial of each on a few tokens does.
    """
    whole = causal(model)
    tried = _TRIED.setdefault(whole, {})
    if trial not in tried:
        training = whole.training
        whole.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng():
                tried[trial] = _difference(whole, *trial(model))
        except Exception as error:  # whatever a family's own code makes of it
            tried[trial] = f"{type(error).__name__}: {error}".partition("\n")[0]
        finally:
            whole.train(training)
    return tried[trial]


def _difference(model: Any, actual: Tensor, expected: Tensor) -> str:
    """A sentence on two tensors that differ by more than the rounding of the model's dtype."""
    limit = 1e-3 if model.dtype.itemsize >= 4 else 0.15
    if not bool(expected.isfinite().all()):
        return (
            "its logits are not numbers (NaN): the weights are damaged, or their dtype is too small"
        )
    if actual.shape != expected.shape:
        return f"its logits have the shape {[*actual.shape]} instead of {[*expected.shape]}"
    apart, spread = (actual - expected).abs().mean().item(), expected.std().item()
    if apart <= limit * spread:
        return ""
    return f"how it is run changes its logits by {apart:.2g} where their spread is {spread:.2g}"


def bare_logits(model: Any, row: Row) -> Tensor:
    """Logits [T + 1, V] after the prompt and after each token of the completion, in float32.

    One row runs alone, without padding, mask, positions or cache.
    """
    ids = torch.tensor([[*row[0], *row[1]]], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, len(row[0]) - 1 :]
    return logits.float()


def head_of(model: Any) -> Head | None:
    """What turns the last hidden state of `causal(model).base_model` into logits.

    None where that is not the output embedding (and Gemma's cap) alone: some families scale
    their logits.
    """
    return None if refusal(model, _by_head) else _head(causal(model))


def _head(whole: Any) -> Head:
    output = whole.get_output_embeddings()
    cap = getattr(whole.config.get_text_config(), "final_logit_softcapping", None)
    return (lambda hidden: cap * (output(hidden) / cap).tanh()) if cap else output


def _by_head(model: Any) -> tuple[Tensor, Tensor]:
    whole = causal(model)
    outputs: list[Any] = []
    hook = whole.base_model.register_forward_hook(lambda *call: outputs.append(call[-1]))
    try:
        logits = bare_logits(whole, PROBE[0])
        hidden = outputs[0].last_hidden_state[0, -len(logits) :]
        return _head(whole)(hidden).float(), logits
    finally:
        hook.remove()


def _left_padding(model: Any) -> tuple[Tensor, Tensor]:
    rows = padded([prompt for prompt, _ in PROBE], 0, "left")
    out = model(**_masked(*(rows_BS.to(model.device) for rows_BS in rows)), use_cache=True)
    if not all(hasattr(layer, "keys") for layer in out.past_key_values.layers):
        raise NotImplementedError("a recurrent state may remember padding for longer than a trial")
    bare = [bare_logits(model, row)[0] for row in PROBE]
    return out.logits[:, -1].float(), torch.stack(bare)


def _masked(ids_BS: Tensor, seen_BS: Tensor) -> dict[str, Tensor]:
    """The arguments of a forward pass over rows that are padded where `seen_BS` is 0."""
    place_BS = (seen_BS.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids_BS, "attention_mask": seen_BS, "position_ids": place_BS}


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
    batch = pad(PROBE, range(len(PROBE)), 0, model.device)
    bare = [
        bare_logits(model, row)[:-1].log_softmax(-1)[range(len(row[1])), list(row[1])]
        for row in PROBE
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
