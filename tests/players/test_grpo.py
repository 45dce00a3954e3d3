"""What an update teaches: which samples count, for how much, and against what."""

import copy
import math

import pytest
import torch
from tests.close import assert_close_sums
from tests.players.by_hand import (
    alone,
    gradient,
    gradient_of,
    learner,
    moved,
    real,
    same_bits,
    samples,
    tiny,
)

from sparring.players import grpo
from sparring.players.fast.sharing import SHARED, Path
from sparring.players.grpo import AGGREGATIONS, clipped_surrogate
from sparring.players.weights import LearningRate, Optimizer, Weights
from sparring.types import Player

pytestmark = pytest.mark.numeric

ATTACKER, DEFENDER = Player.ATTACKER, Player.DEFENDER
SOME = (1.3, 0.0, -0.7, 0.0, 0.4, 0.0)
WHOLE = 100_000


def by_rows(model, told, loss, longest):
    """The loss and gradient over every sample, one unpadded row at a time."""
    model = copy.deepcopy(model)
    tokens = sum(len(s.completion.token_ids) for s in told)
    total = 0.0
    for sample in told:
        said = sample.completion
        logp_1T = alone(model, said.prompt_ids, said.token_ids).unsqueeze(0)
        old_1T = torch.tensor([said.logprobs])
        loss_1T = clipped_surrogate(logp_1T, old_1T, torch.tensor([sample.advantage]), (0.2, 0.2))
        each = len(told) * len(said.token_ids)
        denominator = {"grpo": each, "dr_grpo": len(told) * longest, "dapo": tokens}[loss]
        part = loss_1T.sum() / denominator
        part.backward()
        total += part.item()
    return total, gradient_of(model)


class Runs:
    """Counts the batches and the rows that run through a model."""

    def __init__(self, monkeypatch):
        self.batches = self.rows = 0
        monkeypatch.setattr(grpo, "path_of", lambda model: Path(SHARED.cost, self))

    def __call__(self, model, batch, temperature):
        self.batches += 1
        self.rows += len(batch.index)
        return SHARED.logprobs(model, batch, temperature)


@pytest.mark.parametrize("loss", AGGREGATIONS)
def test_samples_without_advantage_are_not_run_and_still_count(monkeypatch, loss):
    model = tiny()
    told = samples(model, SOME, drift=0.2)
    runs = Runs(monkeypatch)
    skipped, metrics = gradient(model, told, loss=loss, max_completion_length=9)
    assert runs.rows == 3
    wanted, run = by_rows(model, told, loss, longest=9)
    assert_close_sums(metrics["defender/loss"], wanted, scale=1.0)
    assert_close_sums(skipped, run)


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("loss", AGGREGATIONS)
def test_micro_batches_add_up_to_the_whole(monkeypatch, loss, beta):
    model = tiny()
    told = samples(model, (1.3, -0.2, -0.7, 2.1, 0.4, -1.6), drift=0.2)
    reference = Weights(moved(model, 0.02)).snapshot()
    runs, found, batches = Runs(monkeypatch), [], []
    for budget in (1, 37, WHOLE):
        asked = {"beta": beta, "reference": reference, "micro_batch_tokens": budget}
        found.append(gradient(model, told, loss=loss, max_completion_length=9, **asked))
        batches.append(runs.batches - sum(batches))
    assert batches == ([12, 6, 2] if beta else [6, 3, 1])
    (one, one_metrics), (some, some_metrics), (whole, whole_metrics) = found
    assert_close_sums(one, whole)
    assert_close_sums(some, whole)
    assert_close_sums(one_metrics, whole_metrics, scale=1.0)
    assert_close_sums(some_metrics, whole_metrics, scale=1.0)


@pytest.mark.parametrize("loss", AGGREGATIONS)
def test_each_players_loss_is_normalised_alone_then_weighted(loss):
    model = tiny()
    attacks = samples(model, (0.8, -1.1), ATTACKER)
    replies = samples(model, (1.3, 0.0, -0.7, 2.0, -0.4), DEFENDER)
    attacker, _ = gradient(model, attacks, loss=loss, max_completion_length=9)
    defender, _ = gradient(model, replies, loss=loss, max_completion_length=9)
    shares = {ATTACKER: 0.25, DEFENDER: 3.0}
    told = [*replies[:2], *attacks, *replies[2:]]
    both, metrics = gradient(model, told, loss=loss, max_completion_length=9, shares=shares)
    plain, _ = gradient(model, told, loss=loss, max_completion_length=9)  # a share is 1 unless set
    assert_close_sums(plain, {n: attacker[n] + defender[n] for n in both})
    wanted = {n: 0.25 * attacker[n] + 3.0 * defender[n] for n in both}
    assert_close_sums(both, wanted)
    assert {name.split("/")[0] for name in metrics} == {"attacker", "defender"}


