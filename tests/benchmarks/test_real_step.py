"""The benchmark on a real chat model runs on a tiny one, and both sides do as much."""

import importlib
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tests.tiny import LLAMA3, save_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DONE = [
    # 2 seeds x 8 completions of 6 tokens, and as many replies or one attack on each
    ("attacker", "{'sampled': 192, 'trained': 96}"),
    ("defender", "{'sampled': 108, 'trained': 96}"),
    ("warm-up", "{'demonstrations': 2}"),
    ("groups", "{'sampled': 96}"),
    ("groups", "{'sampled': 96}"),
    ("single", "{'sampled': 96}"),
    ("single", "{'sampled': 96}"),
]


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmark, whose two sides run in this process: each would load every library anew."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    module, threads = importlib.import_module("real_step"), torch.get_num_threads()
    monkeypatch.setattr(module, "apart", module.run)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["real_step.py", *words])
        module.main()

    with warnings.catch_warnings():
        yield run
    torch.set_num_threads(threads)


def test_both_sides_do_the_same_work_and_their_ratios_come_last(tmp_path, capsys, benchmark):
    model = save_model(tmp_path / "model", LLAMA3)
    sizes = ["--pairs", "1", "--seeds", "2", "--length", "6", "--batch", "2"]
    benchmark("--model", str(model), "--dtype", "float32", *sizes)
    pairs, _, table = capsys.readouterr().out.partition("\n\n")
    assert re.findall(r"^(\S+), .*(\{.*\})$", pairs, re.MULTILINE) == DONE
    for line in table.splitlines()[2:]:
        _, _, theirs, ours, *_, ratio = line.strip("| ").split(" | ")
        assert float(theirs) > 0
        assert float(ours) > 0
        assert re.fullmatch(r"\*\*[0-9.]+×\*\*", ratio)


def test_without_a_model_it_says_which_folder_to_give(benchmark, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark()
    assert stopped.value.code == 2
    assert "--model" in capsys.readouterr().err
