"""Supervised fine-tuning: imitate demonstrations, on the reply's tokens only."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.players.chat import Chat
from sparring.players.logprobs import Row, logprobs, microbatches, pad
from sparring.players.optimizer import Optimizer
from sparring.players.ranks import Ranks
from sparring.players.sharding import in_step
from sparring.types import Demo, Metrics, UsageError


@dataclass(frozen=True, slots=True)
class SftConfig:
    """`steps` batches of `batch_size` demonstrations; `micro_batch_tokens` bounds memory."""

    steps: int
    batch_size: int = 64
    micro_batch_tokens: int = 16_384


def sft(
    optimizer: Optimizer, chat: Chat, demos: Sequence[Demo], config: SftConfig, rng_seed: str
) -> Iterator[Metrics]:
    """Train; yields the metrics of every step, so the caller shows progress.

    Loss = mean over the batch's reply tokens of −log π(token). Demonstrations are visited in
    shuffled epochs drawn from `rng_seed`, and so is dropout.
    """
    if not demos:
        raise UsageError("warm_start: the attack pool holds no demonstrations")
    rows = rows_of(chat, demos)
    order = _epochs(len(rows), rng_seed)
    for step in range(config.steps):
        batch = [rows[next(order)] for _ in range(config.batch_size)]
        yield imitate(
            optimizer, batch, chat.pad_id, config.micro_batch_tokens, f"{rng_seed}/{step}"
        )


def rows_of(chat: Chat, demos: Sequence[Demo]) -> list[Row]:
    """Demonstrations as token ids."""
    prompts = chat.prompts([demo.observation for demo in demos])
    return [(ids, chat.reply_ids(d.reply)) for ids, d in zip(prompts, demos, strict=True)]


def imitate(
    optimizer: Optimizer, batch: Sequence[Row], pad_id: int, budget: int, rng_seed: str
) -> Metrics:
    """One step on `batch`, in micro-batches of `budget` tokens; `rng_seed` is dropout's."""
    import torch

    model = optimizer.weights.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(random.Random(rng_seed).getrandbits(63))
        loss = _backward(model, batch, pad_id, budget, optimizer.ranks)
    learning_rate = optimizer.learning_rate
    norm = optimizer.step()
    model.eval()
    return {"loss": loss, "grad_norm": norm, "learning_rate": learning_rate}


def _backward(model: Any, batch: Sequence[Row], pad_id: int, budget: int, ranks: Ranks) -> float:
    """Add the gradient of this rank's share of the batch's loss; returns the whole loss."""
    total = sum(len(reply) for _, reply in batch)
    mine = batch[ranks.index :: ranks.size]
    loss = 0.0
    with in_step(model):
        for index in microbatches(mine, budget):
            part = -logprobs(model, pad(mine, index, pad_id, model.device), 1.0).sum() / total
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
    return sum(ranks.gather(loss))


def _epochs(n: int, rng_seed: str) -> Iterator[int]:
    """Indices below `n`, each once an epoch, for ever."""
    rng = random.Random(rng_seed)
    while True:
        yield from rng.sample(range(n), n)
