"""A policy and a learner whose weights live on a training service."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.nn.utils.rnn import pad_sequence

from sparring.engines.engine import Decoding, completions
from sparring.engines.tinker import Adam, Datum, LoraClient, Passed
from sparring.players.chat import Chat
from sparring.players.grpo import (
    AGGREGATIONS,
    GrpoConfig,
    by_player,
    finite,
    grpo_metrics,
    token_counts,
)
from sparring.players.optimizer import LearningRate
from sparring.players.player import Request, Sampling
from sparring.types import Completion, Metrics, Player, Sample, SparringError, UsageError


@dataclass(frozen=True)
class RemotePolicy:
    """`client` as it is at each call. The same address has the same seed, but a service rounds by
    what else is in its batch: a run on one is not the same run twice.

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
        draw = partial(self.client.sample, how=Decoding.of(self.sampling, self.chat))
        return completions(requests, self.chat, self.client.version, draw)


@dataclass
class RemoteGrpo:
    """A `Learner` of one LoRA client, for all the players it serves.

    As `Grpo`, except for what a service does not do: it clips no gradient norm, has no KL term and
    no reference, and old log-probabilities are the sampled ones.
    """

    client: LoraClient
    rate: LearningRate
    config: GrpoConfig
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
        data = list(self._data(samples))
        metrics: Metrics = {}
        for _ in range(self.config.updates_per_batch if run else 0):
            passed = self.client.forward_backward(data, self.config.epsilon)
            _refuse_nan(passed)
            learning_rate = self.rate.at(self.client.version)
            norm = self.client.optim_step(Adam(learning_rate, *self.betas))
            metrics = _metrics(run, passed, self.config.epsilon)
            for player in {sample.player for sample in run}:
                metrics[f"{player}/learning_rate"] = learning_rate
                if norm is not None:
                    metrics[f"{player}/grad_norm"] = norm
        return finite(metrics)

    def _data(self, samples: Sequence[Sample]) -> Iterator[Datum]:
        """What has a gradient; the rest still counts in every denominator.

        A service only adds up, so the weight that the loss gives a token is in its advantage.
        """
        sizes = {player: self.config.sizes(own) for player, own in by_player(samples)}
        for sample in samples:
            if sample.advantage:
                completion, player = sample.completion, sample.player
                ones_1T = torch.ones(1, len(completion.token_ids), dtype=torch.float64)
                total = AGGREGATIONS[self.config.loss](ones_1T, ones_1T, sizes[player]).item()
                weight = total / ones_1T.numel() * self.shares.get(player, 1.0)
                yield Datum(
                    completion.prompt_ids,
                    completion.token_ids,
                    completion.logprobs,
                    sample.advantage * weight,
                )


def _refuse_nan(passed: Passed) -> None:
    """A gradient that is not finite cannot be taken back once it is stepped."""
    values = [*passed.losses, *(logp for row in passed.logprobs for logp in row)]
    broken = sum(not math.isfinite(value) for value in values)
    if broken:
        raise SparringError(
            f"{broken} of {len(values)} losses and log-probabilities of the service are not "
            "finite; nothing was stepped: load what was saved last, and try a smaller learning rate"
        )


def _metrics(run: Sequence[Sample], passed: Passed, epsilon: tuple[float, float]) -> Metrics:
    """Per player, named as `Grpo`'s; `loss` as the service computed it."""
    metrics: Metrics = {}
    for player in sorted({sample.player for sample in run}):
        rows = [i for i, sample in enumerate(run) if sample.player is player]
        logprobs = [torch.tensor(passed.logprobs[i], dtype=torch.float64) for i in rows]
        sampled = [torch.tensor(run[i].completion.logprobs, dtype=torch.float64) for i in rows]
        logp_BT, old_BT, mask_BT = (
            pad_sequence(each, batch_first=True)
            for each in (logprobs, sampled, [torch.ones_like(row) for row in sampled])
        )
        advantage_B = torch.tensor([run[i].advantage for i in rows])
        counts = token_counts(logp_BT, old_BT, advantage_B, mask_BT, epsilon)
        counts["loss"] = sum(passed.losses[i] for i in rows)
        metrics |= {f"{player}/{name}": value for name, value in grpo_metrics(counts).items()}
    return metrics
