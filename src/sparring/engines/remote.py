"""A policy and a learner whose weights live on a training service."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from sparring.engines.engine import Drawing, answered
from sparring.engines.tinker import Adam, Datum, LoraClient, Passed
from sparring.players.chat import Chat
from sparring.players.grpo import GrpoConfig
from sparring.players.local import Sampling
from sparring.players.optimizer import LearningRate
from sparring.players.player import Request
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
        told = self.sampling
        how = Drawing(told.temperature, told.max_completion_length, self.chat.stop_ids)
        draw = partial(self.client.sample, how=how)
        return answered(requests, self.chat, self.client.version, draw)


TokenWeight = Callable[[int, int, int, int], float]
"""(tokens of this completion, sequences, tokens, longest) → what one of its tokens weighs."""
TOKEN_WEIGHTS: Mapping[str, TokenWeight] = {
    "grpo": lambda length, sequences, tokens, longest: 1 / (sequences * length),
    "dr_grpo": lambda length, sequences, tokens, longest: 1 / (sequences * longest),
    "dapo": lambda length, sequences, tokens, longest: 1 / tokens,
}
"""`losses.AGGREGATIONS`, folded into the advantages: a service only adds up."""


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
        told = self.config
        refused = {
            "learner.beta": (told.beta, 0.0),
            "sampling.temperature": (told.temperature, 1.0),
            "sampling.server.ratio_limit": (told.ratio_limit, None),
        }
        for name, (got, wanted) in refused.items():
            if got != wanted:
                raise UsageError(
                    f"{name}: got {got}, wanted {wanted}: a training service's loss is the clipped "
                    "surrogate at temperature 1, and nothing else"
                )

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update from the samples of a round; without a signal the weights stay as they are.

        SparringError, before the step, if the service's numbers are not finite.
        """
        run = [sample for sample in samples if sample.advantage]
        data = self._data(samples)
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
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _data(self, samples: Sequence[Sample]) -> list[Datum]:
        """What has a gradient, weighed; the rest still counts in every denominator."""
        sequences: dict[Player, int] = defaultdict(int)
        tokens: dict[Player, int] = defaultdict(int)
        for sample in samples:
            sequences[sample.player] += 1
            tokens[sample.player] += len(sample.completion.token_ids)
        weigh, longest = TOKEN_WEIGHTS[self.config.loss], self.config.longest
        data = []
        for sample in samples:
            who, said = sample.player, sample.completion
            if sample.advantage:
                weight = weigh(len(said.token_ids), sequences[who], tokens[who], longest)
                advantage = sample.advantage * weight * self.shares.get(who, 1.0)
                data.append(Datum(said.prompt_ids, said.token_ids, said.logprobs, advantage))
        return data


def _refuse_nan(passed: Passed) -> None:
    """A gradient that is not finite cannot be taken back once it is stepped."""
    told = [*passed.losses, *(logp for row in passed.logprobs for logp in row)]
    broken = sum(not math.isfinite(value) for value in told)
    if broken:
        raise SparringError(
            f"{broken} of {len(told)} losses and log-probabilities of the service are not finite; "
            "nothing was stepped: load what was saved last, and try a smaller learning rate"
        )


def _metrics(run: Sequence[Sample], passed: Passed, epsilon: tuple[float, float]) -> Metrics:
    """Per player, named as `Grpo`'s; `loss` as the service computed it."""
    sums: dict[Player, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for sample, loss, logps in zip(run, passed.losses, passed.logprobs, strict=True):
        told = sums[sample.player]
        told["loss"] += loss
        for logp, old in zip(logps, sample.completion.logprobs, strict=True):
            ratio = math.exp(logp - old)
            away = ratio > 1 + epsilon[1] if sample.advantage > 0 else ratio < 1 - epsilon[0]
            told["tokens"] += 1
            told["clipped"] += away
            told["ratio"] += ratio
            told["entropy"] -= logp
            told["drift"] = max(told["drift"], abs(logp - old))
    metrics: Metrics = {}
    for player, told in sorted(sums.items()):
        metrics |= {
            f"{player}/loss": told["loss"],
            f"{player}/clip_ratio": told["clipped"] / told["tokens"],
            f"{player}/importance_sampling_ratio/mean": told["ratio"] / told["tokens"],
            f"{player}/sampling_logp_difference": told["drift"],
            f"{player}/entropy": told["entropy"] / told["tokens"],
        }
    return metrics
