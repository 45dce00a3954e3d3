"""What fits into memory: micro-batches by their size, a run on a card, settings that would fit."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from typing import Any

from sparring.estimate import estimate as needs
from sparring.estimate.estimate import GIB, PROMPT, Card, CardMemory, memory
from sparring.estimate.shape import Shape, UncountedError, shape_for
from sparring.settings.config import RunConfig, with_values
from sparring.types import UsageError

MICRO_BATCH = "learner.optimizer.micro_batch_tokens"
"""The setting's key."""


def largest_micro_batch(config: RunConfig, shape: Shape, prompt: int, room: float) -> int | None:
    """The most tokens of a micro-batch with which the peak is within `room` bytes.

    What is set is not changed; otherwise MOST_TOKENS are halved as long as one row of a prompt and
    a completion fits in. None if the run does not fit.
    """
    tokens, fixed = micro_batch(config), attrgetter(MICRO_BATCH)(config)
    while memory(shape, config, tokens).peak > room:
        tokens //= 2
        if fixed or tokens < prompt + config.sampling.max_completion_length:
            return None
    return tokens


def micro_batch(config: RunConfig) -> int:
    """Tokens of a micro-batch: what is set, or what is used where memory sets no other limit."""
    return attrgetter(MICRO_BATCH)(config) or needs.MOST_TOKENS


SMALLER: tuple[Mapping[str, Any], ...] = (
    {"learner.optimizer.gradient_checkpointing": True},
    {MICRO_BATCH: None},
    {"sampling.batch_tokens": 8_192},
    {"weights": "adapters"},
    {"attacker.dtype": "bfloat16", "defender.dtype": "bfloat16"},
)
"""Settings that need less memory, in the order in which they are tried."""


def smaller_that_fits(config: RunConfig, model: Any, prompt: int, room: float) -> str:
    """The settings, added one after the other, with which a run fits; empty if none do."""
    values: dict[str, Any] = {}
    for more in SMALLER:
        values |= {key: value for key, value in more.items() if attrgetter(key)(config) != value}
        smaller = with_values(config, values)
        if largest_micro_batch(smaller, shape_for(smaller, model), prompt, room):
            shown = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
            return " ".join(f"{key}={value}" for key, value in shown.items())
    return ""


@dataclass(frozen=True)
class RunEstimate:
    """The needs of a run on a card, with prompts and micro-batches of that many tokens.

    `smaller` are settings with which a run that is too large would fit; empty if none are known.
    `times` are the seconds of each kind of round, none where rates are unknown.
    """

    config: RunConfig
    model: str
    shape: Shape
    prompt: int
    tokens: int
    card: Card
    memory: CardMemory
    smaller: str
    times: Mapping[str, Mapping[str, float]]

    @property
    def fits(self) -> bool:
        """Whether the run's peak is below what tensors may fill of the card."""
        return self.memory.peak <= self.card.usable * GIB

    def to_json(self) -> dict[str, Any]:
        """The estimate as JSON, sizes in bytes and times in seconds."""
        return {
            "model": self.model,
            "parameters": self.shape.parameters,
            "trained": self.shape.trained,
            "weights": self.config.weights,
            "card": asdict(self.card) | {"usable": self.card.usable},
            "bytes": asdict(self.memory) | {"peak": self.memory.peak},
            "fits": self.fits,
            "seconds": self.times,
        }


def estimate(
    config: RunConfig, model: str, card: Card, prompt: int, shares: needs.Shares
) -> RunEstimate:
    """Estimate a configuration on a model, given by its name in `KNOWN`, its folder or hub name."""
    room, shape = card.usable * GIB, shape_for(config, model)
    tokens = largest_micro_batch(config, shape, prompt, room)
    smaller = "" if tokens else smaller_that_fits(config, model, prompt, room)
    tokens = tokens or micro_batch(config)
    times = {
        work.name: needs.seconds(shape, config, prompt, work, card, shares)
        for work in (needs.rounds_of(config) if card.tflops else ())
    }
    need = memory(shape, config, tokens)
    return RunEstimate(config, model, shape, prompt, tokens, card, need, smaller, times)


