"""What fits into memory: micro-batches by their size, a run on a card, settings that would fit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from typing import Any

from sparring.estimate.estimate import (
    GIB,
    PROMPT,
    Card,
    CardMemory,
    Load,
    Seconds,
    Shares,
    Work,
    load_of,
    memory,
    rounds_of,
    seconds,
)
from sparring.estimate.shape import Shape, shape_for
from sparring.settings.config import RunConfig, with_values
from sparring.types import UsageError

MICRO_BATCH = "learner.optimizer.micro_batch_tokens"
"""The setting's key."""


def largest_micro_batch(config: RunConfig, shape: Shape, prompt: int, room: float) -> int | None:
    """The most tokens of a micro-batch with which the peak is within `room` bytes.

    What is set is not changed; otherwise MOST_TOKENS are halved as long as one row of a prompt and
    a completion fits in. None if the run does not fit.
    """
    load = load_of(config, prompt)
    tokens = load.micro_batch_tokens
    while memory(shape, replace(load, micro_batch_tokens=tokens)).peak > room:
        tokens //= 2
        if attrgetter(MICRO_BATCH)(config) or tokens < load.prompt + load.completion:
            return None
    return tokens


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
    words: dict[str, Any] = {}
    for more in SMALLER:
        words |= {key: value for key, value in more.items() if attrgetter(key)(config) != value}
        smaller = with_values(config, words)
        if largest_micro_batch(smaller, shape_for(smaller, model), prompt, room):
            return " ".join(
                f"{key}={value if isinstance(value, str) else json.dumps(value)}"
                for key, value in words.items()
            )
    return ""


@dataclass(frozen=True)
class RunEstimate:
    """The needs of a run on a card; `times` are by kind of round, none where rates are unknown.

    `smaller` are settings with which a run that is too large would fit; empty if none are known.
    """

    model: str
    weights: str
    shape: Shape
    load: Load
    card: Card
    memory: CardMemory
    smaller: str
    times: tuple[tuple[Work, Seconds], ...]

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
            "weights": self.weights,
            "card": asdict(self.card) | {"usable": self.card.usable},
            "bytes": asdict(self.memory) | {"peak": self.memory.peak},
            "fits": self.fits,
            "seconds": {w.name: asdict(time) | {"total": time.total} for w, time in self.times},
        }


def estimate(config: RunConfig, model: str, card: Card, prompt: int, shares: Shares) -> RunEstimate:
    """Estimate a configuration on a model, given by its name in `KNOWN`, its folder or hub name."""
    room, shape, load = card.usable * GIB, shape_for(config, model), load_of(config, prompt)
    tokens = largest_micro_batch(config, shape, prompt, room)
    if tokens:
        load = replace(load, micro_batch_tokens=tokens)
    works = rounds_of(config) if card.tflops else []
    return RunEstimate(
        model=model,
        weights=config.weights,
        shape=shape,
        load=load,
        card=card,
        memory=memory(shape, load),
        smaller="" if tokens else smaller_that_fits(config, model, prompt, room),
        times=tuple((work, seconds(shape, load, work, card, shares)) for work in works),
    )


def micro_batch_that_fits(config: RunConfig, model: Any, room: float, shards: int) -> int:
    """The tokens of a run's micro-batches within `room` bytes, its base in that many shards.

    UsageError, which names settings that would fit, for a run that does not.
    """
    try:
        shape = shape_for(config, model)
    except UsageError:
        raise
    except Exception:  # a family whose forward pass needs numbers cannot be counted without them
        return load_of(config, PROMPT).micro_batch_tokens
    shape = replace(shape, weights=shape.weights // shards)
    if tokens := largest_micro_batch(config, shape, PROMPT, room):
        return tokens
    need = memory(shape, load_of(config, PROMPT)).peak / GIB
    smaller = smaller_that_fits(config, model, PROMPT, room)
    raise UsageError(
        f"memory: this run needs {need:.1f} GiB, and {room / GIB:.1f} GiB can be filled here; "
        + (f"it fits with {smaller}" if smaller else "it needs a smaller model or a larger machine")
    )


def lines(result: RunEstimate) -> Iterator[str]:
    """The estimate for a person: a line for each part of memory and for each kind of round."""
    shape, load, need = result.shape, result.load, result.memory
    checkpointing = f"{'with' if load.checkpointing else 'without'} gradient checkpointing"
    trained = "adapters" if load.adapters else "weights"
    models, learners = (
        f"1 {noun}" if n == 1 else f"{n} {noun}s"
        for n, noun in ((load.models, "model"), (load.learners, "learner"))
    )
    sizes = asdict(need) | {"KV cache": need.cache, "peak": need.peak}
    reasons = {
        "weights": f"{models}, {8 * shape.itemsize} bits",
        "adapters": f"2 x {shape.trained:,} parameters" if load.adapters else "",
        "optimizer": f"{learners}, {trained} in float32",
        "reference": f"{learners}, as RL began" if load.reference else "",
        "gradients": "one learner at a time",
        "activations": f"{load.micro_batch_tokens:,} tokens, {checkpointing}",
        "logits": "a piece at a time",
        "KV cache": f"{load.batch_tokens:,} tokens decoding together",
        "peak": _fit(result),
        "checkpoint": f"of disk each; {load.checkpoints} are kept",
    }
    yield (
        f"{result.model}: {shape.parameters:,} parameters, {result.weights}; {result.card.name}; "
        f"{load.prompt} + {load.completion} tokens"
    )
    for name, reason in reasons.items():
        if reason:
            yield f"{name:12s} {sizes[name] / GIB:9.2f} GiB   {reason}"
    for work, time in result.times:
        parts = f"prefill {time.prefill:.0f}, decode {time.decode:.0f}, update {time.update:.0f}"
        yield f"{time.total:8.0f} s of the card a round: {work.name}; {parts}"


def _fit(result: RunEstimate) -> str:
    """Whether it fits, or how many cards would hold the standing part in equal shares.

    Only a frozen base is ever sharded over cards.
    """
    room = result.card.usable * GIB
    if result.fits:
        return f"fits: {result.card.usable:g} GiB can be used"
    excess = f"too much for {result.card.usable:g} GiB"
    if result.smaller:
        return f"{excess}; it fits with {result.smaller}"
    if result.weights != "adapters":
        return f"{excess}; weights=adapters needs less, and cards can share its base (FSDP2)"
    moving = result.memory.peak - result.memory.standing
    if moving >= room:
        return f"{excess} on any number of cards"
    cards = math.ceil(result.memory.standing / (room - moving))
    return f"{excess}: {cards} cards if they shared weights (FSDP2)"
