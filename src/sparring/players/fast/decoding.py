"""Prompts run as a tree, and the decode batches that continue them from one copy of its cache."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparring.players.logprobs import learned, padded
from sparring.players.trials import bare_logits, causal, kinds, logits_kept, price, probe, refusal
from sparring.types import SparringError, UsageError

_FIRST = 32
"""Tokens there is room for at first; doubled when they are used up."""
_SHORT = 32
"""Tokens of prompts that siblings hold one copy each of: one product is then less than two."""


def fits(model: Any) -> bool:
    """Whether `Forked` decodes what the model itself would: tried once for each model."""
    return not refusal(model, _forked)


def check_playable(model: Any) -> None:
    """UsageError, with the reason, for a model that cannot be sampled from or learned through."""
    reason = (refusal(model, _forked) and refusal(model, _apart)) or refusal(model, learned)
    if reason:
        raise UsageError(
            f"model_name_or_path: {type(causal(model)).__name__} cannot be played: {reason}; "
            "choose a model that transformers' own generate() can sample from"
        )


WORTH = 256
"""Tokens that must be saved, of any model, to pay for what prompts share being run by itself."""


def trunk(model: Any, prompt_PL: Tensor, seen_PL: Tensor) -> int:
    """How many tokens all prompts (padded on the left) begin with; 0 where they save too few.

    Every prompt keeps a token of its own. Those that run once lie before the padding of the
    others, so a sliding window, which counts places, would see too little: 0 for such models.
    """
    prompts, longest = prompt_PL.shape
    least = min(WORTH, price(model))
    if (prompts - 1) * longest < least or "sliding_attention" in kinds(model):
        return 0
    length_P1 = seen_PL.sum(1, keepdim=True)
    steps_T = torch.arange(int(length_P1.min()) - 1, device=prompt_PL.device)
    begin_PT = prompt_PL.gather(1, longest - length_P1 + steps_T)
    shared = int((begin_PT == begin_PT[0]).all(0).long().cumprod(0).sum())
    return shared if (prompts - 1) * shared >= least else 0


def run_prompts(
    run: Callable[..., Any], prompt_PL: Tensor, seen_PL: Tensor, shared: int
) -> tuple[Any, Tensor]:
    """What `run` returns for the last token of every prompt, and which cached tokens are real.

    The first `shared` tokens run once for all of them.
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
    """A cache with one row for each of `owner_B`; SparringError if the model kept none.

    `index_select` adds up gradients several times as fast as the indexing that transformers uses.
    """
    if cache is None or not cache.get_seq_length():
        raise SparringError(
            "the model dropped the cache of its prompts (gradient checkpointing does so in "
            "training mode), so its log-probabilities would be wrong"
        )
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in fork.layers:
        layer.keys = layer.keys.index_select(0, owner_B)
        layer.values = layer.values.index_select(0, owner_B)
    return fork


def begin(
    model: Any, prompts: Sequence[tuple[int, ...]], owner: Sequence[int], pad: int
) -> Forked | Apart:
    """Run every prompt once; row b then continues `prompts[owner[b]]`."""
    return Forked(model, prompts, owner, pad) if fits(model) else Apart(model, prompts, owner)


class Forked:
    """A decode batch between two tokens, whose rows attend to one copy of their prompt's cache."""

    def __init__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], owner: Sequence[int], pad: int
    ) -> None:
        ids_PL, seen_PL = (each.to(model.device) for each in padded(prompts, pad, "left"))
        owner_B = torch.tensor(owner, device=model.device)
        shared = trunk(model, ids_PL, seen_PL)
        out, seen_PL = run_prompts(partial(model, logits_to_keep=1), ids_PL, seen_PL, shared)
        self.model, self.logits_BV = model, out.logits[owner_B, -1]
        self.place_B1 = seen_PL.sum(1)[owner_B].unsqueeze(1)
        self.cache = Forks(out.past_key_values, seen_PL, owner_B)

    def advance(self, token_B: Tensor, going: Tensor) -> None:
        """Feed one token to each row in `going`; the others leave."""
        if len(going) < len(self.place_B1):
            self.cache.batch_select_indices(going)
            self.place_B1 = self.place_B1[going]
        with attending(self.model, attend):
            out = self.model(
                input_ids=token_B.unsqueeze(1),
                position_ids=self.place_B1,
                past_key_values=self.cache,
                use_cache=True,
            )
        self.place_B1 = self.place_B1 + 1
        self.logits_BV = out.logits[:, -1]