def micro_batch_that_fits(
    config: RunConfig, model: Any, rooms: Sequence[float], shards: int
) -> tuple[int, str]:
    """The tokens of a run's micro-batches within the first of `rooms`, in bytes, that holds it.

    Its base is in that many shards. With a note, or nothing, for the user. UsageError, which names
    settings that would fit, for a run that does not.
    """
    try:
        shape = shape_for(config, model)
    except UncountedError as error:
        size = micro_batch(config)
        return size, f"{MICRO_BATCH} is {size:,}, whatever memory there is: {error}"
    shape = replace(shape, weights=shape.weights // shards)
    for room in rooms:
        filled = f"{room / GIB:.1f} GiB"
        if tokens := largest_micro_batch(config, shape, PROMPT, room):
            note = f"{MICRO_BATCH} is {tokens:,}: {filled} of memory can be filled"
            return tokens, note if tokens < micro_batch(config) else ""
    need = memory(shape, config, micro_batch(config)).peak / GIB
    smaller = smaller_that_fits(config, model, PROMPT, room)
    raise UsageError(
        f"memory: this run needs {need:.1f} GiB, and {filled} can be filled here; "
        + (f"it fits with {smaller}" if smaller else "it needs a smaller model or a larger machine")
    )


def lines(result: RunEstimate) -> Iterator[str]:
    """The estimate for a person: a line for each part of memory and for each kind of round."""
    config, shape, need = result.config, result.shape, result.memory
    again = "with" if config.learner.optimizer.gradient_checkpointing else "without"
    adapters = config.weights == "adapters"
    models, learners = (
        f"{n} {noun}{'s' * (n > 1)}"
        for n, noun in zip(needs.COPIES[config.weights], ("model", "learner"), strict=True)
    )
    sizes = asdict(need) | {"KV cache": need.cache, "peak": need.peak}
    reasons = {
        "weights": f"{models}, {8 * shape.itemsize} bits",
        "adapters": f"2 x {shape.trained:,} parameters" if adapters else "",
        "optimizer": f"{learners}, {'adapters' if adapters else 'weights'} in float32",
        "reference": f"{learners}, as RL began" if config.learner.beta else "",
        "gradients": "one learner at a time",
        "activations": f"{result.tokens:,} tokens, {again} gradient checkpointing",
        "logits": "a piece at a time",
        "KV cache": f"{config.sampling.batch_tokens:,} tokens decoding together",
        "peak": _fit(result),
        "checkpoint": f"of disk each; {_checkpoints(config)} are kept",
    }
    yield (
        f"{result.model}: {shape.parameters:,} parameters, {config.weights}; {result.card.name}; "
        f"{result.prompt} + {config.sampling.max_completion_length} tokens"
    )
    for name, reason in reasons.items():
        if reason:
            yield f"{name:12s} {sizes[name] / GIB:9.2f} GiB   {reason}"
    for name, time in result.times.items():
        parts = ", ".join(f"{part} {time[part]:.0f}" for part in ("prefill", "decode", "update"))
        yield f"{time['total']:8.0f} s of the card a round: {name}; {parts}"


def _checkpoints(config: RunConfig) -> int:
    """How many checkpoints lie on disk when the run ends: milestones, past selves, the newest."""
    league = config.memory.league
    periods = {config.saving.keep_every}
    if league.opponents != "latest":
        periods.add(league.keep_every)
    if config.schedule.harden_after is not None:
        periods.add(config.schedule.attack + config.schedule.dwell[0])
    kept = {n for every in periods for n in range(0, config.rounds + 1, every)}
    return len(kept | {config.rounds}) + 1


def _fit(result: RunEstimate) -> str:
    """Whether it fits, or how many cards would hold the standing part in equal shares.

    Only a frozen base is ever sharded over cards.
    """
    usable, need = result.card.usable, result.memory
    if result.fits:
        return f"fits: {usable:g} GiB can be used"
    excess = f"too much for {usable:g} GiB"
    if result.smaller:
        return f"{excess}; it fits with {result.smaller}"
    if result.config.weights != "adapters":
        return f"{excess}; weights=adapters needs less, and cards can share its base (FSDP2)"
    left = usable * GIB - (need.peak - need.standing)
    if left <= 0:
        return f"{excess} on any number of cards"
    return f"{excess}: {math.ceil(need.standing / left)} cards if they shared weights (FSDP2)"
