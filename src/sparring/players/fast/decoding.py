"""A decode batch whose rows attend to one copy of their prompt's keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from sparring.players.fast.prompts import run_prompts, slides, trunk

FAMILIES = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"})
"""Whose attention is softmax(cap(scale · QKᵀ))V over all positions or a window, and no more."""

_NAME = "sparring_forks"
_FIRST = 32
"""Tokens there is room for at first; doubled when they are used up."""
_SHORT = 32
"""Tokens of prompts that siblings hold one copy each of: one product is then less than two."""


def fits(model: Any) -> bool:
    """Whether `Forked` computes what the model's own attention would."""
    config = model.config.get_text_config()
    plain = config._attn_implementation in ("sdpa", "eager")
    return plain and config.model_type in FAMILIES and config.model_type == model.config.model_type


class Steps(Protocol):
    """A decode batch between two tokens."""

    logits_BV: Tensor

    def advance(self, token_B: Tensor, going: Tensor) -> None:
        """Feed one token to each row in `going`; the others leave."""
        ...


def begin(model: Any, prompts: Sequence[tuple[int, ...]], owner: Sequence[int], pad: int) -> Steps:
    """Run every prompt once; row b then continues `prompts[owner[b]]`."""
    longest = max(len(prompt) for prompt in prompts)
    ids_PL = torch.tensor([(*[pad] * (longest - len(p)), *p) for p in prompts]).to(model.device)
    length_P = torch.tensor([len(p) for p in prompts]).to(model.device)
    seen_PL = (torch.arange(-longest, 0, device=model.device) >= -length_P.unsqueeze(1)).long()
    owner_B = torch.tensor(owner, device=model.device)
    known = fits(model)
    shared = trunk(ids_PL, seen_PL) if known and not slides(model) else 0
    out, seen_PL = run_prompts(partial(model, logits_to_keep=1), ids_PL, seen_PL, shared)
    kind = Forked if known else Copied
    return kind(model, out.past_key_values, seen_PL, owner_B, out.logits[owner_B, -1])


class Copied:
    """For any causal language model: every row has a copy of its prompt's cache."""

    def __init__(
        self, model: Any, cache: Any, seen_PL: Tensor, owner_B: Tensor, logits_BV: Tensor
    ) -> None:
        self.model, self.cache, self.logits_BV = model, cache, logits_BV
        self.cache.batch_select_indices(owner_B)
        self.mask_BT = seen_PL[owner_B]

    def advance(self, token_B: Tensor, going: Tensor) -> None:
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


@dataclass
class Layer:
    """One layer's keys and values: those of P prompts, and those of B rows since.

    Keys and values are [rows, key heads, tokens, head size]. `window` is how far a token sees.
    Where rows share no prompt worth sharing, `prompt` is None and the first `before` of a row's
    own are its prompt's.
    """

    prompt: tuple[Tensor, Tensor] | None
    window: int | None
    before: int
    own: tuple[Tensor, Tensor]

    def put(self, key: Tensor, value: Tensor, step: int) -> None:
        """Write one token's key and value, making room where there is none."""
        at = self.before + step
        if at == self.own[0].shape[2]:
            self.own = _room(self.own[0], step), _room(self.own[1], step)
        self.own[0][:, :, at : at + 1] = key
        self.own[1][:, :, at : at + 1] = value


def _room(tensor: Tensor, tokens: int) -> Tensor:
    """The same with room for `tokens` more."""
    rows, heads, _, size = tensor.shape
    return torch.cat([tensor, tensor.new_empty(rows, heads, tokens, size)], dim=2)


