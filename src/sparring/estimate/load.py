"""What a configuration asks of a card: lengths and copies, bytes of memory, seconds of a round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sparring.estimate.shape import Shape
from sparring.players.logprobs import PIECE
from sparring.schedules import solo
from sparring.settings.config import RunConfig
from sparring.types import Player, Turn, UsageError

RESERVED = 2.0
"""GiB of a card that no tensor gets: context, kernels, the allocator's holes."""


@dataclass(frozen=True, slots=True)
class Card:
    """Dense bfloat16 TFLOP/s (without sparsity), TB/s of memory, and its memory.

    Makers write GB where they build GiB; `usable` leaves `RESERVED` for the driver, kernels and
    fragmentation. 0 where it is not known: a card that is given as a number of GiB.
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


CARDS: Mapping[str, Card] = {
    "b200": Card("B200", 180.0, 2250, 7.7, "NVIDIA DGX B200 data sheet, an eighth of it"),
    "h200": Card("H200 SXM", 141.0, 989, 4.8, "NVIDIA H200 data sheet"),
    "h100": Card("H100 SXM", 80.0, 989, 3.35, "NVIDIA H100 data sheet"),
    "a100-80": Card("A100 80GB SXM", 80.0, 312, 2.039, "NVIDIA A100 data sheet"),
    "a100-40": Card("A100 40GB SXM", 40.0, 312, 1.555, "NVIDIA A100 data sheet"),
    "l40s": Card("L40S", 48.0, 362, 0.864, "NVIDIA L40S data sheet"),
    "l4": Card("L4", 24.0, 121, 0.3, "NVIDIA L4 data sheet"),
    "rtx4090": Card("RTX 4090", 24.0, 165, 1.008, "NVIDIA Ada architecture whitepaper, app. A"),
    "mi300x": Card("MI300X", 192.0, 1307, 5.3, "AMD Instinct MI300X data sheet"),
}


def card(told: str) -> Card:
    """A card by name, or one of that many GiB of which nothing else is known."""
    if told.lower() in CARDS:
        return CARDS[told.lower()]
    try:
        gib = float(told.lower().removesuffix("gib"))
    except ValueError:
        gib = 0.0
    if not 0 < gib < 1e6:
        raise UsageError(f"--gpu: no card {told!r:.40}; known: {', '.join(CARDS)}, or GiB")
    return Card(f"{gib:g} GiB", gib)


@dataclass(frozen=True, slots=True)
class Load:
    """Tokens, rows and copies. `prompt` is assumed; everything else is the configuration's.

    `adapters`: one base and an adapter each; `models` is how many models lie in memory, `learners`
    how many sets of trained weights, `checkpointing` whether layers are computed again.
    """

    prompt: int
    completion: int
    micro_batch_tokens: int
    batch_tokens: int
    adapters: bool
    models: int
    learners: int
    reference: bool
    checkpointing: bool
    updates: int


def load_of(config: RunConfig, prompt: int) -> Load:
    """The load of a configuration whose prompts are `prompt` tokens long."""
    step, apart = config.learner.optimizer, config.weights == "separate"
    return Load(
        prompt=prompt,
        completion=config.sampling.max_completion_length,
        micro_batch_tokens=step.micro_batch_tokens,
        batch_tokens=config.sampling.batch_tokens,
        adapters=config.weights == "adapters",
        models=2 if apart else 1,
        learners=1 if config.weights == "shared" else 2,
        reference=config.learner.beta > 0,
        checkpointing=step.gradient_checkpointing,
        updates=step.updates_per_batch,
    )


@dataclass(frozen=True, slots=True)
class Work:
    """Completions of a round, and of how many prompts, by player; `learns` are trained on."""

    name: str
    prompts: dict[Player, int]
    sampled: dict[Player, int]
    learns: frozenset[Player]


def rounds_of(config: RunConfig) -> list[Work]:
    """The kinds of round that a run has: one for each player that learns alone, or one of both."""
    told, widths = config.schedule, config.learner.num_generations
    if told.kind == "both":
        turns = [Turn(frozenset(Player), {player: widths[player] for player in Player})]
    else:
        alone = {p: solo(p, widths[p], told.replies_per_attack) for p in Player}
        learn = [Player.DEFENDER] if told.kind == "defender" else [*Player]
        if told.kind == "alternate":
            learn = [player for player in learn if told.every[player]]
        turns = [alone[player] for player in learn]
    return [_work(config, turn) for turn in turns]


def _work(config: RunConfig, turn: Turn) -> Work:
    seeds = max(config.learner.seeds_per_round[player] for player in turn.learns)
    attacks = seeds * turn.widths[Player.ATTACKER]
    replies = attacks * turn.widths[Player.DEFENDER]
    name = " and ".join(sorted(turn.learns)) + (" learns" if len(turn.learns) == 1 else " learn")
    return Work(
        name,
        {Player.ATTACKER: seeds, Player.DEFENDER: attacks},
        {Player.ATTACKER: attacks, Player.DEFENDER: replies},
        turn.learns,
    )


GIB = 2**30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one card, everything of the run on it."""

    weights: int
    adapters: int
    optimizer: int
    reference: int
    gradients: int
    activations: int
    logits: int
    cache: int

    @property
    def standing(self) -> int:
        """Held from the first round to the last."""
        return self.weights + self.adapters + self.optimizer + self.reference

    @property
    def peak(self) -> int:
        """An update and a decode batch follow each other; the larger one counts."""
        return self.standing + max(self.gradients + self.activations + self.logits, self.cache)


def memory(shape: Shape, load: Load) -> Memory:
    """The memory of a run with that shape and load."""
    return Memory(
        weights=load.models * shape.weights,
        adapters=load.learners * shape.trained_bytes if load.adapters else 0,
        optimizer=load.learners * optimizer_bytes(shape.trained, shape.trained_bytes),
        reference=load.learners * shape.trained_bytes if load.reference else 0,
        gradients=shape.trained_bytes,
        activations=activation_bytes(shape, load.micro_batch_tokens, load.checkpointing),
        logits=logit_bytes(shape, load.micro_batch_tokens),
        cache=cache_bytes(shape, load.batch_tokens),
    )


def optimizer_bytes(trained: int, trained_bytes: int) -> int:
    """AdamW's two moments in float32 (arXiv:1711.05101), and a float32 copy of narrower weights.

    8 bytes a trained float32 parameter, 12 a bfloat16 one.
    """
    narrow = trained_bytes < 4 * trained
    return trained * (12 if narrow else 8)


def activation_bytes(shape: Shape, tokens: int, checkpointing: bool) -> int:
    """What autograd keeps of a micro-batch.

    Counted for each token on the meta device (`policies.shape`): the formulas of
    arXiv:2205.05198, section 4.1, know neither gated products, nor grouped queries, nor adapters
    that keep a float32 copy of every input. With gradient checkpointing (ibid., section 5) every
    layer's input and one layer's rest.
    """
    if not checkpointing:
        return tokens * shape.kept
    return tokens * (shape.entering + (shape.kept - shape.entering) // shape.layers)


def logit_bytes(shape: Shape, tokens: int) -> int:
    """Logits of a piece: as the head writes them, in float32, and their gradient in both."""
    return min(PIECE, tokens * shape.vocabulary) * 2 * (shape.item + 4)


def cache_bytes(shape: Shape, tokens: int) -> int:
    """Keys and values: 2 x layers x key-value heads x head width x bytes, for each token held.

    arXiv:2211.05102, section 2; grouped queries arXiv:2305.13245.
    """
    return tokens * shape.cache


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