class Apart:
    """A decode batch between two tokens in which the rows of a prompt run apart from the others.

    Nothing is padded and nobody reaches into the model's own cache, whatever it holds, so any
    causal language model decodes in this way. Rows that end run along with their siblings. Where
    a model returns no cache, every row runs whole for each token.
    """

    def __init__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], owner: Sequence[int], _pad: int = 0
    ) -> None:
        self.model, self.options = model, logits_kept(model, 1)
        self.alive = list(range(len(owner)))
        self.rows_P = [[b for b in self.alive if owner[b] == p] for p in range(len(prompts))]
        self.ids_P = [
            torch.tensor(prompt, device=model.device).expand(len(rows), -1)
            for prompt, rows in zip(prompts, self.rows_P, strict=True)
        ]
        self.cache_P: list[dict[str, Any]] = [{} for _ in prompts]
        self.logits_BV = self._run()

    def advance(self, token_B: Tensor, going: Tensor) -> None:
        """Feed one token to each row in `going`; the others leave."""
        self.alive = [self.alive[i] for i in going.tolist()]
        token = dict(zip(self.alive, token_B, strict=True))
        for p, rows in enumerate(self.rows_P):
            next_N = torch.stack([token.get(b, token_B.new_zeros(())) for b in rows])
            self.ids_P[p] = torch.cat([self.ids_P[p], next_N.unsqueeze(1)], dim=1)
        self.logits_BV = self._run()

    def _run(self) -> Tensor:
        last: dict[int, Tensor] = {}
        for p, rows in enumerate(self.rows_P):
            cache = self.cache_P[p]
            if set(rows).isdisjoint(self.alive):
                cache.clear()
                continue
            ids_NT = self.ids_P[p][:, -1:] if cache else self.ids_P[p]
            out = self.model(input_ids=ids_NT, use_cache=True, **cache, **self.options)
            cache |= {name: out[name] for name in _CACHES if out.get(name) is not None}
            last |= zip(rows, out.logits[:, -1], strict=True)
        return torch.stack([last[b] for b in self.alive])


_CACHES = ("past_key_values", "cache_params", "state")
"""What models call the cache that they return and take back."""


def _decoded(batch: type[Forked | Apart], model: Any) -> tuple[Tensor, Tensor]:
    """Logits after every token of `probe`, decoded while rows leave, and those of bare passes."""
    rows = probe(model)
    prompts = list(dict.fromkeys(prompt for prompt, _ in rows))
    bare = [bare_logits(model, row) for row in rows]
    alive = list(range(len(rows)))
    steps = batch(model, prompts, [prompts.index(prompt) for prompt, _ in rows], 0)
    actual, expected = [steps.logits_BV.float()], [bare[i][0] for i in alive]
    for t in range(max(len(reply) for _, reply in rows)):
        going = [k for k, i in enumerate(alive) if len(rows[i][1]) > t]
        alive = [alive[k] for k in going]
        tokens = torch.tensor([rows[i][1][t] for i in alive], device=model.device)
        steps.advance(tokens, torch.tensor(going, device=model.device))
        actual.append(steps.logits_BV.float())
        expected += [bare[i][t + 1] for i in alive]
    return torch.cat(actual), torch.stack(expected)


_forked, _apart = partial(_decoded, Forked), partial(_decoded, Apart)


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
    own: list[Tensor]

    def put(self, key: Tensor, value: Tensor, step: int) -> None:
        """Write one token's key and value, making room where there is none."""
        at = self.before + step
        if at == self.own[0].shape[2]:
            self.own = [_room(tensor, step) for tensor in self.own]
        for tensor, new in zip(self.own, (key, value), strict=True):
            tensor[:, :, at : at + 1] = new


def _room(tensor: Tensor, tokens: int) -> Tensor:
    """The same with room for `tokens` more."""
    rows, heads, _, size = tensor.shape
    return torch.cat([tensor, tensor.new_empty(rows, heads, tokens, size)], dim=2)


