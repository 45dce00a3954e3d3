"""One gradient at a time: its rate, its bounds, and a state that is saved to the bit."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.players.by_hand import same_bits, tiny

from sparring.players.optimizer import LearningRate, Optimizer
from sparring.players.weights import Weights
from sparring.types import SparringError


class Two(torch.nn.Module):
    """Two parameters, so that every number can be worked out."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([2.0, -3.0]))
        self.b = torch.nn.Parameter(torch.tensor([0.5]))


def two(schedule=None, **asked):
    return Optimizer(Weights(Two()), schedule or LearningRate(0.25), **asked)


def push(optimizer, a=(3.0, 0.0), b=(-4.0,)):
    """One step along a gradient of norm 5."""
    model = optimizer.weights.model
    model.a.grad, model.b.grad = torch.tensor(a), torch.tensor(b)
    return optimizer.step()


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (LearningRate(3e-4), {0: 3e-4, 7: 3e-4, 900: 3e-4}),
        (LearningRate(8e-4, warmup_steps=4), {0: 2e-4, 2: 6e-4, 3: 8e-4, 4: 8e-4, 50: 8e-4}),
        (
            # A quarter of the way: 2e-3 · (0.55 + 0.45 · cos 45°).
            LearningRate(2e-3, "cosine", warmup_steps=5, total=25),
            {1: 8e-4, 4: 2e-3, 5: 2e-3, 10: 1.7363961e-3, 15: 1.1e-3, 20: 4.636039e-4, 25: 2e-4},
        ),
        (LearningRate(2e-3, "cosine", total=20), {0: 2e-3, 10: 1.1e-3, 20: 2e-4, 4000: 2e-4}),
    ],
)
def test_the_schedule_is_as_worked_out(schedule, rates):
    for step, rate in rates.items():
        assert schedule.at(step) == pytest.approx(rate, rel=1e-6)


def test_each_step_moves_by_its_own_rate():
    # With one gradient again and again, Adam moves every weight by the rate, against its sign.
    optimizer = two(LearningRate(0.4, warmup_steps=4), max_grad_norm=1e9)
    a = 2.0
    for rate in (0.1, 0.2, 0.3, 0.4, 0.4):
        assert optimizer.learning_rate == pytest.approx(rate)
        push(optimizer)
        a -= rate
        assert optimizer.weights.model.a[0].item() == pytest.approx(a, abs=1e-5)
    assert optimizer.weights.model.a[1].item() == -3.0
    assert (optimizer.steps, optimizer.weights.version) == (5, 5)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not():
    optimizer = two(max_grad_norm=2.0, betas=(0.9, 0.95))
    assert push(optimizer) == pytest.approx(5.0)
    moments = optimizer.tensors()
    # A tenth of (3, 0, −4) · 2/5, and a twentieth of its squares.
    assert moments["a/exp_avg"].tolist() == pytest.approx([0.12, 0.0], abs=1e-6)
    assert moments["b/exp_avg"].tolist() == pytest.approx([-0.16], abs=1e-6)
    assert moments["b/exp_avg_sq"].tolist() == pytest.approx([0.128], abs=1e-6)
    untouched = two(max_grad_norm=6.0)
    push(untouched)
    assert untouched.tensors()["a/exp_avg"].tolist() == pytest.approx([0.3, 0.0], abs=1e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(broken):
    optimizer = two()
    push(optimizer)
    weights, moments = optimizer.weights.snapshot(), optimizer.tensors()
    push(optimizer, b=(broken,))
    assert optimizer.skipped == 1
    assert same_bits(optimizer.weights.snapshot(), weights)
    assert same_bits(optimizer.tensors(), moments)
    assert (optimizer.steps, optimizer.weights.version) == (1, 1)


def test_the_third_in_a_row_stops_the_run_with_the_weights_unchanged():
    optimizer = two()
    push(optimizer)
    weights = optimizer.weights.snapshot()
    push(optimizer, b=(float("nan"),))
    push(optimizer, a=(float("-inf"), 1.0))
    with pytest.raises(SparringError, match="three gradients in a row were not finite"):
        push(optimizer, b=(float("nan"),))
    assert same_bits(optimizer.weights.snapshot(), weights)


def test_a_good_gradient_in_between_starts_the_count_again():
    optimizer = two()
    for broken in (True, True, False, True, True):
        push(optimizer, b=(float("nan"),) if broken else (2.0,))
    assert (optimizer.skipped, optimizer.steps) == (2, 1)


def test_a_skipped_gradient_leaves_nothing_behind_for_the_next():
    clean, dirty = two(), two()
    push(dirty, b=(float("nan"),))
    assert all(p.grad is None for p in dirty.weights.parameters.values())
    push(clean)
    push(dirty)
    assert same_bits(clean.weights.snapshot(), dirty.weights.snapshot())


def stepped(optimizer, numbers):
    """Steps along gradients that the step's number and the weights determine."""
    for number in numbers:
        for k, p in enumerate(optimizer.weights.parameters.values()):
            p.grad = torch.sin(p.detach() * (number + 2) + k)
        optimizer.step()
    return optimizer


def bold(model):
    schedule = LearningRate(0.02, "cosine", warmup_steps=2, total=9)
    return Optimizer(Weights(model), schedule, max_grad_norm=2.0)


def test_a_saved_optimizer_goes_on_bit_for_bit(tmp_path):
    whole = stepped(bold(tiny()), range(7))
    first = stepped(bold(tiny()), range(3))
    save_file(first.tensors(), tmp_path / "moments.safetensors")
    save_file(first.weights.snapshot(), tmp_path / "weights.safetensors")
    counters = first.counters()
    assert counters == {"steps": 3, "skipped": 0, "version": 3}
    resumed = bold(tiny(torch_seed=99))
    resumed.weights.load(load_file(tmp_path / "weights.safetensors"))
    resumed.load(load_file(tmp_path / "moments.safetensors"), counters)
    stepped(resumed, range(3, 7))
    assert same_bits(resumed.weights.snapshot(), whole.weights.snapshot())
    assert same_bits(resumed.tensors(), whole.tensors())
    assert resumed.counters() == whole.counters()
    assert resumed.learning_rate == whole.learning_rate


def test_without_its_moments_it_would_go_on_otherwise():
    whole, first = stepped(bold(tiny()), range(7)), stepped(bold(tiny()), range(3))
    forgetful = bold(first.weights.model)
    forgetful.steps = 3
    stepped(forgetful, range(3, 7))
    assert not same_bits(forgetful.weights.snapshot(), whole.weights.snapshot())


def test_saved_moments_do_not_move_when_training_goes_on():
    optimizer = two()
    push(optimizer)
    saved = optimizer.tensors()
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    push(optimizer)
    assert same_bits(saved, kept)
    assert not same_bits(optimizer.tensors(), kept)


def test_loading_forgets_the_moments_that_were_there():
    fresh, used = two().tensors(), two()
    push(used)
    used.load(fresh, {"steps": 0, "skipped": 0, "version": 0})
    assert used.tensors() == {}
