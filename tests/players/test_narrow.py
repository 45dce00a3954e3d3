"""Weights of 16 bits learn what weights of 32 bits learn: small steps are not rounded away."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import Parameter

from sparring.players.optimizer import LearningRate, Optimizer

START = [0.02001953125, -0.3125, 1.703125, 2.994537353515625e-4]
"""Numbers that bfloat16 holds."""


def weights(dtype):
    made = {"vault": Parameter(torch.tensor(START, dtype=dtype))}
    return SimpleNamespace(parameters=made, version=0)


def steps(optimizer, n, sign=1.0):
    """`n` steps along a gradient that never turns."""
    (p,) = optimizer.weights.parameters.values()
    for i in range(n):
        p.grad = torch.full_like(p, sign * (1.0 + 0.25 * (i % 3)))
        optimizer.step()
    return p.detach().float()


def optimizer(dtype, rate=1e-5):
    return Optimizer(weights(dtype), LearningRate(rate))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_below_the_spacing_of_a_narrow_weight_add_up(dtype):
    wanted = steps(optimizer(torch.float32), 400)
    found = steps(optimizer(dtype), 400)
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=5e-3)
    assert found[0].item() == pytest.approx(START[0] - 400e-5, rel=5e-3)


def test_wide_weights_are_stepped_themselves_and_nothing_is_added_to_their_state():
    told = optimizer(torch.float32)
    steps(told, 2)
    assert sorted(told.tensors()) == ["vault/exp_avg", "vault/exp_avg_sq", "vault/step"]


def test_a_resumed_narrow_weight_goes_on_where_it_stood_to_the_bit():
    whole = optimizer(torch.bfloat16)
    steps(whole, 30)
    halved = optimizer(torch.bfloat16)
    steps(halved, 13)
    resumed = optimizer(torch.bfloat16)
    resumed.weights.parameters["vault"].data.copy_(halved.weights.parameters["vault"].data)
    resumed.load(halved.tensors(), halved.counters())
    for i in range(13, 30):
        p = resumed.weights.parameters["vault"]
        p.grad = torch.full_like(p, 1.0 + 0.25 * (i % 3))
        resumed.step()
    one, other = whole.tensors(), resumed.tensors()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["vault/float32"].dtype == torch.float32


def test_weights_that_were_loaded_meanwhile_are_what_is_stepped():
    told = optimizer(torch.bfloat16, rate=1e-2)
    steps(told, 3)
    told.weights.parameters["vault"].data.fill_(5.0)
    found = steps(told, 1)
    assert found.tolist() == pytest.approx([5.0 - 1e-2] * 4, abs=0.02)


def test_a_step_that_is_thrown_away_leaves_no_gradient_behind():
    told = optimizer(torch.bfloat16, rate=1e-2)
    p = told.weights.parameters["vault"]
    p.grad = torch.full_like(p, float("nan"))
    told.step()
    assert p.grad is None
    assert p.tolist() == pytest.approx(START, rel=5e-3)
    assert told._stepped["vault"].grad is None