def siblings_before(owner_B: Tensor) -> Tensor:
    """How many rows of the same prompt stand before each row, shape [B]."""
    order_B, count_P = torch.argsort(owner_B, stable=True), torch.bincount(owner_B)
    first_P = count_P.cumsum(0) - count_P
    place_B = torch.arange(len(owner_B), device=owner_B.device)
    return torch.empty_like(owner_B).index_copy(0, order_B, place_B - first_P[owner_B[order_B]])


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
        begun = shared if apart else (tensor[:, :, :0] for tensor in shared)
        own = [_room(tensor.index_select(0, self.owner_B), _FIRST) for tensor in begun]
        window = cached.sliding_window if cached.is_sliding else None
        return Layer(None if apart else shared, window, own[0].shape[2] - _FIRST, own)

    def _seat(self, owner_B: Tensor) -> None:
        """Give every row a slot beside its siblings: P prompts, W rows of each at most."""
        before_B = siblings_before(owner_B)
        self.owner_B, self.wide = owner_B, int(before_B.max()) + 1
        slot_B = owner_B * self.wide + before_B
        full = len(owner_B) == len(self.length_P) * self.wide
        in_order = full and bool((slot_B[1:] > slot_B[:-1]).all())
        self.slot_B = None if in_order else slot_B

    def batch_select_indices(self, going: Tensor) -> None:
        """Drop all rows but `going`; the name is transformers'."""
        for layer in self.layers:
            layer.own = [tensor.index_select(0, going) for tensor in layer.own]
        self._seat(self.owner_B[going])

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any) -> tuple[Layer, Forks]:
        """What `attend` gets as keys and values: the layer, and the cache that it is part of.

        A layer has no back-reference: the cycle would keep every KV cache alive until gc runs.
        """
        if layer_idx == 0:
            self.steps += 1
        layer = self.layers[layer_idx]
        layer.put(key, value, self.steps - 1)
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
        return (place_PL < 0) | (self.steps - column_L > layer.window)

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


@contextmanager
def attending(model: Any, attention: Callable[..., Any], masks: str = "") -> Iterator[None]:
    """Within the block the model's layers attend by `attention`.

    It gets the masks of transformers' attention of that name, or none.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = f"sparring_{attention.__name__}"
    AttentionInterface.register(name, attention)
    if masks:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[masks])
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation_internal = name
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
    now = forks.steps
    rows, heads, _, size = query.shape
    start = max(0, now - key.window) if key.window else 0
    whole = key.prompt is None and not start  # a row's own begin with its prompt
    columns = slice(0 if whole else key.before + start, key.before + now)
    keys, values = (own[:, :, columns] for own in key.own)
    query_BHRD = _wide(query).reshape(rows, keys.shape[1], heads // keys.shape[1], size)
    query_BHRD = query_BHRD * options["scaling"]
    cap = options.get("softcap")
    own = _capped(query_BHRD @ _wide(keys).transpose(2, 3), cap)
    hidden_PL = forks.hidden_PL(key)
    if whole and hidden_PL is not None:
        hidden_BL = hidden_PL.index_select(0, forks.owner_B)
        own[..., : key.before].masked_fill_(hidden_BL[:, None, None], -torch.inf)
    if key.prompt is None:
        weight = own.softmax(-1).to(values.dtype)
        return (weight @ values).reshape(rows, 1, heads, -1), None
    prompt = _capped(forks.by_prompt(query_BHRD) @ _wide(key.prompt[0]).transpose(2, 3), cap)
    if hidden_PL is not None:
        prompt = prompt.masked_fill(hidden_PL[:, None, None], -torch.inf)
    weight = torch.cat([forks.by_row(prompt), own], dim=-1).softmax(-1).to(values.dtype)
    before, since = torch.split(weight, [prompt.shape[-1], own.shape[-1]], dim=-1)
    out = forks.by_row(forks.by_prompt(before) @ key.prompt[1]) + since @ values
    return out.reshape(rows, 1, heads, -1), None


def _capped(score: Tensor, cap: float | None) -> Tensor:
    return cap * (score / cap).tanh() if cap else score


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least: scores that are rounded to bfloat16 are another policy's.

    Keys with biases as large as Qwen2.5-7B's make scores of a thousand, whose spacing is 4 nats.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