def test_a_player_without_signal_leaves_the_others_gradient_alone():
    model = tiny()
    replies = samples(model, (1.3, -0.7, 0.2))
    alone_, _ = gradient(model, replies)
    both, metrics = gradient(model, replies + samples(model, (0.0, 0.0), ATTACKER))
    assert same_bits(both, alone_)
    assert metrics["attacker/loss"] == 0.0
    ratio = "importance_sampling_ratio/mean"
    assert f"defender/{ratio}" in metrics
    assert f"attacker/{ratio}" not in metrics, "of no tokens, it would read as impossible ones"


def test_without_any_signal_the_weights_stay_as_they_are():
    model = tiny()
    learns = learner(model, optimizer=real(model))
    before = learns.optimizer.weights.snapshot()
    assert learns.update(samples(model, (0.0, 0.0, 0.0))) == {}
    assert learns.update([]) == {}
    assert same_bits(learns.optimizer.weights.snapshot(), before)
    assert learns.optimizer.steps == 0


def test_passes_over_a_batch_are_updates_on_the_same_old_logprobs():
    told = samples(tiny(), (1.3, -0.7, 0.2, -1.9))
    found = []
    for passes, updates in ((3, 1), (1, 3)):
        model = tiny()
        learns = learner(model, optimizer=real(model, 0.01), updates_per_batch=passes)
        for _ in range(updates):
            metrics = learns.update(told)
        found.append((learns.optimizer.weights.snapshot(), metrics))
    (one, one_metrics), (other, other_metrics) = found
    assert same_bits(one, other)
    assert one_metrics == other_metrics


def test_clip_ratio_and_drift_are_told_of_the_tokens_that_ran():
    model = tiny()
    told = samples(model, (1.3, -0.7, 0.0, 0.2), drift=0.3)
    _, metrics = gradient(model, told, epsilon=(0.1, 0.4))
    with torch.no_grad():
        ran = [(s.completion, s.advantage) for s in told if s.advantage]
        logps = [alone(model, c.prompt_ids, c.token_ids) for c, _ in ran]
    new, old = torch.cat(logps), torch.tensor([x for c, _ in ran for x in c.logprobs])
    ratio = (new - old).exp()
    advantage = torch.tensor([a for c, a in ran for _ in c.logprobs])
    binds = ((ratio < 0.9) & (advantage < 0)) | ((ratio > 1.4) & (advantage > 0))
    clipped = binds.float().mean().item()
    assert 0.05 < clipped < 0.9
    assert metrics["defender/clip_ratio"] == pytest.approx(clipped)
    mean = ratio.mean().item()
    assert abs(mean - 1) > 0.01
    assert_close_sums(metrics["defender/importance_sampling_ratio/mean"], mean, scale=1.0)
    drift = (new - old).abs().max().item()
    assert_close_sums(metrics["defender/sampling_logp_difference"], drift, scale=1.0)
    assert_close_sums(metrics["defender/entropy"], -new.mean().item(), scale=1.0)


def test_an_update_that_is_not_finite_changes_nothing_and_can_be_recorded():
    model = tiny()
    learns = learner(model, optimizer=real(model))
    before = learns.optimizer.weights.snapshot()
    metrics = learns.update(samples(model, (float("inf"), -1.0)))
    assert learns.optimizer.skipped == 1
    assert same_bits(learns.optimizer.weights.snapshot(), before)
    # Records are JSON, which knows neither NaN nor infinity.
    assert all(math.isfinite(value) for value in metrics.values())
    assert not {"defender/loss", "defender/grad_norm"} & metrics.keys()


def test_the_first_pass_is_on_policy_and_the_second_is_clipped_with_the_norm_before_clipping():
    model = tiny()
    told = samples(model, (1.3, -0.7, 0.2))
    seen, metrics = gradient(model, told)
    assert metrics["defender/clip_ratio"] == 0.0
    assert_close_sums(metrics["defender/importance_sampling_ratio/mean"], 1, scale=1.0)
    assert_close_sums(metrics["defender/sampling_logp_difference"], 0.0, scale=5.0)
    norm = torch.cat([g.flatten() for g in seen.values()]).norm().item()
    clipping = Optimizer(Weights(copy.deepcopy(model)), LearningRate(3e-3), max_grad_norm=norm / 7)
    metrics = learner(None, optimizer=clipping).update(told)
    assert_close_sums(metrics["defender/grad_norm"], norm)
    assert metrics["defender/learning_rate"] == 3e-3
    twice = learner(model, optimizer=real(model), updates_per_batch=2)
    metrics = twice.update(told)
    assert twice.optimizer.steps == 2
    assert metrics["defender/sampling_logp_difference"] > 0.2
    assert 0.2 < metrics["defender/clip_ratio"] <= 1.0
