"""Learning rates, gradient clipping and saved state of the optimizer."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.players.by_hand import same_bits, tiny

from sparring.players.weights import LearningRate, Optimizer, Weights
from sparring.types import SparringError

START = [0.02001953125, -0.3125, 1.703125, 2.994537353515625e-4]
"""Numbers that bfloat16 holds."""


class Module(torch.nn.Module):
    """A few parameters, so that every number can be worked out."""

    def __init__(self, **parameters):
        super().__init__()
        for name, values in parameters.items():
            self.register_parameter(name, torch.nn.Parameter(values))


def two(schedule=None, **settings):
    model = Module(a=torch.tensor([2.0, -3.0]), b=torch.tensor([0.5]))
    return Optimizer(Weights(model), schedule or LearningRate(0.25), **settings)


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
    assert {step: schedule.at(step) for step in rates} == pytest.approx(rates, rel=1e-6)


def test_each_step_moves_by_its_own_rate():
    # With one gradient again and again, Adam moves every weight by the rate, against its sign.
    optimizer = two(LearningRate(0.4, warmup_steps=4), max_grad_norm=1e9)
    a = 2.0
    for rate in (0.1, 0.2, 0.3, 0.4, 0.4):
        assert optimizer.learning_rate == pytest.approx(rate)
        push(optimizer)
        a -= rate
        assert optimizer.weights.model.a.tolist() == pytest.approx([a, -3.0], abs=1e-5)
    assert (optimizer.steps, optimizer.weights.version) == (5, 5)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not():
    optimizer = two(max_grad_norm=2.0, betas=(0.9, 0.95))
    assert push(optimizer)["grad_norm"] == pytest.approx(5.0)
    moments = optimizer.tensors()
    # A tenth of (3, 0, −4) · 2/5, and a twentieth of its squares.
    assert moments["a/exp_avg"].tolist() == pytest.approx([0.12, 0.0], abs=1e-6)
    assert moments["b/exp_avg"].tolist() == pytest.approx([-0.16], abs=1e-6)
    assert moments["b/exp_avg_sq"].tolist() == pytest.approx([0.128], abs=1e-6)
    untouched = two(max_grad_norm=6.0)
    push(untouched)
    assert untouched.tensors()["a/exp_avg"].tolist() == pytest.approx([0.3, 0.0], abs=1e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_gradient_that_is_not_finite_is_skipped_and_the_third_in_a_row_stops_the_run(broken):
    clean, dirty = two(), two()
    for optimizer in (clean, dirty):
        push(optimizer)
    weights, moments = dirty.weights.snapshot(), dirty.tensors()
    for skipped in (1, 2):
        push(dirty, b=(broken,))
        assert (dirty.skipped, dirty.steps, dirty.weights.version) == (skipped, 1, 1)
        assert all(p.grad is None for p in dirty.weights.parameters.values())
    assert same_bits(dirty.weights.snapshot(), weights)
    assert same_bits(dirty.tensors(), moments)
    push(clean)
    push(dirty)  # a good one in between starts the count again, and nothing of the bad ones is left
    assert same_bits(clean.weights.snapshot(), dirty.weights.snapshot())
    for _ in range(2):
        push(dirty, a=(broken, 1.0))
    with pytest.raises(SparringError, match="three gradients in a row were not finite"):
        push(dirty, b=(broken,))
    assert same_bits(clean.weights.snapshot(), dirty.weights.snapshot())


def stepped(optimizer, numbers):
    """Steps along gradients that the step's number and the weights determine."""
    for number in numbers:
        for k, p in enumerate(optimizer.weights.parameters.values()):
            p.grad = torch.sin(p.detach() * (number + 2) + k)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_optimizer_goes_on_bit_for_bit(tmp_path, dtype):
    def bold(torch_seed=3):
        schedule = LearningRate(0.02, "cosine", warmup_steps=2, total=9)
        return Optimizer(Weights(tiny(torch_seed).to(dtype)), schedule, max_grad_norm=2.0)

    whole, first = stepped(bold(), range(7)), stepped(bold(), range(3))
    saved, counters = first.tensors(), first.counters()
    assert counters == {"steps": 3, "skipped": 0, "version": 3}
    save_file(saved, tmp_path / "moments.safetensors")
    save_file(first.weights.snapshot(), tmp_path / "weights.safetensors")
    stepped(first, range(1))  # what was saved does not move with it
    moments = load_file(tmp_path / "moments.safetensors")
    assert same_bits(saved, moments)
    resumed, forgetful = bold(99), bold(99)
    for optimizer, tensors in ((resumed, moments), (forgetful, {})):
        stepped(optimizer, range(2))  # its moments are forgotten
        optimizer.weights.load(load_file(tmp_path / "weights.safetensors"))
        optimizer.load(tensors, counters)
    assert forgetful.tensors().keys() <= {name for name in saved if name.endswith("float32")}
    for optimizer in (resumed, forgetful):
        stepped(optimizer, range(3, 7))
    assert same_bits(resumed.weights.snapshot(), whole.weights.snapshot())
    assert same_bits(resumed.tensors(), whole.tensors())
    assert resumed.counters() == whole.counters()
    assert resumed.learning_rate == whole.learning_rate
    assert not same_bits(forgetful.weights.snapshot(), whole.weights.snapshot())


def test_moments_from_a_file_move_to_their_parameter_and_the_step_counter_stays_on_the_cpu():
    """`meta` stands for a GPU: files are always read to the CPU."""
    optimizer = Optimizer(Weights(torch.nn.Linear(3, 2, device="meta")), LearningRate(0.1))
    saved = {
        f"{name}/{key}": torch.zeros(() if key == "step" else shape)
        for name, shape in {"weight": (2, 3), "bias": (2,)}.items()
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    optimizer.load(saved, {"steps": 4, "skipped": 0, "version": 5})
    devices = {
        f"{name}/{key}": tensor.device.type
        for name, p in optimizer.weights.parameters.items()
        for key, tensor in optimizer._adam.state[p].items()
    }
    assert devices == {name: "cpu" if name.endswith("/step") else "meta" for name in saved}


def narrow(dtype, rate=1e-5):
    """An optimizer of four weights of that type."""
    model = Module(vault=torch.tensor(START, dtype=dtype))
    return Optimizer(Weights(model), LearningRate(rate)), model.vault


def along(optimizer, p, n):
    """Make `n` steps along a constant gradient."""
    for i in range(n):
        p.grad = torch.full_like(p, 1.0 + 0.25 * (i % 3))
        optimizer.step()
    return p.detach().float().tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_below_the_spacing_of_a_narrow_weight_add_up(dtype):
    wide, steps = along(*narrow(torch.float32), 400), along(*narrow(dtype), 400)
    assert steps == pytest.approx(wide, rel=5e-3)
    assert steps[0] == pytest.approx(START[0] - 400e-5, rel=5e-3)


def test_narrow_weights_that_were_loaded_meanwhile_are_what_is_stepped():
    optimizer, p = narrow(torch.bfloat16, rate=1e-2)
    along(optimizer, p, 3)
    p.data.fill_(5.0)
    assert along(optimizer, p, 1) == pytest.approx([5.0 - 1e-2] * 4, abs=0.02)
    assert optimizer.tensors()["vault/float32"].dtype == torch.float32
    wide, p = narrow(torch.float32)
    along(wide, p, 2)
    assert sorted(wide.tensors()) == ["vault/exp_avg", "vault/exp_avg_sq", "vault/step"]
