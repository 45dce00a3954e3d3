"""Estimates a run's needs on one GPU: bytes of memory and seconds of a round."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sparring.estimate.shape import TABLE, Shape
from sparring.players.logprobs import PIECE
from sparring.schedules import solo
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


@dataclass(frozen=True, slots=True)
class Load:
    """Lengths in tokens and copies in memory; `prompt` is assumed, the rest is configured.

    `adapters` says whether one base carries an adapter for each player; `models` counts the models
    in memory and `learners` the sets of trained weights; with `checkpointing` layers are computed
    again in the backward pass.
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
    checkpoints: int


def load_of(config: RunConfig, prompt: int) -> Load:
    """The load of a configuration whose prompts are `prompt` tokens long."""
    optimizer = config.learner.optimizer
    return Load(
        prompt=prompt,
        completion=config.sampling.max_completion_length,
        micro_batch_tokens=optimizer.micro_batch_tokens or MOST_TOKENS,
        batch_tokens=config.sampling.batch_tokens,
        adapters=config.weights == "adapters",
        models=2 if config.weights == "separate" else 1,
        learners=1 if config.weights == "shared" else 2,
        reference=config.learner.beta > 0,
        checkpointing=optimizer.gradient_checkpointing,
        updates=optimizer.updates_per_batch,
        checkpoints=_checkpoints(config),
    )


def _checkpoints(config: RunConfig) -> int:
    """How many checkpoints lie on disk when the run ends: milestones, past selves, the newest."""
    league = config.memory.league
    periods = {config.saving.keep_every}
    if league.opponents != "latest":
        periods.add(league.keep_every)
    numbers = {n for every in periods for n in range(0, config.rounds + 1, every)}
    return len(numbers | {config.rounds}) + 1


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


def memory(shape: Shape, load: Load) -> CardMemory:
    """The memory of a run with that shape and load.

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
    bytes_per_parameter = 12 if shape.trained_bytes < 4 * shape.trained else 8
    saved = shape.saved
    if load.checkpointing:
        saved = shape.layer_inputs + (shape.saved - shape.layer_inputs) // shape.layers
    piece = min(PIECE, load.micro_batch_tokens * shape.vocabulary)
    return CardMemory(
        weights=load.models * shape.weights,
        adapters=load.learners * shape.trained_bytes if load.adapters else 0,
        optimizer=load.learners * shape.trained * bytes_per_parameter,
        reference=load.learners * shape.trained_bytes if load.reference else 0,
        gradients=shape.trained_bytes,
        activations=load.micro_batch_tokens * saved,
        logits=piece * 2 * (shape.itemsize + 4),
        cache=load.batch_tokens * shape.cache,
        checkpoint=load.learners * (shape.trained_bytes + shape.trained * bytes_per_parameter),
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
    schedule, widths = config.schedule, config.learner.num_generations
    if schedule.kind == "both":
        return [_work(config, Turn(frozenset(Player), {p: widths[p] for p in Player}))]
    learners = [Player.DEFENDER] if schedule.kind == "defender" else [*Player]
    if schedule.kind == "alternate":
        learners = [player for player in learners if schedule.every[player]]
    turns = [solo(p, widths[p], schedule.replies_per_attack) for p in learners]
    return [_work(config, turn) for turn in turns]


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


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds of one round, without the judge's time."""

    prefill: float
    decode: float
    update: float

    @property
    def total(self) -> float:
        """Seconds of the whole round."""
        return self.prefill + self.decode + self.update


def seconds(shape: Shape, load: Load, work: Work, card: Card, shares: Shares) -> Seconds:
    """The time of a round on one card."""
    rate, bandwidth = 1e12 * card.tflops * shares.flops, 1e12 * card.terabytes * shares.bandwidth
    prompt_tokens = sum(work.prompts.values()) * load.prompt
    decode = sum(decode_seconds(shape, load, work.sampled[p], bandwidth) for p in Player)
    trained_tokens = sum(update_tokens(load, work, player) for player in work.learns)
    flops = update_flops(shape, load.prompt + load.completion, load)
    return Seconds(
        prefill=prompt_tokens * forward_flops(shape, load.prompt) / rate,
        decode=decode,
        update=load.updates * trained_tokens * flops / rate,
    )


def forward_flops(shape: Shape, context: int) -> float:
    """Floating-point operations of one token's forward pass: 2N, and attention over half `context`.

    N counts the parameters that a token is multiplied by; attention's two products (scores, sums)
    are 4 x context x width a layer, half of that under a causal mask. arXiv:2001.08361, table 1.
    """
    return 2 * shape.multiplied + 2 * shape.attention * context


def update_flops(shape: Shape, context: int, load: Load) -> float:
    """Operations of one token's update: 3 forwards for full weights (arXiv:2001.08361, sec. 2.1).

    The weights of a frozen base need no gradient, so that it costs 4N a token, while attention and
    the adapter's own products cost three forwards. Checkpointing adds a forward, and a reference
    another.
    """
    forward = forward_flops(shape, context)
    backward = 2 * forward
    if load.adapters:
        backward += 6 * shape.trained - 2 * shape.multiplied
    return forward + backward + (load.checkpointing + load.reference) * forward


def update_tokens(load: Load, work: Work, player: Player) -> int:
    """Tokens of a player's update: every prompt once, or once for every completion if checkpointed.

    This is an upper bound: groups of equal returns are skipped, and with checkpointing siblings
    share rows where that is cheaper.
    """
    replies, prompts = work.sampled[player], work.prompts[player]
    return replies * load.completion + (replies if load.checkpointing else prompts) * load.prompt


def decode_seconds(shape: Shape, load: Load, rows: int, bandwidth: float) -> float:
    """Seconds to decode `rows`: every step reads all weights once a batch, and every row's cache.

    The floor of arXiv:2211.05102, section 2, over the share of it that is reached, with every
    completion as long as the limit.
    """
    rows_per_batch = max(1, load.batch_tokens // (load.prompt + load.completion))
    cache = rows * (load.prompt + load.completion / 2) * shape.cache
    read = math.ceil(rows / rows_per_batch) * shape.itemsize * shape.multiplied + cache
    return load.completion * read / bandwidth
