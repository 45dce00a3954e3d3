"""Layers held in shares: the same words, the same gradients, half of the bytes on each of two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.close import assert_close_sums
from tests.short_run import ENVIRONMENT

from sparring.players.ranks import ALONE, Ranks, sharding_requested
from sparring.types import UsageError

PROCESS = Path(__file__).with_name("one_of_two.py")
LAUNCH = ("--use_fsdp", "--fsdp_version", "2", "--num_processes", "2", "--num_machines", "1")
QUIET = ("--mixed_precision", "no", "--dynamo_backend", "no")
every_base = pytest.mark.parametrize("base", ["kept", "recomputed"])


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("shares")
    launch = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, *QUIET]
    ended = subprocess.run(
        [*launch, PROCESS, folder],
        env=os.environ | ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_bytes()) for rank in range(2)]


@every_base
def test_each_process_holds_half_of_the_frozen_layers_and_all_that_trains(told, base):
    shares = [one[base]["bytes"][0] for one in told]
    whole = told[0][base]["bytes"][1]
    assert sum(shares) == whole
    assert shares[0] / whole == pytest.approx(0.5, abs=0.01)
    assert not any(told[0][base]["trained"])


@every_base
@pytest.mark.parametrize("asked", ["said", "said by one"])
def test_the_same_is_said_however_many_steps_each_process_decodes(told, base, asked):
    for one in told:
        shared, alone = one[base][asked]
        assert [[ids for ids, _ in r] for r in shared] == [[ids for ids, _ in r] for r in alone]
        assert_close_sums(
            *([logp for r in said for _, told in r for logp in told] for said in (shared, alone))
        )


@every_base
@pytest.mark.parametrize("step", range(4), ids=["five rows", "one row", "GRPO", "one group"])
def test_gradients_add_up_to_those_of_one_process(told, base, step):
    for one in told:
        shared, alone = (metrics[step] for metrics in one[base]["metrics"])
        assert_close_sums(shared, alone, scale=1.0)
        assert any(value > 0.1 for name, value in shared.items() if "grad_norm" in name)


TWO = Ranks(0, 2)


def test_nothing_is_sharded_unless_accelerate_says_so_and_there_are_others(monkeypatch):
    assert not sharding_requested(TWO)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert sharding_requested(TWO)
    assert not sharding_requested(ALONE)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("FSDP_VERSION", "1", "--fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "more processes"),
        ("FSDP_RESHARD_AFTER_FORWARD", "false", "--multi_gpu"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "gradient_checkpointing=true"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_to_do_instead(monkeypatch, name, value, hint):
    told = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", name: value}
    for key, said in told.items():
        monkeypatch.setenv(key, said)
    with pytest.raises(UsageError, match=hint):
        sharding_requested(TWO)
