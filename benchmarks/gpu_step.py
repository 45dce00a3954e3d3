"""Memory, decoding and an update of a 7B Qwen2 on one GPU, beside the least they could take.

    python benchmarks/gpu_step.py            # one CUDA device of 80 GB
    python benchmarks/gpu_step.py --toy      # the same code at toy size, on a CPU

The model has Qwen2.5-7B's dimensions, random weights in bfloat16, and an adapter of rank 32 for
each role. A step samples 8 completions of 512 tokens for each of `--seeds` prompts of 512 tokens,
and makes one update: AdamW, GRPO with beta 0.05, gradient checkpointing, one group a micro-batch.
Our side holds the adapters of both roles and the reference policy; TRL's GRPOTrainer holds one
adapter. Both sample with transformers in this process. Times are wall seconds of the last of
`--steps`; the steps before it warm up.

- Share of the matrix rate (MFU): operations of the update (`sparring.estimate`) ÷ its seconds ÷ the
  rate of a product of two square matrices of the same dtype, measured in this run.
- Bandwidth floor of sampling: the time to read the weights and the key-value cache once a token at
  the rate at which a large tensor is copied, measured in this run.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from machine import bandwidth, device, forget, matrix_rate, peak, settled  # noqa: E402
from peer import QUIET  # noqa: E402

from sparring.estimate.estimate import update_flops  # noqa: E402
from sparring.estimate.shape import KNOWN, Shape, shape_of  # noqa: E402
from sparring.players.chat import Chat  # noqa: E402
from sparring.players.fast import recompute  # noqa: E402
from sparring.players.grpo import Grpo, GrpoConfig  # noqa: E402
from sparring.players.local import LocalPolicy  # noqa: E402
from sparring.players.player import Request, Sampling  # noqa: E402
from sparring.players.weights import LearningRate, Optimizer, adapters  # noqa: E402
from sparring.sandbox.language import Language  # noqa: E402
from sparring.sandbox.model import tokenizer  # noqa: E402
from sparring.types import Completion, Message, Player, Sample  # noqa: E402

GENERATIONS, BETA, RATE = 8, 0.05, 1e-5


@dataclass(frozen=True)
class Size:
    """What is run: the model's folder and dtype, lengths in tokens, the rank of an adapter."""

    folder: Path
    dtype: str
    prompt: int
    completion: int
    rank: int
    seeds: int
    product: int
    """Rows and columns of the square matrices whose product measures the machine's rate."""

    @property
    def lora(self) -> dict[str, Any]:
        return {"r": self.rank, "lora_alpha": 2 * self.rank, "target_modules": "all-linear"}

    @property
    def rows(self) -> int:
        return self.seeds * GENERATIONS


@dataclass
class Timing:
    """One step: seconds of sampling and of the update, sampled tokens, peak memory in GiB."""

    sample: float = 0.0
    update: float = 0.0
    tokens: int = 0
    peak: float = 0.0

    @property
    def step(self) -> float:
        return self.sample + self.update


