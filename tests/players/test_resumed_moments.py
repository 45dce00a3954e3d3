"""A resumed optimizer goes on where it was: its moments lie where its parameters do."""

import torch

from sparring.players.optimizer import LearningRate, Optimizer
from sparring.players.weights import Weights


def test_moments_from_a_file_move_to_their_parameter_and_the_step_counter_stays_on_the_cpu():
    """`meta` stands for a GPU: files are always read to the CPU."""
    optimizer = Optimizer(Weights(torch.nn.Linear(3, 2, device="meta")), LearningRate(0.1))
    saved = {
        f"{name}/{key}": torch.zeros(() if key == "step" else shape)
        for name, shape in {"weight": (2, 3), "bias": (2,)}.items()
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    optimizer.load(saved, {"steps": 4, "skipped": 0, "version": 5})
    told = {name: tensor.device.type for name, tensor in optimizer.tensors().items()}
    assert told == {name: "cpu" if name.endswith("/step") else "meta" for name in saved}
    assert optimizer.counters() == {"steps": 4, "skipped": 0, "version": 5}
