"""KL is measured to the weights when RL began, and needs no second model."""

import copy

import pytest
import torch
from tests.close import assert_close_sums
from tests.players.by_hand import alone, gradient, learner, moved, real, same_bits, samples, tiny

from sparring.players.weights import LearningRate, Optimizer, Weights, adapters
from sparring.types import Player

pytestmark = pytest.mark.numeric


def k3_by_rows(model, reference, told):
    """The mean over tokens of exp(d) − d − 1, by a second model."""
    with torch.no_grad():
        rows = [(s.completion.prompt_ids, s.completion.token_ids) for s in told]
        d = torch.cat([alone(reference, *row) - alone(model, *row) for row in rows])
    return (d.exp() - d - 1).mean().item()


def test_kl_is_0_when_rl_begins_and_is_measured_to_those_weights_ever_after():
    model = tiny()
    began = copy.deepcopy(model)
    learns = learner(model, optimizer=real(model, 0.01), beta=0.1)
    learns.reference = learns.optimizer.weights.snapshot()
    told = samples(model, (1.3, -0.7, 0.2, -1.9))
    assert_close_sums(learns.update(told)["defender/kl"], 0.0, scale=1.0)
    for _ in range(3):
        wanted = k3_by_rows(model, began, told)
        assert wanted > 1e-3
        assert_close_sums(learns.update(told)["defender/kl"], wanted, scale=1.0)
    assert same_bits(learns.reference, dict(began.named_parameters()))


def test_kl_alone_leads_back_to_the_reference():
    model = tiny()
    reference = moved(model, 0.03)
    learns = learner(
        model,
        optimizer=real(model, 3e-3),
        beta=1.0,
        reference=Weights(copy.deepcopy(reference)).snapshot(),
    )
    told = samples(model, (0.0, 0.0, 0.0, 0.0))
    kls = [learns.update(told)["defender/kl"] for _ in range(12)]
    assert kls[-1] < 0.5 * kls[0]


def test_beta_0_reads_no_reference():
    model = tiny()
    told = samples(model, (1.3, -0.7))
    without, _ = gradient(model, told)
    nonsense = {"no such parameter": torch.ones(2)}
    given, metrics = gradient(model, told, reference=nonsense)
    assert same_bits(without, given)
    assert "defender/kl" not in metrics


def test_the_reference_of_an_adapter_is_the_adapter_not_a_second_model():
    lora = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
    own = adapters(tiny(), dict.fromkeys(Player, lora), torch_seed=5)[Player.DEFENDER]
    base = sum(p.numel() for n, p in own.model.named_parameters() if "lora" not in n)
    learns = learner(own.model, optimizer=Optimizer(own, LearningRate(0.05)), beta=0.1)
    learns.reference = own.snapshot()
    assert 0 < sum(t.numel() for t in learns.reference.values()) < base / 20
    told = samples(own.model, (1.3, -0.7, 0.4))
    assert_close_sums(learns.update(told)["defender/kl"], 0.0, scale=1.0)
    assert learns.update(told)["defender/kl"] > 1e-4
