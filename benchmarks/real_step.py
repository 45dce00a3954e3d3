"""A round, a warm-up step and decoding on a real chat model, by sparring and by TRL in turn.

    scripts/real --quick                                          # makes the model, once
    python benchmarks/real_step.py --model runs/real-quick/model

What is measured, and beside what; both sides have the same model, adapters (of scripts/real.yaml),
prompts, numbers of tokens and rows in a batch:

- attacker, defender: a round of MAGIC in which that player learns, beside TRL's GRPOTrainer. The
  attacker gets its instruction and a seed, the defender the attack; the learner writes 8
  completions, its opponent, which has an adapter too, one. A number that the texts alone decide is
  the reward. TRL calls the opponent by `generate`, after the attacks as a reward or before the
  replies, and takes 8 completions in a micro-batch, as ours does. It checkpoints no gradients.
- warm-up: a step of imitation of a pool's demonstrations beside TRL's SFTTrainer.
- groups, single: decoding 8 completions of every prompt, or one of 8 times as many prompts, beside
  `generate` with the same adapter.

No token ends a completion, on either side, so all are `--length` tokens long. Every side runs in a
process of its own with one thread; sides take turns. CPU seconds are the median of its `--steps`,
without the first where there are several; memory is its peak with all libraries; a ratio is the
peer's ÷ ours, the median of `--pairs`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from machine import resident  # noqa: E402
from peer import QUIET  # noqa: E402
from step_vs_trl import Timings, timed, watched  # noqa: E402
from two_roles import GENERATIONS, RATE, Pair, pays, playing, trainers_of  # noqa: E402

from sparring.data.pools import read_pool  # noqa: E402
from sparring.data.readers import read  # noqa: E402
from sparring.players.chat import Chat  # noqa: E402
from sparring.players.grpo import GrpoConfig  # noqa: E402
from sparring.players.loading import load_adapter, load_model, load_tokenizer, quicker_dtype  # noqa: E402
from sparring.players.local import LocalPolicy  # noqa: E402
from sparring.players.player import Request, Sampling  # noqa: E402
from sparring.players.weights import Weights, adapters  # noqa: E402
from sparring.runs.sources import packaged_briefs  # noqa: E402
from sparring.types import Observation, Player, Round, Seed  # noqa: E402

REAL = yaml.safe_load((ROOT / "scripts" / "real.yaml").read_text())
LORA = REAL["defender"]["lora"] | {"target_modules": "all-linear"}
NEVER = -1
"""The end of a completion, in transformers' settings: a token that no model has."""


@dataclass(frozen=True)
class Work:
    """What one process does: `job` by `side`, on `seeds` prompts, in completions of `length`."""

    job: str
    side: str
    model: str
    dtype: str
    pool: str
    adapter: str
    seeds: int
    length: int
    batch: int
    steps: int

    @property
    def learns(self) -> Player:
        """Who learns in the round that is measured."""
        return Player(self.job)

    def drawn(self) -> list[Seed]:
        """Seeds that ship with sparring, half of them harmful."""
        rng, every = random.Random(0), read("own:train").seeds
        sides = [[s for s in every if s.harmful is harmful] for harmful in (True, False)]
        return [rng.choice(sides[place % 2]) for place in range(self.seeds)]

    def asked(self, seeds: Sequence[Seed]) -> list[Observation]:
        """What the attacker sees of every seed."""
        game = Pair(briefs=packaged_briefs())
        return [game.observe(game.open(seed)) for seed in seeds]


class Endless(Chat):
    """A chat in which no token ends a completion."""

    stop_ids = frozenset()


def play(work: Work, timings: Timings) -> None:
    """Rounds by sparring."""
    own = adapters(load_model(work.model, work.dtype), dict.fromkeys(Player, LORA), torch_seed=0)
    sampling = Sampling(1.0, work.length, REAL["sampling"]["batch_tokens"])
    narrow = work.dtype == "bfloat16"
    config = GrpoConfig(
        beta=REAL["learner"]["beta"],
        max_completion_length=work.length,
        micro_batch_tokens=REAL["learner"]["optimizer"]["micro_batch_tokens"],
        ratio_limit=2.0 if narrow else None,
    )
    trainers = trainers_of(own, Endless(load_tokenizer(work.model)), sampling, config)
    rounds = playing(trainers, Pair(briefs=packaged_briefs()), work.drawn(), work.learns)
    for _ in range(work.steps):
        with timed(timings):
            round_ = next(rounds)
        timings.tokens = counted(round_, work.learns)


def counted(round_: Round, learns: Player) -> dict[str, int]:
    """Tokens that were sampled, once for siblings that share an attack, and those trained on."""
    moves = [move for episode in round_.episodes for move in episode.state.moves]
    length = {id(m.completion): (m.player, len(m.completion.token_ids)) for m in moves}
    trained = sum(tokens for player, tokens in length.values() if player is learns)
    return {"sampled": sum(tokens for _, tokens in length.values()), "trained": trained}


def chats(observations: Sequence[Observation]) -> list[list[dict[str, str]]]:
    """Observations as transformers' templates take them."""
    return [[asdict(message) for message in messages] for messages in observations]


