"""One door to a set of weights: sampling, learning, saving and loading, and past selves."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sparring.players.chat import Chat
from sparring.players.fast import batches, path_of
from sparring.players.grpo import Grpo
from sparring.players.logprobs import pad
from sparring.players.player import Policy, Request
from sparring.players.ranks import in_step, shared_out
from sparring.players.trials import Row
from sparring.players.weights import LearningRate, Optimizer, Weights
from sparring.pulse import beat
from sparring.types import Completion, Demo, Metrics, Sample, UsageError

MOMENTS = "optimizer.safetensors"
"""The file in a checkpoint that holds the optimizers' moments of all its trainers."""


@dataclass(frozen=True, slots=True)
class ChatBatch:
    """After every update, one step of imitation on `size` of `rows` (Self-RedTeam).

    Which rows is drawn from `rng_seed` and the optimizer's count of steps, so a resumed run draws
    the same ones.
    """

    rows: Sequence[Row]
    size: int
    rng_seed: str


@dataclass(eq=False)
class Trainer:
    """One set of weights, for all the players that it serves: a `Policy` and a `Learner`.

    `sampler` draws completions from the weights of `grpo.optimizer`: in this process, or on an
    engine that they are published to. `extra_files` are copied beside whatever is saved.
    `checkpoint` says where the weights after so many rounds lie; without it, past selves are
    written to a temporary folder that is deleted with the trainer.
    """

    sampler: Policy
    chat: Chat
    grpo: Grpo
    chat_batch: ChatBatch | None = None
    extra_files: Sequence[Path] = ()
    checkpoint: Callable[[int], Path] | None = None

    @property
    def optimizer(self) -> Optimizer:
        """What steps the weights; its moments are saved by `save_trainers`."""
        return self.grpo.optimizer

    @property
    def weights(self) -> Weights:
        """The tensors that are trained."""
        return self.optimizer.weights

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Completions of every request; each process of a run draws its share, and all get all."""
        return shared_out(self.optimizer.ranks, requests, self._share)

    def _share(self, requests: Sequence[Request]) -> list[list[Completion]]:
        with in_step(self.weights.model):
            return self.sampler.sample(requests)

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One GRPO update, and the batch of ordinary chat if there is one (`chat/` metrics)."""
        metrics = self.grpo.update(samples)
        if self.chat_batch is None:
            return metrics
        rng_seed = f"{self.chat_batch.rng_seed}/{self.optimizer.steps}"
        rows = random.Random(rng_seed).choices(self.chat_batch.rows, k=self.chat_batch.size)
        budget = self.grpo.config.micro_batch_tokens
        chat = imitate(self.optimizer, rows, self.chat.pad_id, budget, rng_seed)
        return metrics | {f"chat/{name}": value for name, value in chat.items()}

    def warm_up(
        self, demos: Sequence[Demo], rate: LearningRate, config: SftConfig, rng_seed: str
    ) -> Iterator[Metrics]:
        """Imitate demonstrations with an optimizer of their own; yields each step's metrics."""
        optimizer = Optimizer(self.weights, rate, ranks=self.optimizer.ranks)
        yield from sft(optimizer, self.chat, demos, config, rng_seed)

    def begin(self, reference: Path | None = None) -> None:
        """Measure KL from here on to the present weights, or to those saved in `reference`."""
        if self.grpo.config.beta:
            with self.weights.holding(reference) if reference else nullcontext():
                self.grpo.reference = self.weights.snapshot()

    def save(self, folder: Path) -> None:
        """Write the weights as PEFT or transformers read them; a whole model with its tokenizer."""
        self.weights.save(folder)
        if not self.weights.adapter:
            self.chat.tokenizer.save_pretrained(folder)
        for file in self.extra_files:
            shutil.copyfile(file, folder / file.name)

    def load(self, folder: Path) -> None:
        """Overwrite the weights with those that `save` wrote."""
        self.weights.read(folder)

    def at(self, number: int) -> Past:
        """This player as it was after `number` rounds, read from that checkpoint."""
        return Past(self, self._folder(number))

    def keep(self, number: int) -> None:
        """Make sure that `at(number)` will find the present weights; a run's folder has them."""
        if self.checkpoint is None:
            self.save(self._folder(number))

    def restart(self, number: int) -> None:
        """Learn on from the weights after `number` rounds, which were kept, with fresh moments."""
        self.load(self._folder(number))
        self.optimizer.restart()

    def _folder(self, number: int) -> Path:
        if self.checkpoint is None:
            return Path(self._temporary.name) / f"{number}"
        return self.checkpoint(number)

    @cached_property
    def _temporary(self) -> TemporaryDirectory[str]:
        return TemporaryDirectory(prefix="sparring-past-")


@dataclass(frozen=True)
class Past:
    """`trainer` with the weights that lie in `folder`; the present ones are back after every call.

    The tensors are read when it speaks, so past selves that are silent take no memory, and one set
    of weights can play both sides at different ages.
    """

    trainer: Trainer
    folder: Path

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        with self.trainer.weights.holding(self.folder):
            return self.trainer.sample(requests)


def save_trainers(trainers: Mapping[str, Trainer], folder: Path) -> dict[str, dict[str, int]]:
    """Write each trainer to `folder/<name>/` and all moments beside them; returns the counters."""
    moments: dict[str, Any] = {}
    for name, trainer in trainers.items():
        trainer.save(folder / name)
        moments |= {f"{name}:{key}": t for key, t in trainer.optimizer.tensors().items()}
    save_file(moments, folder / MOMENTS)
    return {name: trainer.optimizer.counters() for name, trainer in trainers.items()}


def load_trainers(
    trainers: Mapping[str, Trainer], folder: Path, counters: Mapping[str, Mapping[str, int]]
) -> None:
    """Restore what `save_trainers` wrote to `folder` and returned as `counters`."""
    moments = load_file(folder / MOMENTS)
    for name, trainer in trainers.items():
        trainer.load(folder / name)
        own = {k.split(":", 1)[1]: v for k, v in moments.items() if k.startswith(f"{name}:")}
        trainer.optimizer.load(own, counters[name])


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
    replies = [chat.reply_ids(demo.reply, demo.finished) for demo in demos]
    return list(zip(prompts, replies, strict=True))


def imitate(
    optimizer: Optimizer, batch: Sequence[Row], pad_id: int, budget: int, rng_seed: str
) -> Metrics:
    """One step on `batch`, in micro-batches of `budget` tokens; `rng_seed` is dropout's.

    A shared prefix, such as the attacker's brief, runs once per micro-batch where possible
    (`path_of`). Each process of a run adds the gradient of its share of the rows.
    """
    model, ranks = optimizer.weights.model.train(), optimizer.ranks
    path = path_of(model)
    total = sum(len(reply) for _, reply in batch)
    share, loss = batch[ranks.index :: ranks.size], 0.0
    with torch.random.fork_rng(), in_step(model):
        torch.manual_seed(random.Random(rng_seed).getrandbits(63))
        parts = list(batches(share, budget, path, model))
        for done, index in enumerate(parts):
            beat("imitating", done, len(parts))
            logp_BT = path.logprobs(model, pad(share, index, pad_id, model.device), 1.0)
            part = -logp_BT.sum() / total
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
    model.eval()
    return {"loss": sum(ranks.gather(loss)), **optimizer.step()}


def _epochs(n: int, rng_seed: str) -> Iterator[int]:
    """Indices below `n`, each once an epoch, for ever."""
    rng = random.Random(rng_seed)
    while True:
        yield from rng.sample(range(n), n)