class Forks:
    """A cache in the place of transformers', forked from that of prompts.

    `seen_PL` is 0 at their padding, which lies on the left where a layer has a window. Row b
    continues prompt `owner_B[b]`. All rows have `steps` tokens of their own.
    """

    def __init__(self, cache: Any, seen_PL: Tensor, owner_B: Tensor) -> None:
        self.steps = 0
        self.length_P = seen_PL.sum(1)
        self.padding_PL = seen_PL == 0 if bool((seen_PL == 0).any()) else None
        self._seat(owner_B)
        apart = seen_PL.shape[1] <= _SHORT or self.wide == 1
        self.layers = [self._layer(layer, apart) for layer in cache.layers]

    def _layer(self, cached: Any, apart: bool) -> Layer:
        shared = cached.keys, cached.values
        keys, values = (tensor.index_select(0, self.owner_B) for tensor in shared)
        window = cached.sliding_window if cached.is_sliding else None
        if apart:
            own = _room(keys, _FIRST), _room(values, _FIRST)
            return Layer(None, window, keys.shape[2], own)
        own = _room(keys[:, :, :0], _FIRST), _room(values[:, :, :0], _FIRST)
        return Layer(shared, window, 0, own)

    def _seat(self, owner_B: Tensor) -> None:
        """Give every row a slot beside its siblings: P prompts, W rows of each at most."""
        prompts = len(self.length_P)
        count_P = torch.bincount(owner_B, minlength=prompts)
        self.owner_B, self.wide = owner_B, int(count_P.max())
        order = torch.argsort(owner_B, stable=True)
        first_P = count_P.cumsum(0) - count_P
        rank = torch.arange(len(owner_B), device=owner_B.device) - first_P[owner_B[order]]
        slot_B = torch.empty_like(owner_B)
        slot_B[order] = owner_B[order] * self.wide + rank
        full = len(owner_B) == prompts * self.wide
        in_order = full and bool((slot_B[1:] > slot_B[:-1]).all())
        self.slot_B = None if in_order else slot_B

    def keep(self, going: Tensor) -> None:
        """Drop all rows but `going`."""
        for layer in self.layers:
            keys, values = layer.own
            layer.own = keys.index_select(0, going), values.index_select(0, going)
        self._seat(self.owner_B[going])

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any) -> tuple[Layer, Forks]:
        """What `attend` gets as keys and values: the layer, and the cache that it is part of.

        A layer has no back-reference: the cycle would keep every KV cache alive until gc runs.
        """
        layer = self.layers[layer_idx]
        layer.put(key, value, self.steps)
        return layer, self

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The name and meaning that transformers gives it."""
        return int(self.length_P.max()) + self.steps

    def hidden_PL(self, layer: Layer) -> Tensor | None:  # noqa: N802
        """Where a prompt's key is padding or out of sight; None where all are seen."""
        if layer.window is None:
            return self.padding_PL
        length = layer.prompt[0].shape[2] if layer.prompt else layer.before
        column_L = torch.arange(-length, 0, device=self.length_P.device)
        place_PL = self.length_P.unsqueeze(1) + column_L
        return (place_PL < 0) | (self.steps - column_L >= layer.window)

    def by_prompt(self, rows_BHRX: Tensor) -> Tensor:
        """Rows beside their siblings, [P, H, W·R, X]; free slots hold 0."""
        if self.slot_B is not None:
            shape = (len(self.length_P) * self.wide, *rows_BHRX.shape[1:])
            rows_BHRX = rows_BHRX.new_zeros(shape).index_copy(0, self.slot_B, rows_BHRX)
        _, heads, repeats, width = rows_BHRX.shape
        seated = rows_BHRX.view(-1, self.wide, heads, repeats, width).transpose(1, 2)
        return seated.reshape(-1, heads, self.wide * repeats, width)

    def by_row(self, seated_PHYX: Tensor) -> Tensor:
        """The inverse of `by_prompt`, [B, H, R, X]."""
        prompts, heads, many, width = seated_PHYX.shape
        repeats = many // self.wide
        rows = seated_PHYX.view(prompts, heads, self.wide, repeats, width).transpose(1, 2)
        rows_BHRX = rows.reshape(prompts * self.wide, heads, repeats, width)
        return rows_BHRX if self.slot_B is None else rows_BHRX.index_select(0, self.slot_B)


class Forked:
    """For known families: the rows of a group attend to one copy of their prompt's cache."""

    def __init__(
        self, model: Any, cache: Any, seen_PL: Tensor, owner_B: Tensor, logits_BV: Tensor
    ) -> None:
        self.model, self.logits_BV = model, logits_BV
        self.forks = Forks(cache, seen_PL, owner_B)
        self.place_B1 = self.forks.length_P[owner_B].unsqueeze(1)

    def advance(self, token_B: Tensor, going: Tensor) -> None:
        if len(going) < len(self.place_B1):
            self.forks.keep(going)
            self.place_B1 = self.place_B1[going]
        with attending(self.model):
            out = self.model(
                input_ids=token_B.unsqueeze(1),
                position_ids=self.place_B1 + self.forks.steps,
                past_key_values=self.forks,
                use_cache=True,
            )
        self.forks.steps += 1
        self.logits_BV = out.logits[:, -1]


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """Within the block the model's layers attend by `attend`; it makes no masks of its own."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, attend)
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation_internal = _NAME
    try:
        yield
    finally:
        config._attn_implementation_internal = before


def attend(
    module: Any, query: Tensor, key: Layer, forks: Forks, attention_mask: None, **options: Any
) -> tuple[Tensor, None]:
    """Attention of one new token a row, [B, 1, heads, head size], as transformers calls it.

    The siblings of a group meet their prompt's keys in one product; the keys of each row's own
    tokens are added before the softmax, so nothing is approximated.
    """
    now = forks.steps + 1
    rows, heads, _, size = query.shape
    start = max(0, now - key.window) if key.window else 0
    whole = key.prompt is None and not start  # a row's own begin with its prompt
    columns = slice(0 if whole else key.before + start, key.before + now)
    keys, values = (own[:, :, columns] for own in key.own)
    query_BHRD = query.reshape(rows, keys.shape[1], heads // keys.shape[1], size)
    query_BHRD = query_BHRD * options["scaling"]
    cap = options.get("softcap")
    own = _capped(query_BHRD @ keys.transpose(2, 3), cap)
    hidden_PL = forks.hidden_PL(key)
    if whole and hidden_PL is not None:
        hidden_BL = hidden_PL.index_select(0, forks.owner_B)
        own[..., : key.before].masked_fill_(hidden_BL[:, None, None], -torch.inf)
    if key.prompt is None:
        return (_softmax(own) @ values).reshape(rows, 1, heads, -1), None
    prompt = _capped(forks.by_prompt(query_BHRD) @ key.prompt[0].transpose(2, 3), cap)
    if hidden_PL is not None:
        prompt = prompt.masked_fill(hidden_PL[:, None, None], -torch.inf)
    weight = _softmax(torch.cat([forks.by_row(prompt), own], dim=-1))
    before, since = torch.split(weight, [prompt.shape[-1], own.shape[-1]], dim=-1)
    out = forks.by_row(forks.by_prompt(before) @ key.prompt[1]) + since @ values
    return out.reshape(rows, 1, heads, -1), None


def _capped(score: Tensor, cap: float | None) -> Tensor:
    return cap * (score / cap).tanh() if cap else score


def _softmax(score: Tensor) -> Tensor:
    """In float32 at least."""
    return score.softmax(-1, dtype=torch.promote_types(score.dtype, torch.float32)).to(score.dtype)
