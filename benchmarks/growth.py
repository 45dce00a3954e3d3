"""How the cost of a step grows with its tokens, its seeds, and the rounds played before it.

    OMP_NUM_THREADS=1 python benchmarks/growth.py

The game and the model are those of `two_roles`: 8 attacks a seed, a reply to each, one update. For
tokens and seeds, CPU seconds are the median of three steps after a first step that is dropped, and
`per token` is the cost of a sampled token relative to the first line. For rounds, a toy (2 seeds,
8 tokens, a model of width 32) plays 2,000 rounds and records them; memory and open files are read
every 500 rounds, and the time of a round is the mean over those 500.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from two_roles import GENERATIONS, Task, rounds, save, texts  # noqa: E402

from sparring.store.folder import RunDir  # noqa: E402


def held() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def step(folder: Path, prompt: int, length: int, seeds: int) -> float:
    """CPU seconds of a step, the median of three after a first one that is dropped."""
    playing = rounds(folder, texts(folder, prompt, seeds), Task(length=length))
    next(playing)
    seconds = []
    for _ in range(3):
        started = time.process_time()
        next(playing)
        seconds.append(time.process_time() - started)
    return median(seconds)


def against(folder: Path, title: str, sizes: Sequence[tuple[int, int, int]]) -> None:
    """Print a table of steps; a size is (prompt tokens, completion tokens, seeds)."""
    print(f"\n| {title} | CPU seconds | per token |\n|---|---|---|")
    first = 0.0
    for size in sizes:
        prompt, length, seeds = size
        spent = step(folder, *size)
        each = spent / (seeds * GENERATIONS * 2 * length)
        first = first or each
        print(f"| {prompt}, {length}, {seeds} | {spent:.2f} | {each / first:.2f} |", flush=True)


def over_rounds(folder: Path, total: int) -> None:
    """Print memory, open files and time a round, four times in `total` rounds."""
    playing = rounds(folder, texts(folder, 20, 2), Task(length=8))
    run = RunDir.create(folder / "run", "")
    print("\n| rounds | MiB held | open files | CPU ms a round |\n|---|---|---|---|")
    started = time.process_time()
    each = max(1, total // 4)
    for number in range(1, total + 1):
        run.append(next(playing))
        if number % each == 0:
            spent = (time.process_time() - started) / each * 1000
            files = len(os.listdir("/proc/self/fd"))
            print(f"| {number} | {held():.1f} | {files} | {spent:.1f} |", flush=True)
            started = time.process_time()


def main() -> None:
    """Print the tables for tokens, seeds and rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2000)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        large, toy = (save(Path(made) / name, wide) for name, wide in (("l", 192), ("s", 32)))
        sizes = [(20, length, 8) for length in (24, 48, 96, 192)]
        against(large, "completion tokens grow (prompt, completion, seeds)", sizes)
        sizes = [(prompt, 48, 8) for prompt in (20, 80, 320)]
        against(large, "prompt tokens grow (prompt, completion, seeds)", sizes)
        sizes = [(20, 48, seeds) for seeds in (4, 8, 16, 32)]
        against(large, "seeds grow (prompt, completion, seeds)", sizes)
        over_rounds(toy, arguments.rounds)


if __name__ == "__main__":
    main()
