"""The results of the short runs: digests by processor and libraries, and figures for all others.

Record them again, on this machine, after a change that is meant to change numbers:

    python -m tests.golden.record_digests

The digests of other machines are dropped then, because they are of the old code. To add this
machine's digests to figures that still hold:

    python -m tests.golden.record_digests --add
"""

import hashlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests import short_run

FILE = Path(__file__).with_name("digests.json")
RUNS = {
    "league and pool": short_run.RECALLING["magic"],
    "adapters": short_run.ADAPTERS,
    "one model": short_run.RECALLING["ssp"],
}
LIBRARIES = ("torch", "transformers", "peft")


def machine() -> str:
    """What the bits depend on besides the code: processor, kernels and libraries."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    pairs = [line.partition(":") for line in lines if line.strip()]
    about = {name.strip(): value.strip() for name, _, value in reversed(pairs)}
    kinds = [about.get(name, "?") for name in ("model name", "cpu family", "model")]
    libraries = [f"{name} {version(name).partition('+')[0]}" for name in LIBRARIES]
    kernels = [torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")]
    return ", ".join(filter(None, [*kinds, *kernels, *libraries]))


def tensors(run: Path, moments: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of the last checkpoint, weights or moments, by file and name."""
    last = max((run / "checkpoints").glob("round_*"))
    paths = [p for p in last.rglob("*.safetensors") if ("optimizer" in p.name) == moments]
    return {
        f"{path.relative_to(last).parent}/{name}": tensor
        for path in sorted(paths)
        for name, tensor in sorted(load_file(path).items())
    }


def digests(run: Path) -> dict[str, str]:
    """sha256 digests of the weights, of the moments, and of the rounds without clocks."""
    rounds = json.dumps(short_run.rounds(run), sort_keys=True)
    hashes = {"rounds": hashlib.sha256(rounds.encode()).hexdigest()}
    for name, moments in (("weights", False), ("moments", True)):
        digest = hashlib.sha256()
        for key, tensor in tensors(run, moments).items():
            digest.update(f"{key} {tensor.dtype} {[*tensor.shape]}".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        hashes[name] = digest.hexdigest()
    return hashes


def figures(run: Path) -> dict[str, Any]:
    """Figures for other machines: the metrics of the rounds, and the L2 norm of each tensor."""
    metrics = [record["metrics"] for record in short_run.rounds(run)]
    norms = {name: float(tensor.double().norm()) for name, tensor in tensors(run).items()}
    return {"metrics": metrics, "norms": norms}


def main(add: bool) -> None:
    """Play the runs and write the file."""
    before = json.loads(FILE.read_text()) if add else {}
    after = {}
    for name, settings in RUNS.items():
        run = short_run.whole(*settings)
        old = before.get(name, {"digests": {}, **figures(run)})
        after[name] = {**old, "digests": {**old["digests"], machine(): digests(run)}}
    FILE.write_text(json.dumps(after, indent=1) + "\n")


if __name__ == "__main__":
    main("--add" in sys.argv[1:])
