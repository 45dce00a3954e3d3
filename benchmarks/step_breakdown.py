"""Where the time of a sandbox step goes, beside the floor that the machine's matrix rate sets.

    OMP_NUM_THREADS=1 python benchmarks/step_breakdown.py

The step is the attacker's in MAGIC with the sandbox's game, judge, pool, diversity term, league and
memory: 16 seeds × 8 attacks, a reply to each, and the records of the round. Times are CPU seconds
of this process, the median of `--steps`, for the shipped model and for a model with ten times its
parameters and the same outputs (its feed-forward layers are widened by columns that add nothing).

Model time is the time of sampling and learning without tokenizing and detokenizing; the rest is the
arena, the judge, the metrics, credit and records. The floor is the floating-point operations of the
layers' matrices (2 a weight and token in the forward pass, 6 with the backward pass; attention,
embedding and output head are left out) ÷ the rate of a 512 × 512 float32 product measured in this
run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from sparring.coevolve import coevolve  # noqa: E402
from sparring.runs import recipes  # noqa: E402
from sparring.runs.run import Run  # noqa: E402
from sparring.sandbox.model import SHIPPED, one_thread  # noqa: E402
from sparring.schedules import always, solo  # noqa: E402
from sparring.store.folder import RunDir  # noqa: E402
from sparring.types import Player  # noqa: E402

PARTS = {
    "prefill": "sparring.players.local.begin",
    "decode": "sparring.players.fast.decoding.Forked.advance",
    "draw": "sparring.players.local._draw",
    "rest of sampling": "sparring.players.local.LocalPolicy.sample",
    "forward": "sparring.players.fast.sharing.SHARED",
    "backward": "torch.Tensor.backward",
    "optimizer": "sparring.players.weights.Optimizer.step",
    "rest of learning": "sparring.players.grpo.Grpo.update",
    "text to tokens": "sparring.players.chat.Chat.prompts",
    "tokens to text": "sparring.players.chat.Chat.text",
    "arena": "sparring.coevolve.play",
    "judge": "sparring.sandbox.world.SandboxJudge.rule",
    "metrics": "",
    "diversity": "",
    "credit": "sparring.coevolve.credit",
    "records": "sparring.store.folder.RunDir.append",
    "transcript": "sparring.store.folder.RunDir.write_transcript",
}
MODEL = tuple(PARTS)[:8]


@dataclass
class Clock:
    """CPU seconds by part, and the floating-point operations of the layers' matrices."""

    seconds: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    within: list[float] = field(default_factory=list)
    """Seconds of the parts inside each running part, which are subtracted from its own."""

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with the CPU seconds of its calls added to `part`."""

        def wrapper(*args: Any, **named: Any) -> Any:
            started = time.process_time()
            self.within.append(0.0)
            try:
                return function(*args, **named)
            finally:
                spent = time.process_time() - started
                self.seconds[part] = self.seconds.get(part, 0.0) + spent - self.within.pop()
                if self.within:
                    self.within[-1] += spent

        return wrapper

    def count(self, module: Any, args: tuple[Any, ...]) -> None:
        """Add a matrix's operations: the forward pass, and twice as many again with gradients."""
        import torch

        tokens = args[0].numel() // args[0].shape[-1]
        self.flops += 2 * module.weight.numel() * tokens * (3 if torch.is_grad_enabled() else 1)


