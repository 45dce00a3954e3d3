"""Rates and memory of the machine that a benchmark runs on."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

GIB = 2**30


def device() -> str:
    """The device that everything runs on: "cuda" if there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def settled() -> float:
    """The time in seconds, once all work queued on the device is done."""
    if device() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak() -> float:
    """Peak device memory in GiB since the last `forget`; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / GIB if device() == "cuda" else 0.0


def resident(when: str = "VmRSS") -> float:
    """Resident memory of this process in MiB, now or (`VmHWM`) at its peak.

    `getrusage` would count the peak of its parent, too.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(when))
    return int(line.split()[1]) / 1024


def forget() -> None:
    """Free unused device memory and reset its peak."""
    gc.collect()
    if device() == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def fastest(work: Callable[[], Any], tries: int = 5) -> float:
    """Seconds of the fastest of `tries` calls, after a first call that warms up."""
    work()
    times = []
    for _ in range(tries):
        started = settled()
        work()
        times.append(settled() - started)
    return min(times)


def matrix_rate(rows: int, dtype: str) -> float:
    """Floating-point operations a second in a product of two square matrices of that dtype."""
    a, b = (torch.randn(rows, rows, device=device()) for _ in range(2))
    a, b = a.to(getattr(torch, dtype)), b.to(getattr(torch, dtype))
    return float(2 * rows**3 / fastest(lambda: a @ b))


def bandwidth(rows: int) -> float:
    """Bytes read and written a second while a tensor much larger than any cache is copied."""
    source = torch.zeros(16 * rows**2, dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    return float(2 * source.nbytes / fastest(lambda: target.copy_(source)))
