"""The GPU benchmark runs at toy size on a CPU, and both of its sides on as many tokens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*words):
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, ROOT / "benchmarks" / "gpu_step.py", *words]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=300
    )


def test_both_sides_run_at_toy_size_on_as_many_tokens():
    result = run("--toy")
    assert result.returncode == 0, result.stderr
    rows = dict(re.findall(r"^\| (.+?) \|(.*)\|$", result.stdout, re.M))
    assert rows["sampled tokens"].split("|") == [" 128 ", " 128 "]  # 2 prompts x 8 x 8 tokens
    for name in ("sampling, tokens/s", "update, share of the matrix rate", "step, s"):
        theirs, ours = (float(cell.strip(" %").replace(",", "")) for cell in rows[name].split("|"))
        assert theirs > 0
        assert ours > 0
    assert re.search(r"\*\*[0-9.]+×\*\*", rows["step, TRL ÷ ours"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_whole_size_is_refused():
    result = run()
    assert result.returncode == 2
    assert "--toy" in result.stderr
