"""A prompt run once for its group, and what all prompts begin with once for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sparring.players.fast.packing import packed_logprobs, packed_tokens, packs, pair_cost
from sparring.players.fast.prompts import forked, run_prompts, slides, trunk
from sparring.players.logprobs import Batch, Cost, causal, every_row, head_of, logprobs, of_hidden
from sparring.players.sharding import sharded

if TYPE_CHECKING:
    from torch import Tensor


def recompute(model: Any) -> int:
    """Let every layer of a transformers model compute again; returns how many do.

    transformers' own switch only works in training mode, where dropout is on, while GRPO's
    log-probabilities need the mode that tokens were sampled in. This one works in both, needs no
    gradient on its inputs (so a LoRA on a frozen base learns), and leaves sampling as it is.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        if not isinstance(layer.forward, partial):
            layer.forward = partial(_again, layer.forward)
    return len(layers)


def recomputes(model: Any) -> bool:
    """Whether some layer computes again; it would add to a cache that it was given twice."""
    return any(
        isinstance(told, partial) and told.func is _again
        for told in (getattr(m, "forward", None) for m in model.modules())
    )


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`forward`, of which only the inputs are kept while a gradient is wanted."""
    import torch
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


@dataclass(frozen=True, slots=True)
class Path:
    """A way to log-probabilities [B, T] of a batch, and what it costs in tokens."""

    cost: Cost
    logprobs: Callable[[Any, Batch, float], Tensor]


def once(groups: Sequence[int], prompt: int, reply: int) -> int:
    """Every prompt runs once."""
    return len(groups) * prompt + sum(groups) * reply


def shared_logprobs(model: Any, batch: Batch, temperature: float) -> Tensor:
    """As `logprobs`, but every prompt runs once and its completions continue a fork of its cache.

    What all prompts begin with, such as a brief, runs once for all of them.

    Gradients flow through the cached keys and values, so they are the same to rounding.
    """
    import torch

    head = head_of(model)
    shared = 0 if slides(causal(model)) else trunk(batch.prompt_PL, batch.seen_PL)
    alone = len(batch.prompt_PL) == len(batch.owner_B) and not shared
    if alone or head is None:
        return logprobs(model, batch, temperature)
    body = causal(model).base_model
    said, seen_PL = run_prompts(body, batch.prompt_PL, batch.seen_PL, shared)
    hidden_B1D = said.last_hidden_state[:, -1:].index_select(0, batch.owner_B)
    inner_BT = batch.target_BT[:, :-1]
    if not inner_BT.shape[1]:
        return of_hidden(head, hidden_B1D, batch, temperature)
    steps_T = torch.arange(inner_BT.shape[1], device=inner_BT.device)
    rest = body(
        input_ids=inner_BT,
        attention_mask=torch.cat([seen_PL[batch.owner_B], batch.mask_BT[:, :-1].long()], dim=1),
        position_ids=seen_PL.sum(1, keepdim=True)[batch.owner_B] + steps_T,
        past_key_values=forked(said.past_key_values, batch.owner_B),
        use_cache=True,
    )
    hidden_BTD = torch.cat([hidden_B1D, rest.last_hidden_state], dim=1)
    return of_hidden(head, hidden_BTD, batch, temperature)


PLAIN, SHARED = Path(every_row, logprobs), Path(once, shared_logprobs)

_ATTENTION = {"full_attention", "sliding_attention"}


def path_of(model: Any) -> Path:
    """SHARED for models whose every layer is attention over a cache, full or sliding.

    Packed where a cache is no way back to the prompt, if they take a prepared mask: layers that
    compute again (gradient checkpointing) drop it, layers held in shares are gathered for the way
    back through their output alone. PLAIN for the others: recurrent or chunked layers, layers that
    share a cache, attention kernels that take no 4-D mask, scaled logits.
    """
    from transformers.cache_utils import get_layer_types_and_kwargs

    whole = causal(model)
    config = whole.config.get_text_config()
    kinds = set(get_layer_types_and_kwargs(config)[0])
    able = (
        kinds <= _ATTENTION
        and not config.is_encoder_decoder
        and config._attn_implementation in ("sdpa", "eager")
        and head_of(model) is not None
    )
    if not able:
        return PLAIN
    switched = any(getattr(m, "gradient_checkpointing", False) for m in whole.modules())
    if not (switched or recomputes(whole) or sharded(whole)):
        return SHARED
    if not packs(whole):
        return PLAIN
    pair = pair_cost(whole)
    return Path(partial(packed_tokens, pair), partial(packed_logprobs, pair))
