"""Estimates a run's needs on one GPU: bytes of memory and seconds of a round."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sparring.estimate.shape import TABLE, Shape
from sparring.players.logprobs import PIECE
from sparring.settings.config import RunConfig
from sparring.types import Player, Turn, UsageError

GIB = 2**30
MOST_TOKENS = 16_384
"""Padded tokens of a micro-batch where memory sets no other limit."""
PROMPT = 512
"""Tokens of a prompt, where nobody knows better."""
LARGEST = 512
"""GiB of a card; a larger number is the name of one."""
RESERVED = 2.0
"""GiB of a card that no tensor gets: the driver's context, kernels and fragmentation."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU: GiB of memory, dense bfloat16 TFLOP/s, and TB/s at which its memory is read.

    Rates are 0 for a card that is given as a number of GiB alone. Makers write GB where they
    build GiB.
    """

    name: str
    gib: float
    tflops: float = 0.0
    terabytes: float = 0.0
    source: str = ""

    @property
    def usable(self) -> float:
        """GiB that tensors may fill."""
        return self.gib - RESERVED


CARDS: Mapping[str, Card] = {name: Card(**row) for name, row in TABLE["cards"].items()}


def card(name: str) -> Card:
    """Look up a card by name, or make one of `name` GiB of which nothing else is known.

    A name may leave out its maker's letters, as 4090 does.
    """
    short = re.sub(r"(?<=\w)[ _-]|nvidia|geforce|gi?b$", "", name.lower())
    names = {key: key.replace("-", "") for key in CARDS}
    number = float(short) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", short) else 0.0
    if 0 < number <= LARGEST:
        return Card(f"{number:g} GiB", number)
    for key, known in names.items():
        if known == short or (number and known.endswith(short)):
            return CARDS[key]
    raise UsageError(
        f"--gpu: no card {name!r:.40}; known: {', '.join(CARDS)}, or at most {LARGEST} GiB"
    )


COPIES = {"adapters": (1, 2), "shared": (1, 1), "separate": (2, 2)}
"""By the setting `weights`: models in memory, and sets of weights that are trained."""


@dataclass(frozen=True, slots=True)
class CardMemory:
    """Bytes on one card that holds the whole run."""

    weights: int
    adapters: int
    optimizer: int
    reference: int
    gradients: int
    activations: int
    logits: int
    cache: int
    checkpoint: int

    @property
    def standing(self) -> int:
        """Bytes that are held from the first round to the last."""
        return self.weights + self.adapters + self.optimizer + self.reference

    @property
    def peak(self) -> int:
        """The most bytes at once: an update and a decode batch follow each other."""
        return self.standing + max(self.gradients + self.activations + self.logits, self.cache)


def memory(shape: Shape, config: RunConfig, tokens: int) -> CardMemory:
    """The memory of a run with that shape, in micro-batches of that many `tokens`.

    `optimizer`: AdamW's two moments in float32 (arXiv:1711.05101), with a float32 copy of narrower
    weights: 8 bytes for a trained float32 parameter and 12 for a bfloat16 one.
    `activations`: what autograd saves of a micro-batch, counted on the meta device because the
    formulas of arXiv:2205.05198, section 4.1, know neither gated products, nor grouped queries, nor
    adapters that save a float32 copy of every input. With gradient checkpointing (ibid., section 5)
    it is every layer's input and the rest of one layer.
    `logits`: those of one piece, as the head writes them and in float32, each with its gradient.
    `cache`: keys and values, 2 x layers x key-value heads x head width x bytes for each token
    (arXiv:2211.05102, section 2; grouped queries arXiv:2305.13245).
    `checkpoint`: trained weights, moments and float32 copies on disk, which pass through the
    machine's memory.
    """
    models, learners = COPIES[config.weights]
    moments = (12 if shape.trained_bytes < 4 * shape.trained else 8) * shape.trained
    saved = shape.saved
    if config.learner.optimizer.gradient_checkpointing:
        saved = shape.layer_inputs + (shape.saved - shape.layer_inputs) // shape.layers
    return CardMemory(
        weights=models * shape.weights,
        adapters=learners * shape.trained_bytes if config.weights == "adapters" else 0,
        optimizer=learners * moments,
        reference=learners * shape.trained_bytes if config.learner.beta else 0,
        gradients=shape.trained_bytes,
        activations=tokens * saved,
        logits=min(PIECE, tokens * shape.vocabulary) * 2 * (shape.itemsize + 4),
        cache=config.sampling.batch_tokens * shape.cache,
        checkpoint=learners * (shape.trained_bytes + moments),
    )


@dataclass(frozen=True, slots=True)
class Work:
    """The completions of a round and the prompts they answer, by player; `learns` are trained."""

    name: str
    prompts: dict[Player, int]
    sampled: dict[Player, int]
    learns: frozenset[Player]


def rounds_of(config: RunConfig) -> list[Work]:
    """The kinds of round that a run has: one for each player that learns alone, or one of both."""
    alternates, every = config.schedule.kind == "alternate", config.schedule.every
    return [_work(config, turn) for p, turn in config.turns.items() if every[p] or not alternates]


def _work(config: RunConfig, turn: Turn) -> Work:
    seeds = max(config.learner.seeds_per_round[player] for player in turn.learns)
    attacks = seeds * turn.widths[Player.ATTACKER]
    replies = attacks * turn.widths[Player.DEFENDER]
    return Work(
        " and ".join(sorted(turn.learns)) + (" learns" if len(turn.learns) == 1 else " learn"),
        {Player.ATTACKER: seeds, Player.DEFENDER: attacks},
        {Player.ATTACKER: attacks, Player.DEFENDER: replies},
        turn.learns,
    )


@dataclass(frozen=True, slots=True)
class Shares:
    """Assumed shares of a card's rates that are reached, not measured ones.

    `flops` is of its bfloat16 rate in updates and prefill, `bandwidth` of its memory's in decoding.
    """

    flops: float = 0.4
    bandwidth: float = 0.5


def seconds(
    shape: Shape, config: RunConfig, prompt: int, work: Work, card: Card, shares: Shares
) -> dict[str, float]:
    """The seconds of a round on one card, in its parts and in all, without the judge's time.

    Every prompt has `prompt` tokens.
    """
    rate, bandwidth = 1e12 * card.tflops * shares.flops, 1e12 * card.terabytes * shares.bandwidth
    optimizer, reply = config.learner.optimizer, config.sampling.max_completion_length
    again, adapters = optimizer.gradient_checkpointing, config.weights == "adapters"
    tokens = sum(update_tokens(config, prompt, work, player) for player in work.learns)
    flops = update_flops(shape, prompt + reply, adapters, again + (config.learner.beta > 0))
    batch = max(1, config.sampling.batch_tokens // (prompt + reply))
    read = sum(_bytes_read(shape, prompt, reply, work.sampled[p], batch) for p in Player)
    parts = {
        "prefill": sum(work.prompts.values()) * prompt * forward_flops(shape, prompt) / rate,
        "decode": reply * read / bandwidth,
        "update": optimizer.updates_per_batch * tokens * flops / rate,
    }
    return parts | {"total": sum(parts.values())}


def forward_flops(shape: Shape, context: int) -> float:
    """Floating-point operations of one token's forward pass: 2N, and attention over half `context`.

    N counts the parameters that a token is multiplied by; attention's two products (scores, sums)
    are 4 x context x width a layer, half of that under a causal mask. arXiv:2001.08361, table 1.
    """
    return 2 * shape.multiplied + 2 * shape.attention * context


def update_flops(shape: Shape, context: int, adapters: bool, more_forwards: int) -> float:
    """Operations of one token's update: 3 forwards for full weights (arXiv:2001.08361, sec. 2.1).

    The weights of a frozen base need no gradient, so that it costs 4N a token, while attention and
    the adapter's own products cost three forwards. Checkpointing is one of `more_forwards`, and a
    reference is another.
    """
    frozen = 2 * shape.multiplied - 6 * shape.trained if adapters else 0
    return (3 + more_forwards) * forward_flops(shape, context) - frozen


def update_tokens(config: RunConfig, prompt: int, work: Work, player: Player) -> int:
    """Tokens of a player's update: every prompt once, or once for every completion if checkpointed.

    This is an upper bound: groups of equal returns are skipped, and with checkpointing siblings
    share rows where that is cheaper.
    """
    replies, again = work.sampled[player], config.learner.optimizer.gradient_checkpointing
    prompts = replies if again else work.prompts[player]
    return replies * config.sampling.max_completion_length + prompts * prompt


def _bytes_read(shape: Shape, prompt: int, reply: int, rows: int, batch: int) -> float:
    """Bytes read for one token of `rows` completions: all weights once a batch, and every cache.

    The floor of arXiv:2211.05102, section 2, with every completion as long as the limit.
    """
    cache = rows * (prompt + reply / 2) * shape.cache
    return math.ceil(rows / batch) * shape.itemsize * shape.multiplied + cache
