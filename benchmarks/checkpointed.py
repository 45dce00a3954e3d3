"""CPU time of packed sibling completions against whole rows and against a cached prompt.

    OMP_NUM_THREADS=1 python benchmarks/checkpointed.py

It measures the log-probabilities and their gradient for 8 groups of 8 completions of 48 tokens in
one micro-batch, with the model of `two_roles` and prompts that have nothing in common. Packing puts
the completions of one prompt behind that prompt in shared rows. The alternatives are a whole row
(prompt and completion) for each completion under gradient checkpointing, and a prompt whose keys
and values are cached. Times are CPU seconds of this process, the median of `--steps` after a first
step that is dropped; the two sides take turns. The ratio is the alternative ÷ packed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from two_roles import GENERATIONS, LENGTH, LORA, SEEDS, save  # noqa: E402

from sparring.players.fast.sharing import packed_logprobs, pair_cost, recompute, shared_logprobs  # noqa: E402
from sparring.players.loading import load_model  # noqa: E402
from sparring.players.logprobs import Batch, logprobs, pad  # noqa: E402
from sparring.players.weights import Weights, adapters  # noqa: E402
from sparring.types import Player  # noqa: E402

PROMPTS = (20, 128, 300)


@dataclass(frozen=True)
class Row:
    """An alternative to packing; `again` says whether gradient checkpointing is on."""

    name: str
    path: Callable[[Any, Batch, float], Any]
    again: bool
    lora: bool


ROWS = (
    Row("whole rows, computed again", logprobs, again=True, lora=False),
    Row("whole rows, computed again", logprobs, again=True, lora=True),
    Row("cached prompt, kept", shared_logprobs, again=False, lora=False),
)


def groups(prompt: int, vocabulary: int) -> Batch:
    """A batch of 8 prompts of random tokens with 8 random completions each."""
    rng = random.Random("groups")

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(n))

    prompts = [ids(prompt) for _ in range(SEEDS)]
    rows = [(prompt_ids, ids(LENGTH)) for prompt_ids in prompts for _ in range(GENERATIONS)]
    return pad(rows, range(len(rows)), 0, "cpu")


def owned(folder: Path, lora: bool) -> Weights:
    """The weights that are trained: all of the model, or those of a LoRA adapter."""
    model = load_model(str(folder))
    if not lora:
        return Weights(model)
    return adapters(model, dict.fromkeys(Player, LORA), torch_seed=0)[Player.ATTACKER]


def spent(path: Callable[[Any, Batch, float], Any], weights: Weights, batch: Batch) -> float:
    """CPU seconds of one forward and backward pass."""
    started = time.process_time()
    path(weights.model, batch, 1.0).sum().backward()
    took = time.process_time() - started
    weights.model.zero_grad()
    return took


def both(folder: Path, row: Row, prompt: int, steps: int) -> tuple[float, float]:
    """Median CPU seconds of the alternative and of packed rows."""
    weights = owned(folder, row.lora)
    if row.again:
        recompute(weights.model)
    batch = groups(prompt, weights.model.config.vocab_size)
    packed = partial(packed_logprobs, pair_cost(weights.model))
    took = [[spent(p, weights, batch) for p in (row.path, packed)] for _ in range(steps + 1)]
    other_seconds, packed_seconds = zip(*took[1:], strict=True)
    return median(other_seconds), median(packed_seconds)


def main() -> None:
    """Measure each alternative at each prompt length and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print("| beside | weights | prompt | other, CPU s | packed, CPU s | ratio |")
    print("|---|---|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as made:
        folder = save(Path(made))
        for row in ROWS:
            for prompt in PROMPTS:
                other, packed = both(folder, row, prompt, arguments.steps)
                cells = f"{'LoRA' if row.lora else 'full'} | {prompt} | {other:.2f} | {packed:.2f}"
                print(f"| {row.name} | {cells} | {other / packed:.2f} |", flush=True)


if __name__ == "__main__":
    main()
