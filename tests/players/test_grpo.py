"""Which samples a GRPO update uses, their weights, and the policy that it compares them with."""

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
from sparring.players.weights import LearningRate, Optimizer, Weights, adapters
from sparring.types import Player

pytestmark = pytest.mark.numeric

ATTACKER, DEFENDER = Player.ATTACKER, Player.DEFENDER
WHOLE = 100_000
every_loss = pytest.mark.parametrize("loss", grpo.AGGREGATIONS)


def by_rows(model, batch, loss, longest):
    """The loss and gradient over every sample, one unpadded row at a time."""
    model, total = copy.deepcopy(model), 0.0
    tokens = sum(len(sample.completion.token_ids) for sample in batch)
    for sample in batch:
        completion, advantage = sample.completion, torch.tensor([sample.advantage])
        logp_1T = alone(model, completion.prompt_ids, completion.token_ids).unsqueeze(0)
        old_1T = torch.tensor([completion.logprobs])
        loss_1T = grpo.clipped_surrogate(logp_1T, old_1T, advantage, (0.2, 0.2))
        each = len(batch) * len(completion.token_ids)
        part = loss_1T.sum() / {"grpo": each, "dr_grpo": len(batch) * longest, "dapo": tokens}[loss]
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


@every_loss
def test_samples_without_advantage_are_not_run_and_still_count(monkeypatch, loss):
    model = tiny()
    batch = samples(model, (1.3, 0.0, -0.7, 0.0, 0.4, 0.0), drift=0.2)
    runs = Runs(monkeypatch)
    skipped, metrics = gradient(model, batch, loss=loss, max_completion_length=9)
    assert runs.rows == 3
    total, whole = by_rows(model, batch, loss, longest=9)
    assert_close_sums(metrics["defender/loss"], total, scale=1.0)
    assert_close_sums(skipped, whole)


@pytest.mark.parametrize("beta", [0.0, 0.3])
@every_loss
def test_micro_batches_add_up_to_the_whole(monkeypatch, loss, beta):
    model = tiny()
    batch = samples(model, (1.3, -0.2, -0.7, 2.1, 0.4, -1.6), drift=0.2)
    config = {"beta": beta, "reference": Weights(moved(model, 0.02)).snapshot(), "loss": loss}
    runs, results, batches = Runs(monkeypatch), [], []
    for budget in (1, 37, WHOLE):
        size = {"micro_batch_tokens": budget, "max_completion_length": 9}
        results.append(gradient(model, batch, **config, **size))
        batches.append(runs.batches - sum(batches))
    assert batches == ([12, 6, 2] if beta else [6, 3, 1])
    *parts, (whole, whole_metrics) = results
    for part, metrics in parts:
        assert_close_sums(part, whole)
        assert_close_sums(metrics, whole_metrics, scale=1.0)


@every_loss
def test_each_players_loss_is_normalised_alone_then_weighted(loss):
    model, config = tiny(), {"loss": loss, "max_completion_length": 9}
    attacks = samples(model, (0.8, -1.1), ATTACKER)
    replies = samples(model, (1.3, 0.0, -0.7, 2.0, -0.4), DEFENDER)
    (attacker, _), (defender, _) = (gradient(model, own, **config) for own in (attacks, replies))
    batch = [*replies[:2], *attacks, *replies[2:]]
    for shares in ({}, {ATTACKER: 0.25, DEFENDER: 3.0}):
        both, metrics = gradient(model, batch, **config, shares=shares)
        left, right = shares.get(ATTACKER, 1.0), shares.get(DEFENDER, 1.0)
        assert_close_sums(both, {n: left * attacker[n] + right * defender[n] for n in both})
        assert {name.split("/")[0] for name in metrics} == {"attacker", "defender"}


def test_a_player_without_signal_leaves_the_others_gradient_alone():
    model = tiny()
    replies = samples(model, (1.3, -0.7, 0.2))
    without, _ = gradient(model, replies)
    both, metrics = gradient(model, replies + samples(model, (0.0, 0.0), ATTACKER))
    assert same_bits(both, without)
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
    batch, results = samples(tiny(), (1.3, -0.7, 0.2, -1.9)), []
    for passes, updates in ((3, 1), (1, 3)):
        model = tiny()
        learns = learner(model, optimizer=real(model, 0.01), updates_per_batch=passes)
        metrics = [learns.update(batch) for _ in range(updates)][-1]
        results.append((learns.optimizer.weights.snapshot(), metrics))
    (left, left_metrics), (right, right_metrics) = results
    assert same_bits(left, right)
    # How far sampling was from learning is of the first pass, which is another one's here.
    assert left_metrics["defender/sampling_logp_difference/mean"] < 1e-5
    assert right_metrics.pop("defender/sampling_alarm") == 1
    del left_metrics["defender/sampling_logp_difference/mean"]
    del right_metrics["defender/sampling_logp_difference/mean"]
    assert left_metrics == right_metrics


