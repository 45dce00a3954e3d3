"""The same two-role GRPO step by sparring and by TRL's GRPOTrainer, in one process, in turn.

    OMP_NUM_THREADS=1 python benchmarks/step_vs_trl.py

An attacker samples 8 rewrites of each of 8 seeds (a prompt is a brief that all share and 12 words
of a seed; with --apart prompts share nothing), a frozen defender answers each, a number is paid as
reward, and the attacker is updated once. Model, seeds, lengths, sampling, loss and optimizer are
the same on both sides, with one micro-batch of 64 completions. No sample is skipped, unless --flat
pays the siblings of every other seed alike: half of the samples then have an advantage of zero. TRL
runs without gradient checkpointing, logging, saving and evaluation, and does not compute old
log-probabilities (there is one update a batch). Its reward function calls the defender by
`generate` on a model without an adapter.

CPU seconds are those of this process, the median of `--steps`; a step of ours follows every step of
TRL's. Peak memory is measured in a separate process, as what it needs beyond what it held before
the first step, without memory that the allocator would retain for reuse.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from machine import resident  # noqa: E402
from peer import QUIET  # noqa: E402
from two_roles import (  # noqa: E402
    GENERATIONS,
    LENGTH,
    LORA,
    RATE,
    SEEDS,
    Task,
    counted,
    is_flat,
    pays,
    rounds,
    save,
    texts,
)

from sparring.types import Round  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One line of the table; `prompt` in tokens."""

    prompt: int
    task: Task

    @property
    def weights(self) -> str:
        return "LoRA" if self.task.lora else "full"


@dataclass
class Timings:
    """The steps of one side: CPU and wall seconds of each; tokens, share skipped, loss of one."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    skipped: float = 0.0
    loss: float = 0.0


ROWS = tuple(
    Row(prompt, Task(lora, beta))
    for prompt in (20, 128, 300)
    for lora in (False, True)
    for beta in (0.0, 0.05)
)


def trainer(folder: Path, seed_texts: Sequence[str], row: Row, steps: int, timings: Timings) -> Any:
    """TRL's trainer of the same game; its reward function adds token counts to `timings`."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    words = AutoTokenizer.from_pretrained(folder, padding_side="left")
    defender = AutoModelForCausalLM.from_pretrained(folder).eval()

    def reward(completions: Any, completion_ids: Any, prompts: Any, **_: Any) -> list[float]:
        attacks = [completion[0]["content"] for completion in completions]
        chats = [[{"role": "user", "content": attack}] for attack in attacks]
        inputs = words.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            ids = defender.generate(
                **inputs, max_new_tokens=LENGTH, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
            )
        reply_ids = ids[:, inputs["input_ids"].shape[1] :]
        trained = sum(map(len, completion_ids))
        before = words.apply_chat_template(prompts[0], add_generation_prompt=True)
        timings.tokens = {
            "prompt": len(before["input_ids"]),
            "sampled": trained + reply_ids.numel(),
            "trained": trained,
        }
        replies = words.batch_decode(reply_ids, skip_special_tokens=True)
        paid = [pays(*pair) for pair in zip(attacks, replies, strict=True)]
        flat = [row.task.flat and is_flat(i // GENERATIONS) for i in range(len(paid))]
        return [0.5 if alike else value for value, alike in zip(paid, flat, strict=True)]

    args = GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=SEEDS * GENERATIONS,
        num_generations=GENERATIONS,
        max_completion_length=LENGTH,
        loss_type="grpo",
        beta=row.task.beta,
        use_bias_correction_kl=False,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        **QUIET,
    )
    prompts = [[{"role": "user", "content": text}] for text in seed_texts]
    return GRPOTrainer(
        model=str(folder),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=words,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA) if row.task.lora else None,
    )


def watched(timings: Timings, after: Callable[[], None]) -> Any:
    """A callback that times TRL's steps and then calls `after`."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.cpu, self.wall = time.process_time(), time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            timings.cpu.append(time.process_time() - self.cpu)
            timings.wall.append(time.perf_counter() - self.wall)
            after()

    return Watch()


@contextmanager
def timed(timings: Timings) -> Iterator[None]:
    """Adds the times of the block to `timings`."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    timings.cpu.append(time.process_time() - cpu)
    timings.wall.append(time.perf_counter() - wall)


