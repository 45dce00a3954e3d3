"""Log-probabilities for which a prompt runs once for its group, and the choice of a way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from sparring.players.fast.decoding import attending, forked, run_prompts, siblings_before, trunk
from sparring.players.logprobs import (
    Batch,
    Cost,
    LogprobsOf,
    every_row,
    logprobs,
    microbatches,
    of_hidden,
    probed,
)
from sparring.players.ranks import sharded
from sparring.players.trials import Row, attends, causal, head_of, kinds, price, refusal


def recompute(model: Any) -> int:
    """Turn gradient checkpointing on in every layer of a transformers model; returns how many.

    transformers' own switch only works in training mode, where dropout is on, while GRPO's
    log-probabilities need the mode that tokens were sampled in. This one works in both, needs no
    gradient on its inputs (so a LoRA on a frozen base learns), and leaves sampling as it is.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        if getattr(layer.forward, "func", None) is not _again:
            layer.forward = partial(_again, layer.forward)
    return len(layers)


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`forward`, of which only the inputs are kept while gradients are on."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


@dataclass(frozen=True, slots=True)
class Path:
    """A way to log-probabilities [B, T] of a batch, and what it costs in tokens."""

    cost: Cost
    logprobs: LogprobsOf


def once(groups: Sequence[int], longest_prompt: int, longest_reply: int) -> int:
    """The cost of a batch in which every prompt runs once."""
    return len(groups) * longest_prompt + sum(groups) * longest_reply


PAYS = 1024
"""Tokens that must be saved, of any model, for rows to run apart from others."""
_RUNS = 3
"""Runs that each further group takes: what its prompts share, their rest, and completions."""


def batches(rows: Sequence[Row], budget: int, path: Path, model: Any) -> Iterator[list[int]]:
    """Indices of rows that run together: those that share a beginning, as many as `budget` takes.

    Prompts that share half of their length or more, such as one brief, run apart from the others
    where that saves the model enough, so that what they share runs once.
    """
    for group in _by_beginning(rows, price(causal(model))):
        for index in microbatches([rows[i] for i in group], budget, path.cost):
            yield [group[i] for i in index]


