"""Training services that hold LoRA clients, and a policy and a learner of such a client."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Protocol

import torch
from torch.nn.utils.rnn import pad_sequence

from sparring.engines.engine import Decoding, Drawn, SeededPrompt, completions
from sparring.players import grpo
from sparring.players.chat import Chat
from sparring.players.player import Request, Sampling
from sparring.players.weights import LearningRate
from sparring.types import Completion, Metrics, Player, Sample, SparringError, UsageError


@dataclass(frozen=True, slots=True)
class Passed:
    """The result of a pass over samples: each one's loss, shape [B], and the log-probabilities of
    its tokens under the weights as they were (nats), shape [B][T]."""

    losses: tuple[float, ...]
    logprobs: tuple[tuple[float, ...], ...]


class LoraClient(Protocol):
    """An adapter on the service, with its optimizer's moments; both players may share it."""

    @property
    def version(self) -> int:
        """How many steps the adapter has seen."""

    def sample(self, prompts: Sequence[SeededPrompt], how: Decoding) -> list[Drawn]:
        """One completion for each prompt, in order, from the adapter as it is now."""

    def forward_backward(self, samples: Sequence[Sample], epsilon: tuple[float, float]) -> Passed:
        """Add the gradient of the sum over samples and tokens of −min(ρA, clip(ρ, 1 − ε, 1 + ε)A).

        The advantages are already normalised. Call it exactly once before each `optim_step`,
        because a service may average over the samples that it has accumulated.
        """

    def optim_step(self, learning_rate: float, betas: tuple[float, float]) -> float | None:
        """Apply the gradient by AdamW without weight decay; returns its norm, if the service does.

        AdamW's epsilon is torch's default, 1e-8.
        """

    def save(self, name: str) -> str:
        """Save adapter and moments under a new name; returns the path that `load` takes."""

    def load(self, path: str, version: int) -> None:
        """Go back to what `save` wrote after `version` steps."""


@dataclass(frozen=True)
class RemotePolicy:
    """Samples from the client's current weights.

    The same address gives the same seed, but a service's rounding depends on what else is in its
    batch, so a run on a service cannot be reproduced bit for bit.

    Temperature 1, or 0 for an exam: such a service trains on log-probabilities at temperature 1.
    """

    client: LoraClient
    chat: Chat
    sampling: Sampling

    def __post_init__(self) -> None:
        if self.sampling.temperature not in (0.0, 1.0):
            raise UsageError(
                f"sampling.temperature: got {self.sampling.temperature}; a training service tells "
                "log-probabilities at temperature 1 and learns from them: use 1 (or 0, the "
                "likeliest token, in an exam)"
            )

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        client = self.client
        return completions(requests, self.chat, self.sampling, client.version, client.sample)


@dataclass
class RemoteGrpo:
    """A `Learner` of one LoRA client, for all the players it serves.

    As `Grpo`, except for what a service does not do: it clips no gradient norm, has no KL term and
    no reference, and old log-probabilities are the sampled ones. `shares` weighs players' losses.
    """

    client: LoraClient
    rate: LearningRate
    config: grpo.GrpoConfig
    betas: tuple[float, float] = (0.9, 0.95)
    shares: Mapping[Player, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.config
        refused = {
            "learner.beta": (config.beta, 0.0),
            "sampling.temperature": (config.temperature, 1.0),
            "sampling.server.ratio_limit": (config.ratio_limit, None),
        }
        for name, (value, possible) in refused.items():
            if value != possible:
                raise UsageError(
                    f"{name}: got {value}, wanted {possible}: a training service's loss is the "
                    "clipped surrogate at temperature 1, and nothing else"
                )

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update from the samples of a round; without a signal the weights stay as they are.

        SparringError, before the step, if the service's numbers are not finite.
        """
        run = [sample for sample in samples if sample.advantage]
        weighed = list(self._weighed(samples))
        metrics: Metrics = {}
        for number in range(self.config.updates_per_batch if run else 0):
            passed = self.client.forward_backward(weighed, self.config.epsilon)
            values = [*passed.losses, *chain.from_iterable(passed.logprobs)]
            broken = sum(not math.isfinite(value) for value in values)
            if broken:  # a step along such a gradient cannot be taken back
                raise SparringError(
                    f"{broken} of {len(values)} losses and log-probabilities of the service are "
                    "not finite; nothing was stepped: load what was saved last, and try a smaller "
                    "learning rate"
                )
            step: Metrics = {"learning_rate": self.rate.at(self.client.version)}
            norm = self.client.optim_step(step["learning_rate"], self.betas)
            if norm is not None:
                step["grad_norm"] = norm
            for player, own in _metrics(run, passed, self.config.epsilon, not number).items():
                metrics |= {f"{player}/{name}": value for name, value in (own | step).items()}
        return grpo.finite(metrics)

    def _weighed(self, samples: Sequence[Sample]) -> Iterator[Sample]:
        """The samples whose advantage is not 0, the loss's normaliser folded into the advantage.

        The service adds tokens up without normalising. What the loss makes of ones is the weight
        that it gives all tokens of a sample together; samples left out count in its denominators.
        """
        sizes = {player: self.config.sizes(own) for player, own in grpo.by_player(samples)}
        for sample in samples:
            if sample.advantage:
                tokens = len(sample.completion.token_ids)
                ones_1T = torch.ones(1, tokens, dtype=torch.float64)
                total = grpo.AGGREGATIONS[self.config.loss](ones_1T, ones_1T, sizes[sample.player])
                weight = total.item() / tokens * self.shares.get(sample.player, 1.0)
                yield replace(sample, advantage=sample.advantage * weight)


def _metrics(
    run: Sequence[Sample], passed: Passed, epsilon: tuple[float, float], first: bool
) -> dict[Player, Metrics]:
    """Per player, named as `Grpo`'s; `loss` as the service computed it."""
    metrics: dict[Player, Metrics] = {}
    for player in sorted({sample.player for sample in run}):
        rows = [i for i, sample in enumerate(run) if sample.player is player]
        logprobs = [torch.tensor(passed.logprobs[i], dtype=torch.float64) for i in rows]
        sampled = [torch.tensor(run[i].completion.logprobs, dtype=torch.float64) for i in rows]
        logp_BT, old_BT, mask_BT = (
            pad_sequence(each, batch_first=True)
            for each in (logprobs, sampled, [torch.ones_like(row) for row in sampled])
        )
        advantage_B = torch.tensor([run[i].advantage for i in rows])
        counts = grpo.token_counts(logp_BT, old_BT, advantage_B, mask_BT, epsilon)
        counts["loss"] = sum(passed.losses[i] for i in rows)
        if first:
            counts |= grpo.mismatch_counts(logp_BT - old_BT, mask_BT, None)
        metrics[player] = grpo.grpo_metrics(counts)
    return metrics
