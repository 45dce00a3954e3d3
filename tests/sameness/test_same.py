"""The same command gives the same bits, uninterrupted or resumed."""

import json
import os
import signal
import subprocess
import sys

import pytest
from tests import short_run
from tests.short_run import ADAPTERS, At, Each, arguments, contents, leftovers, outcome

SPARSE = ("saving.checkpoint_every=2", "exam.crossplay=3")
"""So that an interruption leaves a checkpoint that the whole run does not have."""


def test_two_processes_with_different_hash_seeds_give_the_same_bits(tmp_path):
    """One process is a new interpreter with hash seed 1, the other is forked and has 2."""
    run = tmp_path / "run"
    command = [sys.executable, "-c", "from sparring.cli import main; main()", *arguments(run)]
    environment = {**os.environ, **short_run.ENVIRONMENT, "PYTHONHASHSEED": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    assert outcome(run) == outcome(short_run.whole())


def test_an_adapter_names_its_layers_in_one_order_whatever_the_hash_seed():
    """PEFT holds them in a set, and would write them in that set's order."""
    adapter = short_run.whole(*ADAPTERS) / "checkpoints" / "round_000004" / "defender"
    layers = json.loads((adapter / "adapter_config.json").read_bytes())["target_modules"]
    assert len(layers) > 5
    assert layers == sorted(layers)


def test_another_seed_gives_other_seeds_attacks_and_weights(tmp_path):
    run = tmp_path / "run"
    short_run.train(run, "seed=43").check()
    files, whole = outcome(run), outcome(short_run.whole())
    players = ("attacker", "defender")
    weights = [f"checkpoints/round_000004/{player}/model.safetensors" for player in players]
    differing = {name for name in whole if files[name] != whole[name]}
    assert differing >= {*weights, "rounds", "transcripts/round_000001.jsonl.gz"}


def test_a_run_in_two_commands_is_the_whole_run(tmp_path):
    run = tmp_path / "run"
    first = short_run.train(run, *SPARSE, "--max-rounds=3").check()
    assert "round 3/4" in first.out
    assert "round 4/4" not in first.out
    assert len(short_run.rounds(run)) == 3
    second = short_run.train(run, *SPARSE).check()
    assert "round 3/4" not in second.out, "the third round was played twice"
    assert outcome(run) == outcome(short_run.whole(*SPARSE))


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_round_and_the_resumed_run_is_the_whole_run(tmp_path, sent, code):
    run = tmp_path / "run"
    ended = short_run.train(run, *SPARSE, before=At(run, r"open rounds.jsonl", 1, sent))
    assert ended.code == code, ended
    assert "--resume goes on" in ended.err
    assert "Traceback" not in ended.err
    assert len(short_run.rounds(run)) == 1
    assert (run / "checkpoints" / "round_000001").is_dir()
    assert json.loads((run / "run.json").read_bytes())["status"] == "interrupted"
    short_run.train(run, *SPARSE).check()
    assert json.loads((run / "run.json").read_bytes())["status"] == "complete"
    assert outcome(run) == outcome(short_run.whole(*SPARSE))


def test_a_second_sigint_aborts_at_once_and_the_resumed_run_is_the_whole_run(tmp_path):
    run = tmp_path / "run"
    operations = (r"open rounds.jsonl", r"mkdir checkpoints/round_000001.tmp/defender")
    twice = Each(tuple(At(run, operation, 1, signal.SIGINT) for operation in operations))
    ended = short_run.train(run, before=twice)
    assert ended.code == 130, ended
    assert not (run / "checkpoints" / "round_000001").exists()
    short_run.train(run).check()
    assert outcome(run) == outcome(short_run.whole())
    assert leftovers(run) == []


def test_a_complete_run_is_resumed_without_a_change_and_never_with_other_settings(tmp_path):
    run = short_run.copy_of_whole(tmp_path)
    before = contents(run)
    ended = short_run.train(run).check()
    assert "round 4/4" not in ended.out
    ended = short_run.train(run, "seed=43", "learner.beta=0.05")
    assert ended.code == 2
    assert "seed: 2 → 43" in ended.err
    assert "learner.beta: 0.0 → 0.05" in ended.err
    assert contents(run) == before
