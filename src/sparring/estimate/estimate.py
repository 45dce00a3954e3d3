"""What a run would need on a card, as numbers and as lines for a person."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sparring.estimate.load import (
    GIB,
    Card,
    Load,
    Memory,
    Seconds,
    Shares,
    Work,
    load_of,
    memory,
    rounds_of,
    seconds,
)
from sparring.estimate.shape import Shape, shape_of
from sparring.settings.config import RunConfig


@dataclass(frozen=True)
class Estimate:
    """`what` is the model's name; `times` are by kind of round, none where the card is unknown."""

    what: str
    weights: str
    shape: Shape
    load: Load
    card: Card
    memory: Memory
    times: tuple[tuple[Work, Seconds], ...]

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.card.usable * GIB

    def to_json(self) -> dict[str, Any]:
        """Sizes in bytes, times in seconds."""
        own = asdict(self.memory) | {"peak": self.memory.peak}
        times = {work.name: asdict(told) | {"total": told.total} for work, told in self.times}
        return {
            "model": self.what,
            "parameters": self.shape.parameters,
            "trained": self.shape.trained,
            "weights": self.weights,
            "card": asdict(self.card) | {"usable": self.card.usable},
            "bytes": own,
            "fits": self.fits,
            "seconds": times,
        }


def estimate(config: RunConfig, what: str, card: Card, prompt: int, shares: Shares) -> Estimate:
    """The estimate of a configuration on a model, by name (`shape.KNOWN`), folder or hub name."""
    lora = config.defender.lora.model_dump() if config.weights == "adapters" else None
    shape = shape_of(what, config.defender.dtype, lora, config.defender.revision)
    load = load_of(config, prompt)
    works = rounds_of(config) if card.tflops else []
    times = tuple((work, seconds(shape, load, work, card, shares)) for work in works)
    return Estimate(what, config.weights, shape, load, card, memory(shape, load), times)


def lines(told: Estimate) -> Iterator[str]:
    """The estimate for a person: a line for each part, with what it is made of."""
    shape, load, own = told.shape, told.load, told.memory
    kind = "adapters in" if load.adapters else "weights in"
    one = f"{load.prompt} + {load.completion} tokens"
    again = "with" if load.checkpointing else "without"
    models, learners = _times(load.models, "model"), _times(load.learners, "learner")
    yield f"{told.what}: {shape.parameters:,} parameters, {told.weights}; {told.card.name}; {one}"
    yield _row("weights", own.weights, f"{models}, {8 * shape.item} bits")
    if load.adapters:
        yield _row("adapters", own.adapters, f"2 x {shape.trained:,} parameters")
    yield _row("optimizer", own.optimizer, f"{learners}, {kind} float32")
    if load.reference:
        yield _row("reference", own.reference, f"{learners}, as RL began")
    yield _row("gradients", own.gradients, "one learner at a time")
    rows = f"{load.micro_batch_tokens:,} tokens, {again} gradient checkpointing"
    yield _row("activations", own.activations, rows)
    yield _row("logits", own.logits, "a piece at a time")
    yield _row("KV cache", own.cache, f"{load.batch_tokens:,} tokens decoding together")
    yield _row("peak", own.peak, _fit(told))
    for work, spent in told.times:
        parts = f"prefill {spent.prefill:.0f}, decode {spent.decode:.0f}, update {spent.update:.0f}"
        yield f"{spent.total:8.0f} s of the card a round: {work.name}; {parts}"


def _times(n: int, what: str) -> str:
    return f"1 {what}" if n == 1 else f"{n} {what}s"


def _row(name: str, size: int, why: str) -> str:
    return f"{name:12s} {size / GIB:9.2f} GiB   {why}"


def _fit(told: Estimate) -> str:
    """Whether it fits, or how many cards would hold the standing part in equal shares.

    Only a frozen base is ever shared over cards.
    """
    room = told.card.usable * GIB
    if told.fits:
        return f"fits: {told.card.usable:g} GiB can be used"
    much = f"too much for {told.card.usable:g} GiB"
    if told.weights != "adapters":
        return f"{much}; weights=adapters needs less, and cards can share its base (FSDP2)"
    moving = told.memory.peak - told.memory.standing
    if moving >= room:
        return (
            f"{much} on any number of cards: lower learner.optimizer.micro_batch_tokens or "
            "sampling.batch_tokens, or set learner.optimizer.gradient_checkpointing=true"
        )
    cards = math.ceil(told.memory.standing / (room - moving))
    return f"{much}: {cards} cards if they shared weights (FSDP2)"
