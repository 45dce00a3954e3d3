"""A step of the warm-up by sparring and by TRL's SFTTrainer, on one pool, in one process, in turn.

    sparring pool make --seeds own:train --out pool.jsonl
    OMP_NUM_THREADS=1 python benchmarks/warm_up_vs_trl.py MODEL pool.jsonl

Model, LoRA (rank 16, all linear layers), demonstrations, sizes of batches, loss (of the reply
alone) and dtype are the same on both sides. TRL may draw its batches in another order; it runs
without gradient checkpointing, logging, saving and packing. A step of ours follows every step of
TRL's. CPU seconds are those of this process; the ratio is the median of `--steps` pairs after one
that is not counted.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from peer import QUIET  # noqa: E402

from sparring.data.pools import read_pool  # noqa: E402
from sparring.players.chat import Chat  # noqa: E402
from sparring.players.loading import load_model, load_tokenizer, stop_ids  # noqa: E402
from sparring.players.trainer import imitate, rows_of  # noqa: E402
from sparring.players.weights import LearningRate, Optimizer, Weights  # noqa: E402
from sparring.types import Demo  # noqa: E402

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
RATE = 1e-4


def adapted(model: str, dtype: str) -> Any:
    """The model with a fresh adapter."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(load_model(model, dtype), LoraConfig(**LORA))


def ours(model: str, dtype: str, demos: list[Demo], batch: int) -> Iterator[tuple[float, float]]:
    """(CPU seconds, loss) of every step, each taken when it is asked for."""
    learner, tokenizer = adapted(model, dtype), load_tokenizer(model)
    chat = Chat(tokenizer, stop_ids(learner))
    rows = rows_of(chat, demos)
    optimizer = Optimizer(Weights(learner), LearningRate(RATE))
    for start in range(0, len(rows), batch):
        before = time.process_time()
        metrics = imitate(optimizer, rows[start : start + batch], chat.pad_id, 16_384, "0")
        yield time.process_time() - before, metrics["loss"]


def theirs(
    model: str, dtype: str, demos: list[Demo], batch: int, between: Callable[[], None]
) -> list[tuple[float, float]]:
    """(CPU seconds, loss) of every step, by TRL; `between` is called after each."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    stamps: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            stamps.append(time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.process_time())
            between()

    class Losses(SFTTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            losses.append(loss.item())
            return loss

    table = [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in demo.observation],
            "completion": [{"role": "assistant", "content": demo.reply}],
        }
        for demo in demos
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = {k: v for k, v in QUIET.items() if k != "shuffle_dataset"}
        args = SFTConfig(
            folder,
            per_device_train_batch_size=batch,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            max_length=None,
            **settings,
        )
        trainer = Losses(
            adapted(model, dtype),
            args=args,
            train_dataset=Dataset.from_list(table),
            processing_class=load_tokenizer(model),
            callbacks=[Clock()],
        )
        trainer._get_train_sampler = lambda *_, **__: None
        trainer.train()
    pairs = zip(stamps[::2], stamps[1::2], strict=True)
    return [(end - begin, loss) for (begin, end), loss in zip(pairs, losses, strict=True)]


def main() -> None:
    """Run both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("pool", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    pool = read_pool(arguments.pool)
    demos = random.Random(0).sample(pool, arguments.batch * (arguments.steps + 1))
    same = arguments.model, arguments.dtype, demos, arguments.batch
    steps, taken = ours(*same), list[tuple[float, float]]()
    peers = theirs(*same, lambda: taken.append(next(steps)))
    print(
        "| step | TRL SFTTrainer, CPU s | sparring, CPU s | ratio | losses |\n|--:|--:|--:|--:|---|"
    )
    for n, ((slow, loss), (fast, own)) in enumerate(zip(peers, taken, strict=True)):
        print(f"| {n} | {slow:.1f} | {fast:.1f} | {slow / fast:.2f} | {loss:.3f}, {own:.3f} |")
    ratios = [slow / fast for (slow, _), (fast, _) in zip(peers[1:], taken[1:], strict=True)]
    print(f"| median of {len(ratios)}, without the first | | | **{median(ratios):.2f}×** | |")


if __name__ == "__main__":
    main()