def _by_beginning(rows: Sequence[Row], run: float) -> list[list[int]]:
    """Indices of rows in groups of one beginning; one group where several save too little.

    A run costs as much as `run` tokens.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(rows)), key=rows.__getitem__):
        if not groups or 2 * _common(rows[groups[-1][-1]], rows[i]) < len(rows[i][0]):
            groups.append([])
        groups[-1].append(i)

    def saved(group: Sequence[int]) -> int:
        prompts = len({rows[i][0] for i in group})
        return (prompts - 1) * _common(rows[group[0]], rows[group[-1]])

    whole = [i for group in groups for i in group]
    pays = min(PAYS, _RUNS * run * (len(groups) - 1))
    if whole and sum(map(saved, groups)) >= saved(whole) + pays:
        return groups
    return [list(range(len(rows)))] if rows else []


def _common(first: Row, last: Row) -> int:
    """How many tokens two prompts begin with; all between them in order begin with these too."""
    pairs = zip(first[0], last[0], strict=False)
    return len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])


def shared_logprobs(model: Any, batch: Batch, temperature: float) -> Tensor:
    """As `logprobs`, but every prompt runs once and its completions continue a fork of its cache.

    What all prompts begin with, such as a brief, runs once for all of them. Gradients flow through
    the cached keys and values, so they are the same to rounding.
    """
    head = head_of(model)
    shared = trunk(causal(model), batch.prompt_PL, batch.seen_PL)
    alone = len(batch.prompt_PL) == len(batch.owner_B) and not shared
    if alone or head is None:
        return logprobs(model, batch, temperature)
    body = _body(causal(model))
    prompts, seen_PL = run_prompts(body, batch.prompt_PL, batch.seen_PL, shared)
    hidden_BTD = prompts.last_hidden_state[:, -1:].index_select(0, batch.owner_B)
    if batch.target_BT.shape[1] > 1:
        rest_BTD = _rest(body, prompts, seen_PL, batch, price(causal(model)))
        hidden_BTD = torch.cat([hidden_BTD, rest_BTD], dim=1)
    return of_hidden(head, hidden_BTD, batch, temperature)


def _rest(
    body: Callable[..., Any], prompts: Any, seen_PL: Tensor, batch: Batch, cost: float
) -> Tensor:
    """Hidden states [B, T − 1, D] after all tokens of the completions but the last."""
    length_B, room = batch.mask_BT.sum(1).int().tolist(), batch.target_BT.shape[1] - 1
    parts = alike(length_B, cost)
    hidden = []
    for rows in parts:
        row_N = torch.tensor(rows, device=seen_PL.device)
        owner_N, steps = batch.owner_B[row_N], max(1, max(length_B[i] for i in rows) - 1)
        steps_T = torch.arange(steps, device=seen_PL.device)
        inner_NT, mask_NT = (each[row_N, :steps] for each in (batch.target_BT, batch.mask_BT))
        part = body(
            input_ids=inner_NT,
            attention_mask=torch.cat([seen_PL[owner_N], mask_NT.long()], dim=1),
            position_ids=seen_PL.sum(1, keepdim=True)[owner_N] + steps_T,
            past_key_values=forked(prompts.past_key_values, owner_N),
            use_cache=True,
        )
        hidden.append(pad(part.last_hidden_state, (0, 0, 0, room - steps)))
    if len(parts) == 1:
        return hidden[0]
    order = torch.tensor([i for rows in parts for i in rows], device=seen_PL.device).argsort()
    return torch.cat(hidden).index_select(0, order)


def alike(length_B: Sequence[int], worth: float) -> list[list[int]]:
    """Indices of completions in parts of similar length; each split saves `worth` of padding."""

    def parts(rows: list[int]) -> list[list[int]]:
        longest, many = length_B[rows[0]], len(rows)
        saved = [(longest - length_B[i]) * (many - at) for at, i in enumerate(rows)]
        at = saved.index(max(saved))
        return [*parts(rows[:at]), *parts(rows[at:])] if at and saved[at] >= worth else [rows]

    whole = [*range(len(length_B))]
    runs = parts(sorted(whole, key=lambda i: -length_B[i]))
    return runs if len(runs) > 1 else [whole]


def _body(whole: Any) -> Callable[..., Any]:
    """The layers; of a model in bfloat16 on a CPU, with attention in float32.

    Backwards, torch's kernel for a CPU is several times slower in bfloat16 than in float32.
    """
    sdpa = whole.config.get_text_config()._attn_implementation == "sdpa"
    if not (sdpa and whole.device.type == "cpu" and whole.dtype.itemsize < 4):
        return whole.base_model  # type: ignore[no-any-return]

    def run(**inputs: Any) -> Any:
        with attending(whole, attend_wide, "sdpa"):
            return whole.base_model(**inputs)

    return run


def attend_wide(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, in float32."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    wide = query.float(), key.float(), value.float()
    return sdpa_attention_forward(module, *wide, mask, **options)[0].to(query.dtype), None


PAIR = {"sdpa": 1 / 6, "eager": 1 / 2}
"""Attention's operations for a pair of query and key ÷ the matrices' for a token, times the hidden
size:
4 D of 24 D² operations (arXiv:2001.08361, table 1), masked or not. Eager attention writes every
pair to memory several times; three times as much was seen (Llama, hidden size 192, CPU)."""


def pair_cost(model: Any) -> float:
    """What attention of one token to one place costs, in tokens' matrices."""
    config = model.config.get_text_config()
    return PAIR[config._attn_implementation] / float(config.hidden_size)


def abreast(pair: float, groups: Sequence[int], longest_prompt: int, longest_reply: int) -> int:
    """How many completions of a group share a row where that is cheapest; 1: none do.

    Each further one saves a prompt, but attention is computed between siblings too, and masked.
    """

    def cost(many: int) -> float:
        places = longest_prompt + many * longest_reply
        return _rows(groups, many) * places * (1 + pair * places)

    return min(range(1, max(groups) + 1), key=cost)


