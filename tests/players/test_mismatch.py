"""Samples of another engine are weighed by the learner's probability over that engine's."""

import copy
import math

import pytest
import torch
from tests.close import assert_close_sums
from tests.players.by_hand import alone, gradient, gradient_of, learner, real, samples, tiny

from sparring.players.grpo import combined, grpo_metrics, mismatch_counts, truncated_ratio

pytestmark = pytest.mark.numeric

SOME = (1.3, -0.7, 0.4, -1.1)


def by_rows(model, told, limit):
    """GRPO's gradient with each token weighed, one unpadded row at a time."""
    model = copy.deepcopy(model)
    for sample in told:
        said = sample.completion
        logp_T = alone(model, said.prompt_ids, said.token_ids)
        ratios = [
            min(math.exp(own - engine), limit)
            for own, engine in zip(logp_T.tolist(), said.logprobs, strict=True)
        ]
        loss = -(sample.advantage * torch.tensor(ratios) * logp_T).mean() / len(told)
        loss.backward()
    return gradient_of(model)


@pytest.mark.parametrize("budget", [12, 10_000])
@pytest.mark.parametrize("limit", [2.0, 1.2])
def test_each_token_teaches_by_its_truncated_ratio(limit, budget):
    model = tiny()
    told = samples(model, SOME, drift=0.8)
    found, metrics = gradient(model, told, ratio_limit=limit, micro_batch_tokens=budget)
    assert_close_sums(found, by_rows(model, told, limit))
    assert metrics["defender/sampling_ratio/truncated"] > 0


def test_a_second_pass_is_clipped_against_the_first_and_weighed_as_the_first():
    model = tiny()
    told = samples(model, SOME, drift=0.3)
    once = learner(copy.deepcopy(model), ratio_limit=2.0, optimizer=real(copy.deepcopy(model)))
    first = once.update(told)
    twice = learner(
        copy.deepcopy(model),
        ratio_limit=2.0,
        updates_per_batch=2,
        optimizer=real(copy.deepcopy(model)),
    )
    second = twice.update(told)
    for name in ("mean", "max", "truncated"):
        key = f"defender/sampling_ratio/{name}"
        assert second[key] == pytest.approx(first[key])
    assert second["defender/importance_sampling_ratio/mean"] != pytest.approx(1, abs=1e-3)


def test_what_is_logged_is_the_ratio_before_it_is_truncated():
    own_BT = torch.log(torch.tensor([[0.6, 0.2, 0.5], [0.5, 0.3, 1.0]]))
    engine_BT = torch.log(torch.tensor([[0.2, 0.2, 0.1], [0.4, 0.6, 1.0]]))
    mask_BT = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    weight_BT = truncated_ratio(own_BT.requires_grad_(), engine_BT, 2.0)
    assert not weight_BT.requires_grad
    two_batches = [
        mismatch_counts((own_BT - engine_BT)[row : row + 1], mask_BT[row : row + 1], 2.0)
        for row in range(2)
    ]
    metrics = grpo_metrics(combined(two_batches))
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
    plain, unweighed = gradient(model, samples(model, SOME))
    weighed, metrics = gradient(model, samples(model, SOME), ratio_limit=2.0)
    assert_close_sums(weighed, plain)
    assert_close_sums(metrics["defender/sampling_ratio/mean"], 1.0)
    assert metrics["defender/sampling_ratio/truncated"] == 0
    assert not any("/sampling_ratio" in name for name in unweighed)
    told = samples(model, SOME, drift=0.5)
    assert gradient(model, told)[1]["defender/clip_ratio"] > 0.1
    metrics = gradient(model, told, ratio_limit=2.0)[1]
    assert metrics["defender/clip_ratio"] == 0
    assert_close_sums(metrics["defender/importance_sampling_ratio/mean"], 1.0)
