"""How much faster two processes of one thread play a step than one: `accelerate launch` on gloo.

    python benchmarks/two_processes.py          # needs two idle cores

The game of `two_roles` with 16 seeds and a Llama of 21 M parameters, prompts of 20 tokens: 128
attacks of 48 tokens, a reply to each, one update. One process and two take turns, `--times` each;
a turn is a process group of its own, its throughput the median of three steps after one (wall
seconds of rank 0). Both say their loss, which must agree to 1e-6.
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
    """What every process does; rank 0 prints tokens a second and its last loss."""
    import torch

    torch.set_num_threads(1)
    ranks = launched()
    playing = rounds(folder, texts(folder, 20, SEEDS), Task(), ranks)
    told = next(playing)
    spent = []
    for _ in range(STEPS):
        ranks.gather(None)
        started = time.perf_counter()
        told = next(playing)
        spent.append(time.perf_counter() - started)
    if ranks.index == 0:
        tokens = counted(told)
        loss = told.metrics["attacker/loss"]
        print(json.dumps({"rate": tokens["sampled"] / median(spent), "loss": loss}))


def asked(folder: Path, processes: int) -> dict[str, float]:
    """The outcome of a turn of so many processes."""
    launch = [*LAUNCH, *QUIET] if processes > 1 else []
    module = ["-m", *launch] if launch else []
    done = subprocess.run(
        [sys.executable, *module, __file__, "--folder", str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    """Take turns and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="turns of each")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.folder:
        turn(said.folder)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = save(Path(made), hidden=HIDDEN)
        told = {processes: [] for processes in (1, 2)}
        for _ in range(said.times):
            for processes, seen in told.items():
                seen.append(asked(folder, processes))
    one, two = (median(t["rate"] for t in seen) for seen in told.values())
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(told[1], told[2], strict=True))
    print("| one process, tokens/s | two processes, tokens/s | loss differs by | ratio |")
    print("|---|---|---|---|")
    print(f"| {one:.0f} | {two:.0f} | {apart:.1e} | **{two / one:.2f}×** |")


if __name__ == "__main__":
    main()
