"""Prompts run as a tree: the beginning they all share once, then the rest of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparring.types import SparringError

WORTH = 256
"""Tokens that must be saved to pay for a second run."""


def slides(model: Any) -> bool:
    """Whether a layer of this language model sees only a window."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    return "sliding_attention" in kinds if kinds else bool(getattr(config, "sliding_window", None))


def trunk(prompt_PL: Tensor, seen_PL: Tensor) -> int:
    """How many tokens all prompts (padded on the left) begin with; 0 where they save too few.

    Every prompt keeps a token of its own.
    """
    prompts, longest = prompt_PL.shape
    if (prompts - 1) * longest < WORTH:
        return 0
    length_P1 = seen_PL.sum(1, keepdim=True)
    steps_T = torch.arange(int(length_P1.min()) - 1, device=prompt_PL.device)
    begin_PT = prompt_PL.gather(1, longest - length_P1 + steps_T)
    shared = int((begin_PT == begin_PT[0]).all(0).long().cumprod(0).sum())
    return shared if (prompts - 1) * shared >= WORTH else 0


def run_prompts(
    run: Callable[..., Any], prompt_PL: Tensor, seen_PL: Tensor, shared: int
) -> tuple[Any, Tensor]:
    """What `run` returns for the last token of every prompt, and which cached tokens are real.

    The first `shared` tokens run once. They lie before the padding of the others, so a sliding
    window, which counts places, would see too little: there `shared` must be 0.
    """
    if not shared:
        out = run(
            input_ids=prompt_PL,
            attention_mask=seen_PL,
            position_ids=(seen_PL.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
        )
        return out, seen_PL
    prompts, longest = prompt_PL.shape
    pads_P1 = longest - seen_PL.sum(1, keepdim=True)
    first = int(pads_P1[0])
    begin = run(input_ids=prompt_PL[:1, first : first + shared], use_cache=True)
    everyone = torch.zeros(prompts, dtype=torch.long, device=prompt_PL.device)
    # From column `shared` on, a shorter prompt still shows the end of its own beginning.
    own_PL = (torch.arange(longest - shared, device=prompt_PL.device) >= pads_P1).long()
    seen_PL = torch.cat([own_PL.new_ones(prompts, shared), own_PL], dim=1)
    out = run(
        input_ids=prompt_PL[:, shared:],
        attention_mask=seen_PL,
        position_ids=(seen_PL.cumsum(1) - 1)[:, shared:],
        past_key_values=forked(begin.past_key_values, everyone),
        use_cache=True,
    )
    return out, seen_PL


def forked(cache: Any, owner_B: Tensor) -> Any:
    """The cache with one row for each of `owner_B`; SparringError if the model kept none.

    `index_select` adds up gradients several times as fast as the indexing that transformers uses.
    """
    if cache is None or not cache.get_seq_length():
        raise SparringError(
            "the model dropped the cache of its prompts (gradient checkpointing does so in "
            "training mode), so its log-probabilities would be wrong"
        )
    for layer in cache.layers:
        layer.keys = layer.keys.index_select(0, owner_B)
        layer.values = layer.values.index_select(0, owner_B)
    return cache