def words_of(work: Work) -> Any:
    """The tokenizer, as `generate` needs it for a batch."""
    words = load_tokenizer(work.model)
    words.padding_side, words.pad_token = "left", words.pad_token or words.eos_token
    return words


def generated(model: Any, words: Any, asked: Sequence[Any], length: int) -> tuple[list[str], int]:
    """A completion of every chat by transformers' `generate`, and how many tokens they have."""
    import torch

    inputs = words.apply_chat_template(
        asked, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    drawn: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    ends = {"max_new_tokens": length, "eos_token_id": NEVER, "pad_token_id": words.pad_token_id}
    with torch.no_grad():
        ids = model.generate(**inputs, **drawn, **ends)
    new_ids = ids[:, inputs["input_ids"].shape[1] :]
    return words.batch_decode(new_ids, skip_special_tokens=True), new_ids.numel()


def play_by_trl(work: Work, timings: Timings) -> None:
    """Rounds by TRL's GRPOTrainer, whose opponent is a second adapter on its model."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    words = words_of(work)
    attacks_first = work.learns is Player.DEFENDER

    def opponent(asked: Sequence[Any]) -> list[str]:
        trainer.model.set_adapter("opponent")
        texts, tokens = generated(trainer.model, words, asked, work.length)
        trainer.model.set_adapter("default")
        timings.tokens["sampled"] = tokens
        return texts

    class Rounds(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
            if attacks_first:
                attacks = opponent([row["prompt"] for row in inputs[::GENERATIONS]])
                attacked = [[{"role": "user", "content": attack}] for attack in attacks]
                inputs = [
                    row | {"prompt": attacked[place // GENERATIONS]}
                    for place, row in enumerate(inputs)
                ]
            return super()._generate_and_score_completions(inputs)

    def reward(completions: Any, completion_ids: Any, prompts: Any, **_: Any) -> list[float]:
        own = [completion[0]["content"] for completion in completions]
        if attacks_first:
            pairs = zip([prompt[-1]["content"] for prompt in prompts], own, strict=True)
        else:
            replies = opponent([[{"role": "user", "content": attack}] for attack in own])
            pairs = zip(own, replies, strict=True)
        timings.tokens["trained"] = sum(map(len, completion_ids))
        timings.tokens["sampled"] += timings.tokens["trained"]
        return [pays(*pair) for pair in pairs]

    args = GRPOConfig(
        output_dir=str(Path(work.adapter).parent / "trl"),
        max_steps=work.steps,
        per_device_train_batch_size=GENERATIONS,
        gradient_accumulation_steps=work.seeds,
        num_generations=GENERATIONS,
        max_completion_length=work.length,
        generation_kwargs={"eos_token_id": NEVER},
        loss_type="grpo",
        beta=REAL["learner"]["beta"],
        use_bias_correction_kl=False,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        **QUIET,
    )
    lora = LoraConfig(task_type="CAUSAL_LM", **LORA)
    trainer = Rounds(
        model=load_model(work.model, work.dtype),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": chats(work.asked(work.drawn()))}),
        processing_class=words,
        peft_config=lora,
        callbacks=[watched(timings, lambda: None)],
    )
    trainer.eos_token_ids = [NEVER]
    trainer.model.add_adapter("opponent", LoraConfig(task_type="CAUSAL_LM", **LORA))
    trainer.train()


def imitate(work: Work, timings: Timings) -> None:
    """Steps of the warm-up by either side."""
    from warm_up_vs_trl import ours, theirs

    demos = random.Random(0).sample(read_pool(Path(work.pool)), work.batch * work.steps)
    same = work.model, work.dtype, demos, work.batch
    steps = ours(*same) if work.side == "ours" else theirs(*same, lambda: None)
    timings.cpu, losses = map(list, zip(*steps, strict=True))
    timings.tokens, timings.loss = {"demonstrations": work.batch}, losses[0]


def sample(work: Work, timings: Timings) -> None:
    """Decoding with an adapter by either side."""
    many = GENERATIONS if work.job == "groups" else 1
    asked = work.asked(replace(work, seeds=work.seeds * GENERATIONS // many).drawn())
    model = load_adapter(load_model(work.model, work.dtype), work.adapter)
    words = words_of(work)
    requests = [
        Request(observation, tuple(f"{place}/{n}" for n in range(many)))
        for place, observation in enumerate(asked)
    ]
    rows = chats([observation for observation in asked for _ in range(many)])
    policy = LocalPolicy(Weights(model, "default"), Endless(words), Sampling(1.0, work.length))
    for _ in range(work.steps):
        with timed(timings):
            if work.side == "ours":
                groups = policy.sample(requests)
                tokens = sum(len(completion.token_ids) for group in groups for completion in group)
            else:
                _, tokens = generated(model, words, rows, work.length)
        timings.tokens = {"sampled": tokens}


@dataclass(frozen=True)
class Job:
    """A line of the table: what the peer is, the ratio to reach, and how each side does it."""

    peer: str
    target: float
    ours: Callable[[Work, Timings], None]
    theirs: Callable[[Work, Timings], None]
    dtypes: Sequence[str] = ("",)
    """Those it is measured in; the faster one, if not named."""


BOTH = ("float32", "bfloat16")
JOBS: Mapping[str, Job] = {
    "attacker": Job("TRL GRPOTrainer", 2.0, play, play_by_trl),
    "defender": Job("TRL GRPOTrainer", 1.5, play, play_by_trl),
    "warm-up": Job("TRL SFTTrainer", 2.0, imitate, imitate),
    "groups": Job("generate", 1.0, sample, sample, BOTH),
    "single": Job("generate", 1.0, sample, sample, BOTH),
}


def run(work: Work) -> dict[str, Any]:
    """Do the work in this process: CPU seconds, peak memory in GiB, tokens and loss of a step."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    job, timings = JOBS[work.job], Timings()
    (job.ours if work.side == "ours" else job.theirs)(work, timings)
    peak = resident("VmHWM") / 1024
    return {
        "cpu": median(timings.cpu[1:] or timings.cpu),
        "memory": peak,
        "tokens": timings.tokens,
        "loss": timings.loss,
    }


def apart(work: Work) -> dict[str, Any]:
    """`run` in a process of its own."""
    command = [sys.executable, __file__, "--work", json.dumps(asdict(work))]
    own = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    out = subprocess.run(command, env=own, check=False, capture_output=True, text=True)
    if out.returncode:
        sys.exit(f"{work.job} by {work.side} failed\n{out.stderr}")
    result: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    return result


def pairs(work: Work, count: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What both sides needed, `count` times; whoever was second is first in the next pair."""
    for number in range(count):
        order = ("ours", "theirs") if number % 2 else ("theirs", "ours")
        done = {side: apart(replace(work, side=side)) for side in order}
        ours, theirs = done["ours"], done["theirs"]
        assert ours["tokens"] == theirs["tokens"], (ours, theirs)
        assert abs(ours["loss"] - theirs["loss"]) <= 0.02 * theirs["loss"], (ours, theirs)
        yield ours, theirs


def row(name: str, job: Job, measured: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """The line of the table for the pairs of one job."""
    ratios = [theirs["cpu"] / ours["cpu"] for ours, theirs in measured]
    cells = [name, job.peer]
    for key in ("cpu", "memory"):
        for side in (1, 0):
            cells.append(f"{median(pair[side][key] for pair in measured):.2f}")
    return " | ".join([*cells, f"{job.target:g}×", f"**{median(ratios):.2f}×**"])


def prepare(folder: Path, model: str) -> None:
    """An attack pool, and an adapter that says something."""
    import torch
    from peft import LoraConfig, get_peft_model

    made = [sys.executable, "-m", "sparring", "pool", "make", "--seeds", "own:train", "--out"]
    own = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run([*made, folder / "pool.jsonl"], env=own, check=True, stdout=subprocess.DEVNULL)
    torch.manual_seed(0)
    adapted = get_peft_model(load_model(model), LoraConfig(task_type="CAUSAL_LM", **LORA))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.01)
    adapted.save_pretrained(folder / "adapter")


def main() -> None:
    """Measure every job's pairs, and print the table with the ratios last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a chat model")
    parser.add_argument("--jobs", nargs="*", default=[*JOBS], choices=[*JOBS], metavar="JOB")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="of each process")
    parser.add_argument("--seeds", type=int, default=4, help="prompts of 8 completions")
    parser.add_argument("--length", type=int, default=80, help="tokens of a completion")
    parser.add_argument("--batch", type=int, default=16, help="demonstrations of a warm-up step")
    parser.add_argument("--dtype", default="auto", help="of rounds and warm-up; auto: the faster")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(run(Work(**json.loads(options.work)))))
        return
    if not options.model:
        parser.error("--model is missing: a folder, such as runs/real-quick/model")
    dtype = (quicker_dtype() or "float32") if options.dtype == "auto" else options.dtype
    sizes = {name: getattr(options, name) for name in ("seeds", "length", "batch", "steps")}
    lines = []
    with tempfile.TemporaryDirectory() as made:
        prepare(Path(made), options.model)
        files = {"pool": f"{made}/pool.jsonl", "adapter": f"{made}/adapter"}
        for name in options.jobs:
            for each in JOBS[name].dtypes:
                work = Work(name, "", options.model, each or dtype, **files, **sizes)
                measured = []
                for ours, theirs in pairs(work, options.pairs):
                    measured.append((ours, theirs))
                    cpu = f"CPU s {theirs['cpu']:.2f} and {ours['cpu']:.2f}"
                    sizes_ = f"GiB {theirs['memory']:.2f} and {ours['memory']:.2f}"
                    print(f"{name}, {work.dtype}: {cpu}, {sizes_}, {ours['tokens']}", flush=True)
                lines.append(row(f"{name}, {work.dtype}", JOBS[name], measured))
    names = "job | peer | peer, CPU s | ours, CPU s | peer, GiB | ours, GiB | wanted | ratio"
    print(f"\n| {names} |\n|" + "---|" * 8)
    print("\n".join(f"| {line} |" for line in lines))


if __name__ == "__main__":
    main()