def timed_step(playing: Iterator[Round], timings: Timings) -> None:
    """Play one step of ours and add its times and token counts to `timings`."""
    with timed(timings):
        round_ = next(playing)
    timings.tokens = counted(round_)
    timings.skipped = round_.metrics["attacker/frac_reward_zero_std"]


def both(folder: Path, row: Row, steps: int, own: int) -> tuple[Timings, Timings]:
    """Timings of our steps and of TRL's, in turn; the first step of each is dropped."""
    seed_texts = texts(folder, row.prompt, own=own)
    ours, theirs = Timings(), Timings()
    playing = rounds(folder, seed_texts, row.task)
    peer = trainer(folder, seed_texts, row, steps + 1, theirs)
    peer.add_callback(watched(theirs, lambda: timed_step(playing, ours)))
    peer.train()
    assert ours.tokens == theirs.tokens, (ours.tokens, theirs.tokens)
    assert ours.skipped == (0.5 if row.task.flat else 0.0)
    for timings in (ours, theirs):
        del timings.cpu[0], timings.wall[0]
    return ours, theirs


def peak(folder: Path, row: Row, side: str) -> float:
    """MiB that two steps of one side need beyond what this process held before them."""
    seed_texts = texts(folder, row.prompt)
    if side == "ours":
        playing, timings = rounds(folder, seed_texts, row.task), Timings()
        held = resident()
        timed_step(playing, timings)
        timed_step(playing, timings)
    else:
        peer = trainer(folder, seed_texts, row, 2, Timings())
        held = resident()
        peer.train()
    return resident("VmHWM") - held


def peak_alone(folder: Path, row: Row, side: str) -> float:
    """`peak` in a process of its own whose allocator returns every large tensor at once."""
    arguments = json.dumps([str(folder), row.prompt, row.task.lora, row.task.beta, side])
    command = [sys.executable, __file__, "--peak", arguments]
    own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    out = subprocess.run(command, env=own, check=True, capture_output=True, text=True)
    return float(out.stdout.split()[-1])


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="steps a median is taken of")
    parser.add_argument("--prompts", type=int, nargs="*", default=[20, 128, 300])
    parser.add_argument("--apart", action="store_true", help="prompts that share no brief")
    parser.add_argument("--flat", action="store_true", help="half of the groups teach nothing")
    parser.add_argument("--weights", nargs="*", default=["full", "LoRA"])
    parser.add_argument("--memory", type=int, nargs="*", default=[20, 128, 300], help="prompts")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    if arguments.peak:
        folder, prompt, lora, beta, side = json.loads(arguments.peak)
        print(peak(Path(folder), Row(prompt, Task(lora, beta)), side))
        return
    names = "prompt weights beta sampled trained TRL_cpu ours_cpu TRL_wall ours_wall"
    names += " TRL_MiB ours_MiB memory ratio"
    print("| " + names.replace(" ", " | ").replace("_", " ") + " |")
    print("|" + "---|" * len(names.split()))
    with tempfile.TemporaryDirectory() as made:
        folder = save(Path(made))
        for row in (replace(row, task=replace(row.task, flat=arguments.flat)) for row in ROWS):
            if row.prompt not in arguments.prompts or row.weights not in arguments.weights:
                continue
            ours, theirs = both(folder, row, arguments.steps, 1000 if arguments.apart else 12)
            cpu, peer = median(ours.cpu), median(theirs.cpu)
            measures_memory = row.prompt in arguments.memory
            memory = [peak_alone(folder, row, side) for side in ("trl", "ours") if measures_memory]
            cells = [
                str(row.prompt),
                row.weights,
                f"{row.task.beta:g}",
                *(str(ours.tokens[kind]) for kind in ("sampled", "trained")),
                *(f"{value:.2f}" for value in (peer, cpu)),
                *(f"{median(timings.wall):.2f}" for timings in (theirs, ours)),
                *([f"{value:.0f}" for value in memory] or ["–", "–"]),
                f"{memory[1] / memory[0]:.2f}" if memory else "–",
                f"**{peer / cpu:.2f}×**",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
