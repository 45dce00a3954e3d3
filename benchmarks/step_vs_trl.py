"""The same two-role GRPO step by sparring and by TRL's GRPOTrainer, in one process, in turn.

    OMP_NUM_THREADS=1 python benchmarks/step_vs_trl.py

An attacker samples 8 rewrites of each of 8 seeds (a prompt is a brief that all share and 12 words
of a seed; with --apart they share nothing), a frozen defender answers each, a number is paid
and the attacker is updated once. Same model, seeds, lengths, sampling, loss and optimizer; one
micro-batch of 64 completions on either side; no sample is skipped, unless --flat pays the siblings
of every other seed alike, which leaves half of the samples nothing to teach. TRL runs without
gradient checkpointing, logging, saving and evaluation, its old log-probabilities are not computed
(one update a batch), and its reward function calls the defender by `generate`, merged into its
base.

CPU seconds are the process's own, median of `--steps`; a step of ours follows every step of TRL's.
Peak memory is what a process of its own holds beyond what it held before the first step; what the
allocator would keep for later is left out.
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

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
class Seen:
    """What the steps of one side took (CPU and wall seconds) and the tokens of the last one."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    skipped: float = 0.0


ROWS = tuple(
    Row(prompt, Task(lora, beta))
    for prompt in (20, 128, 300)
    for lora in (False, True)
    for beta in (0.0, 0.05)
)


def trainer(folder: Path, asked: Sequence[str], row: Row, steps: int, seen: Seen) -> Any:
    """TRL's trainer of the same game."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    words = AutoTokenizer.from_pretrained(folder, padding_side="left")
    defender = AutoModelForCausalLM.from_pretrained(folder).eval()

    def reward(completions: Any, completion_ids: Any, prompts: Any, **_: Any) -> list[float]:
        attacks = [said[0]["content"] for said in completions]
        chats = [[{"role": "user", "content": attack}] for attack in attacks]
        told = words.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            ids = defender.generate(
                **told, max_new_tokens=LENGTH, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
            )
        said = ids[:, told["input_ids"].shape[1] :]
        trained = sum(map(len, completion_ids))
        before = words.apply_chat_template(prompts[0], add_generation_prompt=True)
        seen.tokens = {
            "prompt": len(before["input_ids"]),
            "sampled": trained + said.numel(),
            "trained": trained,
        }
        replies = words.batch_decode(said, skip_special_tokens=True)
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
    prompts = [[{"role": "user", "content": text}] for text in asked]
    return GRPOTrainer(
        model=str(folder),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=words,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA) if row.task.lora else None,
    )


def watched(seen: Seen, after: Callable[[], None]) -> Any:
    """A callback that times TRL's steps and then calls `after`."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.cpu, self.wall = time.process_time(), time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.cpu.append(time.process_time() - self.cpu)
            seen.wall.append(time.perf_counter() - self.wall)
            after()

    return Watch()


def one(playing: Iterator[Round], seen: Seen) -> None:
    """A step of ours, timed."""
    cpu, wall = time.process_time(), time.perf_counter()
    told = next(playing)
    seen.cpu.append(time.process_time() - cpu)
    seen.wall.append(time.perf_counter() - wall)
    seen.tokens = counted(told)
    seen.skipped = told.metrics["attacker/frac_reward_zero_std"]


def both(folder: Path, row: Row, steps: int, own: int) -> tuple[Seen, Seen]:
    """Ours and TRL's in turn; the first step of each is dropped."""
    asked = texts(folder, row.prompt, own=own)
    mine, theirs = Seen(), Seen()
    playing = rounds(folder, asked, row.task)
    peer = trainer(folder, asked, row, steps + 1, theirs)
    peer.add_callback(watched(theirs, lambda: one(playing, mine)))
    peer.train()
    assert mine.tokens == theirs.tokens, (mine.tokens, theirs.tokens)
    assert mine.skipped == (0.5 if row.task.flat else 0.0)
    for seen in (mine, theirs):
        del seen.cpu[0], seen.wall[0]
    return mine, theirs


def peak(folder: Path, row: Row, side: str) -> float:
    """MiB that two steps of one side need beyond what was there before (this process alone)."""
    asked = texts(folder, row.prompt)
    if side == "ours":
        playing, mine = rounds(folder, asked, row.task), Seen()
        held = _held()
        one(playing, mine)
        one(playing, mine)
    else:
        peer = trainer(folder, asked, row, 2, Seen())
        held = _held()
        peer.train()
    return _held("VmHWM") - held


def _held(when: str = "VmRSS") -> float:
    """MiB this process holds now, or has held at most (getrusage would count its parent's)."""
    told = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in told if line.startswith(when))
    return int(line.split()[1]) / 1024


def peak_alone(folder: Path, row: Row, side: str) -> float:
    """`peak` in a process of its own, whose allocator gives every large tensor back at once."""
    told = json.dumps([str(folder), row.prompt, row.task.lora, row.task.beta, side])
    command = [sys.executable, __file__, "--peak", told]
    own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    out = subprocess.run(command, env=own, check=True, capture_output=True, text=True)
    return float(out.stdout.split()[-1])


def main() -> None:
    """Print the table, a row when it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="steps a median is taken of")
    parser.add_argument("--prompts", type=int, nargs="*", default=[20, 128, 300])
    parser.add_argument("--apart", action="store_true", help="prompts that share no brief")
    parser.add_argument("--flat", action="store_true", help="half of the groups teach nothing")
    parser.add_argument("--weights", nargs="*", default=["full", "LoRA"])
    parser.add_argument("--memory", type=int, nargs="*", default=[20, 128, 300], help="prompts")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    if asked.peak:
        folder, prompt, lora, beta, side = json.loads(asked.peak)
        print(peak(Path(folder), Row(prompt, Task(lora, beta)), side))
        return
    names = "prompt weights beta sampled trained TRL_cpu ours_cpu TRL_wall ours_wall"
    names += " TRL_MiB ours_MiB memory ratio"
    print("| " + names.replace(" ", " | ").replace("_", " ") + " |")
    print("|" + "---|" * len(names.split()))
    with tempfile.TemporaryDirectory() as made:
        folder = save(Path(made))
        for row in (replace(row, task=replace(row.task, flat=asked.flat)) for row in ROWS):
            if row.prompt not in asked.prompts or row.weights not in asked.weights:
                continue
            mine, theirs = both(folder, row, asked.steps, 1000 if asked.apart else 12)
            cpu, peer = median(mine.cpu), median(theirs.cpu)
            wanted = row.prompt in asked.memory
            memory = [peak_alone(folder, row, side) for side in ("trl", "ours") if wanted]
            cells = [
                str(row.prompt),
                row.weights,
                f"{row.task.beta:g}",
                *(str(mine.tokens[kind]) for kind in ("sampled", "trained")),
                *(f"{value:.2f}" for value in (peer, cpu)),
                *(f"{median(seen.wall):.2f}" for seen in (theirs, mine)),
                *([f"{value:.0f}" for value in memory] or ["–", "–"]),
                f"{memory[1] / memory[0]:.2f}" if memory else "–",
                f"**{peer / cpu:.2f}×**",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