def _rows(groups: Sequence[int], many: int) -> int:
    return sum(-(-size // many) for size in groups)


def packed_tokens(
    pair: float, groups: Sequence[int], longest_prompt: int, longest_reply: int
) -> int:
    """The cost of packed rows: each has its prompt and room for as many completions as any."""
    many = abreast(pair, groups, longest_prompt, longest_reply)
    return _rows(groups, many) * (longest_prompt + many * longest_reply)


def packed_logprobs(pair: float, model: Any, batch: Batch, temperature: float) -> Tensor:
    """As `logprobs`, but siblings share rows [prompt | completion | … | completion].

    A completion's positions go on from its prompt's, and it sees its prompt and itself. No cache
    is involved, so layers may compute again. Wrong for families that take no such mask: `path_of`
    tries it first.
    """
    whole, head = causal(model), head_of(model)
    if head is None:
        return logprobs(model, batch, temperature)
    owner_B, longest = batch.owner_B, batch.prompt_PL.shape[1]
    sizes = torch.bincount(owner_B).tolist()
    many = abreast(pair, sizes, longest, batch.target_BT.shape[1])
    if many == 1:
        return logprobs(model, batch, temperature)
    before_B = siblings_before(owner_B)
    # A prompt has a row for each `many` of its completions, and each of them a place in its row.
    rows = owner_B * len(owner_B) + before_B // many
    row_R, row_B = torch.unique(rows, return_inverse=True)
    owner_R, place_B = row_R // len(owner_B), row_B * many + before_B % many
    inner_BT = batch.target_BT[:, :-1]
    room, steps = len(owner_R) * many, inner_BT.shape[1]
    own_NT = inner_BT.new_zeros(room, steps).index_copy(0, place_B, inner_BT)
    own_RS = own_NT.view(len(owner_R), many * steps)
    seen_RL = batch.seen_PL[owner_R]
    steps_T = torch.arange(steps, device=seen_RL.device)
    prompt_RL = (seen_RL.cumsum(1) - 1).clamp(min=0)
    # Positions start again after the prompt for every completion.
    rest_RS = seen_RL.sum(1, keepdim=True) + steps_T.repeat(many)
    position_RS = torch.cat([prompt_RL, rest_RS], dim=1)
    hidden_RSD = whole.base_model(
        input_ids=torch.cat([batch.prompt_PL[owner_R], own_RS], dim=1),
        attention_mask=_masks(whole, seen_RL, position_RS, steps),
        position_ids=position_RS,
        use_cache=False,
    ).last_hidden_state
    first_B1D = hidden_RSD[:, longest - 1 : longest].index_select(0, place_B // many)
    rest_NTD = hidden_RSD[:, longest:].reshape(room, steps, hidden_RSD.shape[2])
    hidden_BTD = torch.cat([first_B1D, rest_NTD.index_select(0, place_B)], dim=1)
    return of_hidden(head, hidden_BTD, batch, temperature)


def _masks(model: Any, seen_RL: Tensor, position_RS: Tensor, steps: int) -> Any:
    """What each layer may see, [R, 1, S, S]; by kind of layer where a model has both.

    True where a token (row) sees a place (column): its prompt's and its own, up to itself. Padding
    on the left sees its prompt's first token, so that every token sees one; padding on the right is
    seen by padding alone. Transformers takes one mask as it is and hands it to every layer; a
    dictionary reaches only models that have kinds of layers. Eager attention adds the mask to its
    scores, where a bool would be a 1.
    """
    config, longest = model.config.get_text_config(), seen_RL.shape[1]
    full_RSS = position_RS.unsqueeze(1) <= position_RS.unsqueeze(2)
    full_RSS[:, :, :longest] &= seen_RL.bool().unsqueeze(1)
    place_S = torch.arange(position_RS.shape[1] - longest, device=seen_RL.device)
    own_S = place_S // max(1, steps)
    full_RSS[:, longest:, longest:] &= own_S == own_S.unsqueeze(1)
    masks = {}
    for kind in sorted(kinds(model)):
        mask_RSS = full_RSS
        if kind == "sliding_attention":  # a window counts the token itself
            near_RSS = position_RS.unsqueeze(1) > position_RS.unsqueeze(2) - config.sliding_window
            mask_RSS = full_RSS & near_RSS
        if config._attn_implementation == "eager":
            added_RSS = torch.zeros_like(mask_RSS, dtype=model.dtype)
            mask_RSS = added_RSS.masked_fill(~mask_RSS, torch.finfo(model.dtype).min)
        masks[kind] = mask_RSS.unsqueeze(1)
    return masks if len(masks) > 1 else masks.popitem()[1]


PLAIN, SHARED = Path(every_row, logprobs), Path(once, shared_logprobs)

_shared, _packed = partial(probed, shared_logprobs), partial(probed, partial(packed_logprobs, 0.0))
"""Trials of both; attention that costs nothing puts all siblings abreast."""


def path_of(model: Any) -> Path:
    """SHARED for models whose every layer is attention over a cache, full or sliding.

    Packed rows are used where gradients cannot flow through the KV cache, if the model takes a
    prepared mask: layers that compute again (gradient checkpointing) drop it, sharded layers
    (FSDP) are gathered for the backward pass through their output alone. PLAIN for the others:
    recurrent or chunked layers, layers that share a cache, attention kernels that take no 4-D
    mask, scaled logits. Each way is tried on the model before it is used.
    """
    path = _path(model)
    return PLAIN if isinstance(path, str) else path


def why_plain(model: Any) -> str:
    """Return why a model learns with a prompt in every completion's row; empty where it does not.

    That is right but slow, since a group's prompt runs as often as the group has completions.
    """
    path = _path(model)
    return path if isinstance(path, str) else ""


def _path(model: Any) -> Path | str:
    """The way to a model's log-probabilities that runs prompts once, or why there is none."""
    whole = causal(model)
    if not attends(whole):
        return "not every layer is attention over a cache, by SDPA or eager"
    if head_of(model) is None:
        return "its logits are not what its output layer makes of the last hidden state"
    # A layer that computes again drops the cache, or adds twice to one that it is given.
    again = any(
        getattr(m, "gradient_checkpointing", False) or getattr(m.forward, "func", None) is _again
        for m in whole.modules()
    )
    if not (again or sharded(whole)):
        return refusal(model, _shared) or SHARED
    if reason := refusal(model, _packed):
        return reason
    pair = pair_cost(whole)
    return Path(partial(packed_tokens, pair), partial(packed_logprobs, pair))