def test_clip_ratio_and_drift_are_of_the_tokens_that_ran():
    model = tiny()
    batch = samples(model, (1.3, -0.7, 0.0, 0.2), drift=0.3)
    _, metrics = gradient(model, batch, epsilon=(0.1, 0.4))
    ran = [(s.completion, s.advantage) for s in batch if s.advantage]
    with torch.no_grad():
        new = torch.cat([alone(model, c.prompt_ids, c.token_ids) for c, _ in ran])
    old = torch.tensor([logp for c, _ in ran for logp in c.logprobs])
    advantage = torch.tensor([a for c, a in ran for _ in c.logprobs])
    ratio = (new - old).exp()
    binds = ((ratio < 0.9) & (advantage < 0)) | ((ratio > 1.4) & (advantage > 0))
    clipped = binds.float().mean().item()
    assert 0.05 < clipped < 0.9
    assert metrics["defender/clip_ratio"] == pytest.approx(clipped)
    assert abs(ratio.mean().item() - 1) > 0.01
    expected = {
        "importance_sampling_ratio/mean": ratio.mean().item(),
        "sampling_logp_difference": (new - old).abs().max().item(),
        "entropy": -new.mean().item(),
    }
    assert_close_sums({n: metrics[f"defender/{n}"] for n in expected}, expected, scale=1.0)


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
    batch = samples(model, (1.3, -0.7, 0.2))
    first, metrics = gradient(model, batch)
    assert metrics["defender/clip_ratio"] == 0.0
    assert_close_sums(metrics["defender/importance_sampling_ratio/mean"], 1, scale=1.0)
    assert_close_sums(metrics["defender/sampling_logp_difference"], 0.0, scale=5.0)
    norm = torch.cat([g.flatten() for g in first.values()]).norm().item()
    clipping = Optimizer(Weights(copy.deepcopy(model)), LearningRate(3e-3), max_grad_norm=norm / 7)
    metrics = learner(None, optimizer=clipping).update(batch)
    assert_close_sums(metrics["defender/grad_norm"], norm)
    assert metrics["defender/learning_rate"] == 3e-3
    twice = learner(model, optimizer=real(model), updates_per_batch=2)
    metrics = twice.update(batch)
    assert twice.optimizer.steps == 2
    assert metrics["defender/sampling_logp_difference"] > 0.2
    assert 0.2 < metrics["defender/clip_ratio"] <= 1.0


def k3_by_rows(model, reference, batch):
    """The mean over tokens of exp(d) − d − 1, by a second model."""
    with torch.no_grad():
        rows = [(s.completion.prompt_ids, s.completion.token_ids) for s in batch]
        d = torch.cat([alone(reference, *row) - alone(model, *row) for row in rows])
    return (d.exp() - d - 1).mean().item()


def test_kl_is_0_when_rl_begins_and_is_measured_to_those_weights_ever_after():
    model = tiny()
    began = copy.deepcopy(model)
    learns = learner(model, optimizer=real(model, 0.01), beta=0.1)
    learns.reference = learns.optimizer.weights.snapshot()
    batch = samples(model, (1.3, -0.7, 0.2, -1.9))
    assert_close_sums(learns.update(batch)["defender/kl"], 0.0, scale=1.0)
    for _ in range(3):
        expected = k3_by_rows(model, began, batch)
        assert expected > 1e-3
        assert_close_sums(learns.update(batch)["defender/kl"], expected, scale=1.0)
    assert same_bits(learns.reference, dict(began.named_parameters()))


def test_beta_0_reads_no_reference():
    model = tiny()
    batch = samples(model, (1.3, -0.7))
    without, _ = gradient(model, batch)
    with_nonsense, metrics = gradient(model, batch, reference={"no parameter": torch.ones(2)})
    assert same_bits(without, with_nonsense)
    assert "defender/kl" not in metrics


