"""Two processes that hold a base in shares play the run of one process that holds it whole."""

import json
import shutil

import pytest
from tests.players.test_ranks import assert_same, launched
from tests.short_run import ADAPTERS, train

from sparring.players.ranks import Ranks
from sparring.runs.models import trainers
from sparring.runs.recipes import configured
from sparring.types import UsageError

FSDP = ("--use_fsdp", "--fsdp_version", "2")
PAST = ("memory.league.share=0.6", "memory.league.keep_every=1", "exam.crossplay=2")
RUN = (*ADAPTERS, *PAST, "learner.beta=0.05")
"""Adapters, their past selves, and a reference that is held in their place."""


def shared(folder, *more):
    """Go on with two processes."""
    ended = launched(folder, *more, *RUN, how=FSDP)
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_two_processes_with_shares_play_what_one_plays_and_either_goes_on(tmp_path):
    begun = tmp_path / "begun"
    train(begun, "--max-rounds", "1", *RUN).check()
    both = shutil.copytree(begun, tmp_path / "both")
    train(begun, *RUN).check()
    shared(both, "--max-rounds", "3")
    assert json.loads((both / "run.json").read_bytes())["status"] == "stopped"
    alone = shutil.copytree(both, tmp_path / "alone")
    train(alone, *RUN).check()
    assert_same(alone, begun)
    shared(both)
    assert_same(both, begun)
    exams = [
        json.loads(next((f / "exams").glob("crossplay/*.json")).read_bytes()) for f in (both, begun)
    ]
    assert exams[0] == exams[1]


@pytest.mark.parametrize("weights", ["separate", "shared"])
def test_full_weights_are_refused_with_what_to_do_instead(monkeypatch, weights):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    config = configured("magic", [f"weights={weights}"])
    with pytest.raises(UsageError, match="weights=adapters, or launch with --multi_gpu"):
        trainers(config, Ranks(0, 2), {})
