"""The speed of a step in two processes against one, under `accelerate launch` with gloo.

    python benchmarks/two_processes.py          # needs two idle cores

The game is that of `two_roles` with 16 seeds, a Llama of 21 M parameters and prompts of 20 tokens:
128 attacks of 48 tokens, a reply to each, one update. Every process has one thread. One process and
two take turns, `--times` each. A turn starts a process group of its own; its throughput is the
median of three steps after a first step that is dropped (wall seconds of rank 0). The losses of
both must agree to 1e-6.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from two_roles import Task, counted, rounds, save, texts  # noqa: E402

from sparring.players.ranks import launched  # noqa: E402

HIDDEN, SEEDS, STEPS = 704, 16, 3
LAUNCH = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines")
QUIET = ("1", "--mixed_precision", "no", "--dynamo_backend", "no")


def turn(folder: Path) -> None:
    """Play the steps of a turn in this process; rank 0 prints tokens a second and the last loss."""
    import torch

    torch.set_num_threads(1)
    ranks = launched(600)
    playing = rounds(folder, texts(folder, 20, SEEDS), Task(), ranks)
    round_ = next(playing)
    spent = []
    for _ in range(STEPS):
        ranks.gather(None)
        started = time.perf_counter()
        round_ = next(playing)
        spent.append(time.perf_counter() - started)
    if ranks.index == 0:
        tokens = counted(round_)
        loss = round_.metrics["attacker/loss"]
        print(json.dumps({"rate": tokens["sampled"] / median(spent), "loss": loss}))


def play_turn(folder: Path, processes: int) -> dict[str, float]:
    """The rate and loss of a turn of that many processes."""
    launch = [*LAUNCH, *QUIET] if processes > 1 else []
    module = ["-m", *launch] if launch else []
    done = subprocess.run(
        [sys.executable, *module, __file__, "--folder", str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    outcome: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def main() -> None:
    """Let one process and two take turns, and print the ratio of their rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="turns of each")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        turn(arguments.folder)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = save(Path(made), hidden=HIDDEN)
        outcomes = {processes: [] for processes in (1, 2)}
        for _ in range(arguments.times):
            for processes, results in outcomes.items():
                results.append(play_turn(folder, processes))
    single, double = (median(t["rate"] for t in results) for results in outcomes.values())
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(outcomes[1], outcomes[2], strict=True))
    print("| one process, tokens/s | two processes, tokens/s | loss differs by | ratio |")
    print("|---|---|---|---|")
    print(f"| {single:.0f} | {double:.0f} | {apart:.1e} | **{double / single:.2f}×** |")


if __name__ == "__main__":
    main()
