"""Gradient checkpointing changes memory use and no result."""

import pytest
import torch
from tests.close import assert_close_sums, spacings
from tests.tiny import FAMILIES, save_model

from sparring.players.fast import recompute
from sparring.players.loading import load_model
from sparring.players.logprobs import logprobs, pad
from sparring.players.weights import Weights, adapters
from sparring.types import Player

pytestmark = pytest.mark.numeric

ROWS = [((70, 71, 72, 90, 91), (92, 93, 94)), ((80, 81), (95, 96, 97, 98, 99))]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def folder(request, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), request.param)


def owned(folder, lora):
    model = load_model(str(folder))
    if lora is None:
        return Weights(model)
    own = adapters(model, dict.fromkeys(Player, lora), torch_seed=5)[Player.DEFENDER]
    with torch.no_grad():
        for name, p in own.parameters.items():
            p.add_(0.05 if "lora_B" in name else 0.0)  # else nothing would flow into lora_A
    return own


def gradients(weights, training=False):
    """Of the sum of two padded rows' log-probabilities, by parameter."""
    weights.model.train(training)
    weights.model.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        logprobs(weights.model, pad(ROWS, [0, 1], 0, "cpu"), 1.0).sum().backward()
    return {name: p.grad.clone() for name, p in weights.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_gradients_are_the_same_with_and_without(folder, lora):
    weights = owned(folder, lora)
    expected = gradients(weights)
    assert recompute(weights.model) == 2
    assert max(g.abs().max().item() for g in expected.values()) > 0.1
    assert_close_sums(gradients(weights), expected)


def test_dropout_in_training_is_drawn_again_the_same(folder):
    weights = owned(folder, {**LORA, "lora_dropout": 0.4})
    expected, evaluated = gradients(weights, training=True), gradients(weights)
    recompute(weights.model)
    assert_close_sums(gradients(weights, training=True), expected)
    assert spacings(evaluated, expected) > 1000


def test_layers_run_again_on_the_way_back_and_once_where_nothing_learns(folder):
    weights = owned(folder, None)
    gradients(weights)  # the first time, two tokens are run to find out about the head
    runs = []
    for layer in weights.model.model.layers:
        layer.self_attn.register_forward_pre_hook(lambda *_: runs.append(1))
    assert [recompute(weights.model) for _ in range(2)] == [2, 2], "twice is still once"
    gradients(weights)
    assert len(runs) == 2 * 2
    with torch.no_grad():
        logprobs(weights.model, pad(ROWS, [0, 1], 0, "cpu"), 1.0)
    assert len(runs) == 3 * 2