def test_the_reference_of_an_adapter_is_the_adapter_not_a_second_model():
    lora = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
    own = adapters(tiny(), dict.fromkeys(Player, lora), torch_seed=5)[DEFENDER]
    base = sum(p.numel() for n, p in own.model.named_parameters() if "lora" not in n)
    learns = learner(own.model, optimizer=Optimizer(own, LearningRate(0.05)), beta=0.1)
    learns.reference = own.snapshot()
    assert 0 < sum(t.numel() for t in learns.reference.values()) < base / 20
    batch = samples(own.model, (1.3, -0.7, 0.4))
    assert_close_sums(learns.update(batch)["defender/kl"], 0.0, scale=1.0)
    assert learns.update(batch)["defender/kl"] > 1e-4


ENGINE = (1.3, -0.7, 0.4, -1.1)
"""Advantages of samples that another engine drew."""


def weighed_by_rows(model, batch, limit):
    """GRPO's gradient with each token weighed, one unpadded row at a time."""
    model = copy.deepcopy(model)
    for sample in batch:
        completion = sample.completion
        logp_T = alone(model, completion.prompt_ids, completion.token_ids)
        ratio_T = (logp_T.detach() - torch.tensor(completion.logprobs)).exp().clamp(max=limit)
        (-(sample.advantage * ratio_T * logp_T).mean() / len(batch)).backward()
    return gradient_of(model)


@pytest.mark.parametrize("budget", [12, 10_000])
@pytest.mark.parametrize("limit", [2.0, 1.2])
def test_each_token_of_another_engine_teaches_by_its_truncated_ratio(limit, budget):
    model = tiny()
    batch = samples(model, ENGINE, drift=0.8)
    weighed, metrics = gradient(model, batch, ratio_limit=limit, micro_batch_tokens=budget)
    assert_close_sums(weighed, weighed_by_rows(model, batch, limit))
    assert metrics["defender/sampling_ratio/truncated"] > 0


def test_a_second_pass_is_clipped_against_the_first_and_weighed_as_the_first():
    batch, metrics = samples(tiny(), ENGINE, drift=0.3), []
    for passes in (1, 2):
        config = {"ratio_limit": 2.0, "updates_per_batch": passes}
        metrics.append(learner(None, optimizer=real(tiny()), **config).update(batch))
    first, second = metrics
    for name in ("mean", "max", "truncated"):
        key = f"defender/sampling_ratio/{name}"
        assert second[key] == pytest.approx(first[key])
    assert second["defender/importance_sampling_ratio/mean"] != pytest.approx(1, abs=1e-3)


def test_what_is_logged_is_the_ratio_before_it_is_truncated():
    own_BT = torch.log(torch.tensor([[0.6, 0.2, 0.5], [0.5, 0.3, 1.0]]))
    engine_BT = torch.log(torch.tensor([[0.2, 0.2, 0.1], [0.4, 0.6, 1.0]]))
    mask_BT = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    weight_BT = grpo.truncated_ratio(own_BT.requires_grad_(), engine_BT, 2.0)
    assert not weight_BT.requires_grad
    counts = [
        grpo.mismatch_counts((own_BT - engine_BT)[row : row + 1], mask_BT[row : row + 1], 2.0)
        for row in range(2)
    ]
    metrics = grpo.grpo_metrics(grpo.combined(counts))
    assert weight_BT[0].tolist() == pytest.approx([2, 1, 2])  # 3 and 5 are cut
    assert weight_BT[1, :2].tolist() == pytest.approx([1.25, 0.5])
    expected = {
        "sampling_ratio/mean": (3 + 1 + 5 + 1.25 + 0.5) / 5,
        "sampling_ratio/max": 5,
        "sampling_ratio/truncated": 2 / 5,
        "sampling_logp_difference": math.log(5),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_without_a_mismatch_nothing_is_weighed_and_an_engines_rounding_clips_nothing():
    """Against the engine's numbers half the tokens would lie outside the clip range at once."""
    model = tiny()
    plain, unweighed = gradient(model, samples(model, ENGINE))
    weighed, metrics = gradient(model, samples(model, ENGINE), ratio_limit=2.0)
    assert_close_sums(weighed, plain)
    assert_close_sums(metrics["defender/sampling_ratio/mean"], 1.0)
    assert metrics["defender/sampling_ratio/truncated"] == 0
    assert not any("/sampling_ratio" in name for name in unweighed)
    batch = samples(model, ENGINE, drift=0.5)
    assert gradient(model, batch)[1]["defender/clip_ratio"] > 0.1
    metrics = gradient(model, batch, ratio_limit=2.0)[1]
    assert metrics["defender/clip_ratio"] == 0
    assert_close_sums(metrics["defender/importance_sampling_ratio/mean"], 1.0)
