"""A prompt and several of its completions as one row, without a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparring.players.fast.decoding import fits
from sparring.players.logprobs import Batch, causal, head_of, logprobs, of_hidden
from sparring.types import SparringError

if TYPE_CHECKING:
    from torch import Tensor

PAIR = {"sdpa": 1 / 6, "eager": 1 / 2}
"""What attention costs for each place of a token's row, times hidden size, in tokens' matrices:
4 D of 24 D² operations (arXiv:2001.08361, table 1), masked or not. Eager attention writes every
pair to memory several times; three times as much was seen (Llama, hidden size 192, CPU)."""


def packs(model: Any) -> bool:
    """Whether every layer of this language model sees what a mask made for it says, and no more."""
    config = model.config.get_text_config()
    both_ways = getattr(config, "use_bidirectional_attention", False)
    return fits(model) and getattr(config, "is_causal", True) and not both_ways


def pair_cost(model: Any) -> float:
    """What attention of one token to one place costs, in tokens' matrices."""
    config = model.config.get_text_config()
    return PAIR[config._attn_implementation] / float(config.hidden_size)


def abreast(pair: float, groups: Sequence[int], prompt: int, reply: int) -> int:
    """How many completions of a group share a row where that is cheapest; 1: none do.

    Each further one saves a prompt, but attention is computed between siblings too, and masked.
    """

    def cost(many: int) -> float:
        places = prompt + many * reply
        return _rows(groups, many) * places * (1 + pair * places)

    return min(range(1, max(groups) + 1), key=cost)


def _rows(groups: Sequence[int], many: int) -> int:
    return sum(-(-size // many) for size in groups)


def packed_tokens(pair: float, groups: Sequence[int], prompt: int, reply: int) -> int:
    """Tokens that run: every row has its prompt and room for as many completions as any."""
    many = abreast(pair, groups, prompt, reply)
    return _rows(groups, many) * (prompt + many * reply)


def packed_logprobs(pair: float, model: Any, batch: Batch, temperature: float) -> Tensor:
    """As `logprobs`, but siblings share rows [prompt | completion | … | completion].

    A completion's positions go on from its prompt's, and it sees its prompt and itself. No cache
    is involved, so layers may compute again. SparringError for families that take no such mask.
    """
    import torch

    whole, head = causal(model), head_of(model)
    if head is None or not packs(whole):
        raise SparringError(
            f"{whole.config.model_type}: siblings cannot share a row, they would see each other"
        )
    owners = batch.owner_B.tolist()
    longest = batch.prompt_PL.shape[1]
    many = abreast(pair, tuple(Counter(owners).values()), longest, batch.target_BT.shape[1])
    if many == 1:
        return logprobs(model, batch, temperature)
    owner_R, place_B = (torch.tensor(n).to(batch.owner_B) for n in _placed(owners, many))
    inner_BT = batch.target_BT[:, :-1]
    room, steps = len(owner_R) * many, inner_BT.shape[1]
    own_NT = inner_BT.new_zeros(room, steps).index_copy(0, place_B, inner_BT)
    own_RS = own_NT.view(len(owner_R), many * steps)
    seen_RL = batch.seen_PL[owner_R]
    position_RS = _positions(seen_RL, many, steps)
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


def _placed(owners: Sequence[int], many: int) -> tuple[list[int], list[int]]:
    """The prompt of every row, and which of all rows' places, `many` a row, a completion has."""
    rows: list[int] = []
    places: list[int] = []
    free: dict[int, int] = {}
    for owner in owners:
        if free.get(owner, 0) % many == 0:
            free[owner] = len(rows) * many
            rows.append(owner)
        places.append(free[owner])
        free[owner] += 1
    return rows, places


def _positions(seen_RL: Tensor, many: int, steps: int) -> Tensor:
    """Positions [R, S] that start again after the prompt for every completion."""
    import torch

    steps_T = torch.arange(steps, device=seen_RL.device)
    prompt_RL = (seen_RL.cumsum(1) - 1).clamp(min=0)
    return torch.cat([prompt_RL, seen_RL.sum(1, keepdim=True) + steps_T.repeat(many)], dim=1)


def _masks(model: Any, seen_RL: Tensor, position_RS: Tensor, steps: int) -> Any:
    """What each layer may see, [R, 1, S, S]; by kind of layer where a model has both.

    Transformers takes one mask as it is and hands it to every layer; a dictionary reaches only
    models that have kinds of layers.
    """
    from transformers.cache_utils import get_layer_types_and_kwargs

    config = model.config.get_text_config()
    full_R1SS = _visible(seen_RL, position_RS, steps)
    made = {}
    for kind in sorted(set(get_layer_types_and_kwargs(config)[0])):
        mask_R1SS = full_R1SS
        if kind == "sliding_attention":
            mask_R1SS = full_R1SS & _near(position_RS, config.sliding_window)
        made[kind] = _added(mask_R1SS, model.dtype) if _eager(config) else mask_R1SS
    return made if len(made) > 1 else made.popitem()[1]


def _visible(seen_RL: Tensor, position_RS: Tensor, steps: int) -> Tensor:
    """True where a token (row) sees a place (column): its prompt's and its own, up to itself.

    Padding on the left sees its prompt's first token, so no token sees nothing. Padding on the
    right is seen by nothing but itself.
    """
    import torch

    longest = seen_RL.shape[1]
    mask_RSS = position_RS.unsqueeze(1) <= position_RS.unsqueeze(2)
    mask_RSS[:, :, :longest] &= seen_RL.bool().unsqueeze(1)
    place_S = torch.arange(position_RS.shape[1] - longest, device=seen_RL.device)
    own_S = place_S // max(1, steps)
    mask_RSS[:, longest:, longest:] &= own_S == own_S.unsqueeze(1)
    return mask_RSS.unsqueeze(1)


def _near(position_RS: Tensor, window: int) -> Tensor:
    """True where a place lies within the window of a token, which counts itself."""
    return (position_RS.unsqueeze(1) > position_RS.unsqueeze(2) - window).unsqueeze(1)


def _eager(config: Any) -> bool:
    return bool(config._attn_implementation == "eager")


def _added(mask: Tensor, dtype: Any) -> Tensor:
    """The mask as eager attention wants it, which adds it to its scores: a bool would be a 1."""
    import torch

    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
