"""Layers held in shares: the same completions, the same gradients, half of the bytes on each of
two processes, and the run of one process that holds them whole."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.close import assert_close_sums
from tests.players.test_ranks import assert_same, files, launched, on_two
from tests.short_run import ADAPTERS, train

from sparring.players.ranks import ALONE, Ranks, sharding_requested
from sparring.runs.models import trainers
from sparring.runs.recipes import configured
from sparring.types import UsageError

FSDP = ("--use_fsdp", "--fsdp_version", "2")
PAST = ("memory.league.share=0.6", "memory.league.keep_every=1", "exam.crossplay=2")
RUN = (*ADAPTERS, *PAST, "learner.beta=0.05")
"""Adapters, their past selves, and a reference that is held in their place."""
every_base = pytest.mark.parametrize("base", ["plain", "recomputed"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The numbers of each of two processes."""
    folder = tmp_path_factory.mktemp("shares")
    ended = on_two(FSDP, Path(__file__).with_name("one_of_two.py"), folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_bytes()) for rank in range(2)]


@every_base
def test_each_process_holds_half_of_the_frozen_layers_and_all_that_trains(results, base):
    shares = [result[base]["bytes"][0] for result in results]
    whole = results[0][base]["bytes"][1]
    assert sum(shares) == whole
    assert shares[0] / whole == pytest.approx(0.5, abs=0.01)
    assert not any(results[0][base]["trained"])


@every_base
@pytest.mark.parametrize("requests", ["all requests", "one request"])
def test_completions_are_the_same_however_many_steps_each_process_decodes(results, base, requests):
    for result in results:
        shared, alone = result[base][requests]
        assert [ids for ids, _ in shared] == [ids for ids, _ in alone]
        assert_close_sums(*([p for _, logps in rows for p in logps] for rows in (shared, alone)))


@every_base
@pytest.mark.parametrize("step", range(4), ids=["five rows", "one row", "GRPO", "one group"])
def test_gradients_add_up_to_those_of_one_process(results, base, step):
    for result in results:
        shared, alone = (metrics[step] for metrics in result[base]["metrics"])
        assert_close_sums(shared, alone, scale=1.0)
        assert any(value > 0.1 for name, value in shared.items() if "grad_norm" in name)


def test_two_processes_with_shares_go_on_where_one_stopped_and_play_what_it_plays(tmp_path):
    begun = tmp_path / "begun"
    train(begun, "--max-rounds", "1", *RUN).check()
    both = shutil.copytree(begun, tmp_path / "both")
    train(begun, *RUN).check()
    ended = launched(both, *RUN, how=FSDP)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert_same(both, begun)
    assert files(both) == files(begun)
    moments = [max(f.glob("checkpoints/*/optimizer.safetensors")) for f in (both, begun)]
    shared, alone = ({n: t.shape for n, t in load_file(path).items()} for path in moments)
    assert shared == alone
    exams = [next((f / "exams").glob("crossplay/*.json")).read_bytes() for f in (both, begun)]
    assert json.loads(exams[0]) == json.loads(exams[1])


@pytest.fixture
def accelerate_says_shard(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")


@pytest.mark.usefixtures("accelerate_says_shard")
def test_nothing_is_sharded_in_one_process_or_unless_accelerate_says_so(monkeypatch):
    assert sharding_requested(Ranks(0, 2))
    assert not sharding_requested(ALONE)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    assert not sharding_requested(Ranks(0, 2))


@pytest.mark.usefixtures("accelerate_says_shard")
@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("FSDP_VERSION", "1", "--fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "more processes"),
        ("FSDP_RESHARD_AFTER_FORWARD", "false", "--multi_gpu"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "gradient_checkpointing=true"),
    ],
)
def test_settings_of_accelerate_that_do_not_work_are_refused_with_a_way_out(
    monkeypatch, name, value, hint
):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=hint):
        sharding_requested(Ranks(0, 2))


@pytest.mark.usefixtures("accelerate_says_shard")
@pytest.mark.parametrize("weights", ["separate", "shared"])
def test_full_weights_are_refused_with_a_way_out(weights):
    config = configured("magic", [f"weights={weights}"])
    with pytest.raises(UsageError, match="weights=adapters, or launch with --multi_gpu"):
        trainers(config, Ranks(0, 2), {})
