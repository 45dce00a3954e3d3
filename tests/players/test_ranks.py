"""Two processes play one run: the same games, the same loss, one set of records."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tests.command import Ended, sparring_command
from tests.short_run import ENVIRONMENT, arguments, rounds, train, whole
from torch.distributed import TCPStore

SSP = ("recipe=ssp", "exam.crossplay=2", "learner.beta=0.05")


def on_two(how, *words):
    """Launch a program on two processes, as accelerate's documentation says."""
    launch = ["accelerate.commands.launch", *how, "--num_processes", "2"]
    quiet = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return subprocess.run(
        [sys.executable, "-m", *launch, *quiet, *words],
        env=os.environ | ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def launched(folder, *overrides, how=("--multi_gpu",)):
    """The short run on two processes."""
    return on_two(how, "-m", "sparring", *arguments(folder, *overrides))


def weights(folder):
    newest = max((folder / "checkpoints").glob("round_*"))
    tensors = load_file(next((newest / "defender").glob("*model.safetensors")))
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def assert_same(folder, other):
    """The same games; numbers to rounding.

    AdamW moves a weight whose gradient is nothing but rounding by a whole learning rate, so a few
    in ten thousand may differ by more.
    """
    for record, expected in zip(rounds(folder), rounds(other), strict=True):
        metrics, others = record["metrics"], expected["metrics"]
        assert metrics == pytest.approx(others, rel=2e-4, abs=1e-5)
        for name in ("episodes", "attacker/reward", "defender/reward", "asr"):
            assert metrics.get(name) == others.get(name)
    difference = (weights(folder) - weights(other)).abs()
    assert (difference < 1e-6).float().mean() > 0.995
    assert difference.mean() < 1e-6


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_two_processes_play_what_one_plays_record_it_once_and_one_goes_on(tmp_path):
    folder = tmp_path / "run"
    begun = launched(folder, "--max-rounds", "2", *SSP)
    assert begun.returncode == 0, begun.stderr[-3000:]
    assert begun.stdout.count("sparring train ssp") == 1
    assert json.loads((folder / "run.json").read_bytes())["status"] == "stopped"
    assert [record["round"] for record in rounds(folder)] == [0, 1]
    train(folder, *SSP).check()
    assert_same(folder, whole(*SSP))
    assert files(folder) == files(whole(*SSP))


def test_a_mistake_that_every_process_makes_is_printed_once(tmp_path):
    result = launched(tmp_path / "run", "rounds=many")
    assert result.stderr.count("rounds: Input should be a valid integer") == 1
    assert "exitcode  : 2" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def launcher(monkeypatch):
    """The environment that torchrun and accelerate set for their two processes."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", f"{store.port}")
    return store


@pytest.fixture
def as_rank(monkeypatch):
    """Run `sparring …` as one of the processes."""

    def call(rank, *words):
        monkeypatch.setenv("RANK", f"{rank}")
        return sparring_command(*words)

    return call


def test_an_error_that_only_another_process_than_the_first_meets_is_printed_too(launcher, as_rank):
    second = as_rank(1, "train", "magik")
    assert (second.code, "no recipe 'magik'" in second.err) == (2, True)
    assert as_rank(0, "train", "magik") == Ended(2, "", ""), "it was printed"
    first = as_rank(0, "train", "none.yaml")
    assert "none.yaml: no such file" in first.err, "another message is not the same one"


def test_a_process_that_cannot_ask_what_was_printed_prints_it(monkeypatch, launcher, as_rank):
    monkeypatch.delenv("MASTER_PORT")
    for rank in (0, 1):
        assert "no recipe 'magik'" in as_rank(rank, "train", "magik").err
