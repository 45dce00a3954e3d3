"""How long a round takes on a card: products, and bytes read for each token that is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparring.estimating.cards import Card
from sparring.estimating.load import Load, Work
from sparring.policies.shape import Shape
from sparring.types import Player


@dataclass(frozen=True, slots=True)
class Shares:
    """What is reached of the card: of its bfloat16 rate in updates and prefill, of its memory's
    bandwidth in decoding. Assumed, not measured."""

    flops: float = 0.4
    bandwidth: float = 0.5


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one round; the judge's time is not in it."""

    prefill: float
    decode: float
    update: float

    @property
    def total(self) -> float:
        return self.prefill + self.decode + self.update


def seconds(shape: Shape, load: Load, work: Work, card: Card, shares: Shares) -> Seconds:
    """The time of a round on one card."""
    rate, bandwidth = 1e12 * card.tflops * shares.flops, 1e12 * card.terabytes * shares.bandwidth
    context = load.prompt + load.completion
    prompts = sum(work.prompts.values()) * load.prompt
    prefill = prompts * forward_flops(shape, load.prompt) / rate
    decode = sum(decode_seconds(shape, load, work.sampled[p], bandwidth) for p in Player)
    tokens = sum(update_tokens(load, work, player) for player in work.learns)
    each = update_flops(shape, context, load)
    return Seconds(prefill, decode, load.updates * tokens * each / rate)


def forward_flops(shape: Shape, context: int) -> float:
    """Floating-point operations of a token's forward pass: 2N, and attention over half the context.

    N counts the parameters a token is multiplied by; attention's two products (scores, sums) are
    4 x context x width a layer, half of that under a causal mask. arXiv:2001.08361, table 1.
    """
    return 2 * shape.read + 2 * shape.attention * context


def update_flops(shape: Shape, context: int, load: Load) -> float:
    """Operations of a token's update: 3 forwards for full weights (arXiv:2001.08361, section 2.1).

    A frozen base wants no gradient by its weights, so it is run through twice (4N a token), while
    attention and the adapter's own products are run three times. Checkpointing adds a forward, a
    reference another.
    """
    forward = forward_flops(shape, context)
    back = 2 * forward
    if load.adapters:
        back += 6 * shape.trained - 2 * shape.read
    return forward + back + (load.checkpointing + load.reference) * forward


def update_tokens(load: Load, work: Work, player: Player) -> int:
    """Tokens of a player's update: every prompt once, or with every completion when checkpointing.

    The most there can be: groups of equal returns are skipped, and with checkpointing siblings
    share rows where that is cheaper (`learners/packing`).
    """
    replies, prompts = work.sampled[player], work.prompts[player]
    repeated = replies if load.checkpointing else prompts
    return replies * load.completion + repeated * load.prompt


def decode_seconds(shape: Shape, load: Load, rows: int, bandwidth: float) -> float:
    """Every drawn token reads all weights once a batch and the cache of every row.

    The floor of arXiv:2211.05102, section 2, over the share of it that is reached; every
    completion as long as the limit.
    """
    context = load.prompt + load.completion
    most = max(1, load.batch_tokens // context)
    batches = math.ceil(rows / most)
    held = rows * (load.prompt + load.completion / 2) * shape.cache
    read = batches * shape.item * shape.read + held
    return load.completion * read / bandwidth