def widened(folder: Path, times: int = 10) -> Path:
    """The shipped sandbox model with `times` its parameters and the same outputs."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    small = AutoModelForCausalLM.from_pretrained(SHIPPED)
    config = AutoConfig.from_pretrained(SHIPPED)
    before = sum(p.numel() for p in small.parameters())
    layer = 3 * config.hidden_size * config.num_hidden_layers
    config.intermediate_size += (times - 1) * before // layer
    torch.manual_seed(0)
    large = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for (name, wide), narrow in zip(large.named_parameters(), small.parameters(), strict=True):
            if "down_proj" in name:
                wide.zero_()
            wide[tuple(slice(n) for n in narrow.shape)] = narrow
    shutil.copytree(SHIPPED, folder)
    large.save_pretrained(folder)
    return folder


def playing(folder: Path, model: Path | None) -> Run:
    """A run whose attacker learns in every round, warmed up so that it keeps its format."""
    settings: dict[str, Any] = {
        "recipe": "magic",
        "rounds": 1000,
        "output_dir": str(folder),
        "warm_up": {"steps": 120, "batch_size": 32},
        "learner": {"seeds_per_round": 16, "num_generations": 8},
    }
    if model:
        settings |= {p.value: {"model_name_or_path": str(model)} for p in Player}
    match: Run = recipes.magic.build(recipes.resolve(settings))
    for _ in match.warm_up():
        pass
    match.begin()
    turn = always(solo(Player.ATTACKER, 8))
    return replace(match, plan=replace(match.plan, schedule=turn))


def steps(match: Run, run: RunDir, count: int) -> Iterator[tuple[float, Clock]]:
    """CPU seconds of each of `count` steps with its records, and its clock; a first is dropped."""
    import torch

    clock = Clock()
    for trainer in match.trainers.values():
        for name, module in trainer.weights.model.named_modules():
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
                module.register_forward_pre_hook(clock.count)
    with ExitStack() as stack:
        for part, where in PARTS.items():
            if not where:
                continue
            if part == "forward":
                from sparring.players.fast import sharing

                path = replace(sharing.SHARED, logprobs=clock.timed(part, sharing.SHARED.logprobs))
                stack.enter_context(patch("sparring.players.fast.sharing.SHARED", path))
            else:
                owner, name = where.rsplit(".", 1)
                original = getattr(_resolved(owner), name)
                stack.enter_context(patch(where, clock.timed(part, original)))
        plan = match.plan
        measure, shape = clock.timed("metrics", plan.measure), clock.timed("diversity", plan.shape)
        rounds = coevolve(replace(plan, measure=measure, shape=shape))
        for number in range(count + 1):
            clock.seconds, clock.flops = {}, 0.0
            started = time.process_time()
            round_ = next(rounds)
            run.append(round_)
            run.write_transcript(round_)
            if number:
                yield time.process_time() - started, replace(clock)


def _resolved(where: str) -> Any:
    """The module or class of that dotted name."""
    import pkgutil

    return pkgutil.resolve_name(where)


def rate(seconds: float = 1.0) -> float:
    """Floating-point operations a CPU second in a 512 × 512 product, the best of many."""
    import torch

    matrix = torch.randn(512, 512)
    best, until = 0.0, time.process_time() + seconds
    while time.process_time() < until:
        started = time.perf_counter(), time.process_time()
        for _ in range(8):
            matrix @ matrix
        best = max(best, 8 * 2 * 512**3 / (time.process_time() - started[1]))
    return best


def main() -> None:
    """Measure both models and print a column for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="steps a median is taken of")
    arguments = parser.parse_args()
    one_thread()
    columns: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as made:
        for title, model in (("shipped", None), ("ten times", widened(Path(made) / "wide"))):
            match = playing(Path(made) / title.replace(" ", "-"), model)
            run = RunDir.create(Path(made) / f"run-{title.replace(' ', '-')}", "")
            columns[title] = column(list(steps(match, run, arguments.steps)))
    print("| CPU seconds | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in next(iter(columns.values())):
        print(f"| {name} | " + " | ".join(cells[name] for cells in columns.values()) + " |")


def column(timings: list[tuple[float, Clock]]) -> dict[str, str]:
    """The cells of the table for one model, from the timings of its steps."""
    whole = median(total for total, _ in timings)
    parts = {p: median(clock.seconds.get(p, 0.0) for _, clock in timings) for p in PARTS}
    rest = median(total - sum(clock.seconds.values()) for total, clock in timings)
    other = median(
        1 - sum(clock.seconds.get(p, 0.0) for p in MODEL) / total for total, clock in timings
    )
    floor = median(clock.flops for _, clock in timings) / rate()
    cells = {name: f"{value:.3f}" for name, value in parts.items()}
    cells |= {"everything else": f"{rest:.3f}", "step": f"{whole:.3f}"}
    cells |= {"floor of the matrices": f"{floor:.3f}", "step ÷ floor": f"{whole / floor:.1f}"}
    return cells | {"**not model time**": f"**{other:.1%}**"}


if __name__ == "__main__":
    main()
