"""Two rounds of MAGIC on a Tinker service, with every loss beside the local learner's.

    python examples/tinker_round.py base FOLDER          # the sandbox's model, warmed up
    python examples/tinker_round.py play FOLDER http://127.0.0.1:8000 --reduction mean

Between the two commands, start a service on FOLDER (docs/scaling.md shows how). Attacker and
defender are two LoRA clients of one base, in the sandbox's game with its judge. After each round's
games the service's adapter is fetched into the local learner, and both learn three times from the
same samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sparring.coevolve import coevolve
from sparring.engines.remote import RemoteGrpo, RemotePolicy
from sparring.engines.tinker import TinkerClient, TinkerService
from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.player import Sampling
from sparring.players.weights import LearningRate, Optimizer
from sparring.runs.recipes import known, resolve
from sparring.runs.run import Run
from sparring.sandbox.model import SHIPPED
from sparring.types import Metrics, Player, Sample

RANK, ALPHA = 4, 32
"""A Tinker service's adapters have lora_alpha 32 (https://thinkingmachines.ai/blog/lora/)."""
LEARNING_RATE = 1e-3
PASSES = 3
COMPARED = ("/loss", "/entropy", "/clip_ratio", "/grad_norm")
TOLERANCE = 1e-5
"""Of each number compared: float32 by two engines. The gradient's norm tells a wrong reduction."""
_LORA = {
    "r": RANK,
    "lora_alpha": ALPHA,
    "target_modules": [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        "gate_proj",
        "up_proj",
        "down_proj",
    ],
    "modules_to_save": None,
    "ensure_weight_tying": False,
}


def small_run(model: str, **more: object) -> Run:
    """MAGIC in the sandbox, small: 16 seeds a round, 8 forks, the defender first."""
    settings = {
        "recipe": "magic",
        "rounds": 2,
        "schedule": {"every": 1},
        "attacker": {"model_name_or_path": model, "lora": _LORA},
        "defender": {"model_name_or_path": model, "lora": _LORA},
        "learner": {"seeds_per_round": 16, "num_generations": 8, "learning_rate": LEARNING_RATE},
        "memory": {"league": {"opponents": "latest"}},
        "game": {"diversity": 0},
    }
    config = resolve(settings | more)
    return known("magic").build(config)


def base(folder: Path) -> None:
    """Phase 1 on one model of full weights: it is the base of both roles."""
    shared = {"weights": "shared", "warm_up": {"chat": 0.5}}
    run = small_run(str(SHIPPED), **shared)
    *_, metrics = run.warm_up()
    run.trainers[Player.DEFENDER].save(folder)
    print(f"{folder}: warmed up, loss {metrics['loss']:.3f}")


@dataclass
class Beside:
    """A `Learner` that shows what the service computes beside what the local learner does."""

    remote: RemoteGrpo
    client: TinkerClient
    local: Grpo
    worst: float = 0.0

    def update(self, samples: Sequence[Sample]) -> Metrics:
        with TemporaryDirectory() as folder:
            self.client.fetch(Path(folder))
            self.local.optimizer.weights.read(Path(folder))
        metrics: Metrics = {}
        for number in range(1, PASSES + 1):
            metrics = self.remote.update(samples)
            local = self.local.update(samples)
            for name in sorted(local.keys() & metrics.keys()):
                if name.endswith(COMPARED):
                    difference = abs(local[name] - metrics[name])
                    print(
                        f"  pass {number} {name:24} service {metrics[name]:+.6f} "
                        f"local {local[name]:+.6f} difference {difference:.1e}"
                    )
                    self.worst = max(self.worst, difference)
        return metrics


def play(folder: Path, url: str, reduction: str) -> int:
    """Two rounds; 1 if a number differs by more than the tolerance."""
    run = small_run(str(folder), weights="adapters")
    service = TinkerService(url, str(folder), reduction)
    length = run.config.sampling.max_completion_length
    sampling = Sampling(1.0, length)
    config = GrpoConfig(loss=run.config.learner.loss, max_completion_length=length)
    cast, learners = {}, {}
    for number, player in enumerate(Player):
        client = service.create_role(RANK, seed=number)
        trainer = run.trainers[player]
        cast[player] = RemotePolicy(client, trainer.chat, sampling)
        rate = LearningRate(LEARNING_RATE)
        remote = RemoteGrpo(client, rate, config)
        # A service clips no gradient norm.
        optimizer = Optimizer(trainer.weights, rate, max_grad_norm=float("inf"))
        learners[player] = Beside(remote, client, Grpo(optimizer, trainer.chat.pad_id, config))
    for round_ in coevolve(replace(run.plan, cast=cast, learners=learners)):
        names = "/".join(sorted(round_.turn.learns))
        print(f"round {round_.number}: {names} learned from {len(round_.episodes)} games")
    paths = {p: learner.client.save("after-two-rounds") for p, learner in learners.items()}
    for player, path in paths.items():
        client = learners[player].client
        client.load(path, client.version)
        print(f"{player}: {client.version} steps, kept at {path}")
    worst = max(learner.worst for learner in learners.values())
    print(f"largest difference {worst:.1e}, tolerance {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("base").add_argument("folder", type=Path)
    play_parser = parts.add_parser("play")
    play_parser.add_argument("folder", type=Path)
    play_parser.add_argument("url")
    play_parser.add_argument("--reduction", default="sum", help="sum | mean (SkyRL's JAX backend)")
    arguments = parser.parse_args()
    if arguments.part == "base":
        base(arguments.folder)
        return 0
    return play(arguments.folder, arguments.url, arguments.reduction)


if __name__ == "__main__":
    sys.exit(main())