def write(folder: Path, toy: bool) -> None:
    """Write the config of the model; its weights are drawn when the model is built."""
    from transformers import Qwen2Config

    words = tokenizer(Language(0))
    settings = dict(KNOWN["7B"])
    if toy:
        small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        settings |= small | {"num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 1024}
    settings.pop("model_type")
    end = words.convert_tokens_to_ids(words.eos_token)
    Qwen2Config(**settings, eos_token_id=end, pad_token_id=words.pad_token_id).save_pretrained(
        folder
    )


def model(size: Size) -> Any:
    """The model with random weights, on the device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    make: Any = AutoModelForCausalLM.from_config
    torch.manual_seed(0)
    with torch.device(device()):
        return make(AutoConfig.from_pretrained(size.folder), dtype=getattr(torch, size.dtype))


@dataclass(frozen=True)
class Plain:
    """A chat without a template: a prompt is its text, and no token ends a reply."""

    words: Any
    pad_id: int = 0
    stop_ids: frozenset[int] = frozenset()
    context: int = 2**40
    opened: str = ""
    completion = Chat.completion

    def prompts(self, observations: Sequence[tuple[Message, ...]]) -> list[tuple[int, ...]]:
        encoded = self.words(
            [messages[0].content for messages in observations], add_special_tokens=False
        )
        return [tuple(ids) for ids in encoded["input_ids"]]

    def text(self, ids: Sequence[int]) -> str:
        return ""


def prompts(size: Size) -> list[str]:
    """Random texts of `size.prompt` tokens; every word is one token."""
    words = [word for word in Language(0).words if word.isalpha()]
    rng = random.Random("prompts")
    return [" ".join(rng.choices(words, k=size.prompt)) for _ in range(size.seeds)]


def ours(size: Size, steps: int) -> Timing:
    """The last of `steps` steps of sparring, with both roles and the reference in memory."""
    own = adapters(model(size), dict.fromkeys(Player, size.lora), torch_seed=0)
    learns = own[Player.DEFENDER]
    recompute(learns.model)
    chat: Any = Plain(tokenizer(Language(0)))
    sampling = Sampling(1.0, size.completion, batch_tokens=10**9)
    policy = LocalPolicy(learns, chat, sampling)
    config = GrpoConfig(
        beta=BETA,
        max_completion_length=size.completion,
        micro_batch_tokens=GENERATIONS * (size.prompt + size.completion),
    )
    rivals = Optimizer(own[Player.ATTACKER], LearningRate(RATE))
    optimizer = Optimizer(learns, LearningRate(RATE))
    learner = Grpo(optimizer, chat.pad_id, config, learns.snapshot())
    requests = [
        Request((Message("user", text),), tuple(f"{i}/{k}" for k in range(GENERATIONS)))
        for i, text in enumerate(prompts(size))
    ]
    observations = [request.observation for request in requests]
    assert {*map(len, chat.prompts(observations))} == {size.prompt}
    timing = Timing()
    for _ in range(steps):
        started = settled()
        completions = [completion for group in policy.sample(requests) for completion in group]
        sampled = settled()
        learner.update([paid(i, completion) for i, completion in enumerate(completions)])
        done = settled()
        tokens = sum(len(completion.token_ids) for completion in completions)
        timing = Timing(sampled - started, done - sampled, tokens, peak())
    assert rivals.steps == 0
    return timing


def paid(number: int, completion: Completion) -> Sample:
    """A sample whose advantage differs from its siblings', so that its group has a gradient."""
    return Sample(Player.DEFENDER, completion, (number % GENERATIONS - 3.5) / 2.3)


def theirs(size: Size, steps: int) -> Timing:
    """The last of `steps` steps of TRL's trainer, set up as its documentation advises for LoRA."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    words = tokenizer(Language(0))
    words.padding_side, words.chat_template = "left", None
    timing, clock = Timing(), {"begun": 0.0, "sampled": 0.0}

    def reward(completion_ids: Any, prompts: Any, **_: Any) -> list[float]:
        clock["sampled"] = settled()
        assert {len(words(text)["input_ids"]) for text in prompts} == {size.prompt}
        timing.tokens = sum(map(len, completion_ids))
        return [float(number % GENERATIONS) for number in range(len(completion_ids))]

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock["begun"] = settled()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            timing.update, timing.peak = settled() - clock["sampled"], peak()
            timing.sample = clock["sampled"] - clock["begun"]

    args = GRPOConfig(
        output_dir=str(size.folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=GENERATIONS,
        gradient_accumulation_steps=size.seeds,
        num_generations=GENERATIONS,
        max_completion_length=size.completion,
        generation_kwargs={"min_new_tokens": size.completion},
        beta=BETA,
        learning_rate=RATE,
        gradient_checkpointing=True,
        bf16=size.dtype == "bfloat16",
        use_cpu=device() == "cpu",
        **QUIET,
    )
    trainer = GRPOTrainer(
        model=model(size),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts(size)}),
        processing_class=words,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **size.lora),
        callbacks=[Watch()],
    )
    trainer.train()
    return timing


def floors(size: Size, shape: Shape) -> dict[str, float]:
    """Floating-point operations of an update, and the fewest seconds that sampling could take."""
    context = size.prompt + size.completion
    held = size.rows * (size.prompt + size.completion / 2) * shape.cache
    read = size.completion * (shape.itemsize * shape.multiplied + held)
    return {
        "flops": size.rows * context * update_flops(shape, context, True, 2),
        "useful": size.rows * context * update_flops(shape, context, True, 0),
        "decode": read / bandwidth(size.product),
    }


def table(size: Size, timings: dict[str, Timing], rate: float, floor: dict[str, float]) -> None:
    """Print the rows of the table; the last row is the ratio of the two steps."""
    print("| | TRL | ours |")
    print("|---|---|---|")
    rows: dict[str, Callable[[Timing], str]] = {
        "sampled tokens": lambda s: f"{s.tokens:,}",
        "peak memory, GiB": lambda s: f"{s.peak:.1f}" if s.peak else "not measured on a CPU",
        "sampling, s": lambda s: f"{s.sample:.2f}",
        "sampling, tokens/s": lambda s: f"{s.tokens / s.sample:,.0f}",
        "sampling, share of the bandwidth floor": lambda s: f"{floor['decode'] / s.sample:.1%}",
        "update, s": lambda s: f"{s.update:.2f}",
        "update, tokens/s": lambda s: f"{s.tokens / s.update:,.0f}",
        "update, share of the matrix rate": lambda s: f"{floor['flops'] / s.update / rate:.1%}",
        "the same, without recomputing": lambda s: f"{floor['useful'] / s.update / rate:.1%}",
        "step, s": lambda s: f"{s.step:.2f}",
    }
    for name, cell in rows.items():
        print(f"| {name} | {cell(timings['trl'])} | {cell(timings['ours'])} |")
    print(f"| step, TRL ÷ ours | | **{timings['trl'].step / timings['ours'].step:.2f}×** |")


def main() -> None:
    """Measure the machine, then our step, then TRL's, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="toy size, on a CPU too")
    parser.add_argument("--seeds", type=int, default=0, help="prompts a step (8; toy: 2)")
    parser.add_argument("--steps", type=int, default=2, help="steps a side; the last is reported")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if not arguments.toy and device() == "cpu":
        parser.exit(2, "no CUDA device here; --toy runs the same code at toy size\n")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write(folder, arguments.toy)
        size = Size(folder, "bfloat16", 512, 512, 32, arguments.seeds or 8, 8192)
        if arguments.toy:
            size = Size(folder, "float32", 16, 8, 4, arguments.seeds or 2, 256)
        name = torch.cuda.get_device_name() if device() == "cuda" else platform.machine() + " CPU"
        rate, moved = matrix_rate(size.product, size.dtype), bandwidth(size.product)
        print(
            f"{name}, torch {torch.__version__}: {rate / 1e12:.3f} TFLOP/s in {size.dtype}, ",
            end="",
        )
        print(f"{moved / 1e9:.1f} GB/s; {size.rows} x ({size.prompt} + {size.completion}) tokens\n")
        floor = floors(size, shape_of(str(folder), size.dtype, size.lora))
        timings: dict[str, Timing] = {}
        for side, run in (("ours", ours), ("trl", theirs)):
            forget()
            timings[side] = run(size, arguments.steps)
        table(size, timings, rate, floor)


if __name__ == "__main__":
    main()
