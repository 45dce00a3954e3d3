"""A run that is killed at any point and resumed equals an uninterrupted run."""

import random
import time

import pytest
from tests import short_run
from tests.short_run import ADAPTERS, RECALLING, REFERENCE, ROUNDS, At, Started, leftovers, outcome

KILLED = -9
MOMENTS = {
    "before a folder says how it stands": (r"rename run.json", 1),
    "before there is a run": (r"rename config.yaml", 1),
    "before the warm-up is over": (r"mkdir exams", 1),
    "while the first checkpoint is filled": (r"open .*/round_000000.tmp/defender/config.json", 1),
    "before the first manifest": (r"open .*/round_000000.tmp/MANIFEST.json", 1),
    "while the first checkpoint is made durable": (r"fsync", 13),
    "between the first rename and latest": (r"open checkpoints/latest.tmp", 2),
    "before latest is replaced": (r"rename checkpoints/latest", 1),
    "while the first exam is recorded": (r"rename exams/round_000000/results.json", 1),
    "before a round is recorded": (r"open rounds.jsonl", 1),
    "after a round, before its checkpoint": (r"mkdir checkpoints/round_000001.tmp", 1),
    "after a round, and its line is cut": (r"mkdir checkpoints/round_000001.tmp", 1),
    "before a transcript is there": (r"rename transcripts/round_000001.jsonl.gz", 1),
    "between a manifest and its rename": (r"rename checkpoints/round_000002", 1),
    "between a rename and latest": (r"rename checkpoints/latest", 1),
    "before pruning": (r"rmtree checkpoints/round_000001", 1),
    "while the leftover is swept": (r"rmdir checkpoints/round_000001", 1),
    "before the last exam is recorded": (r"rename exams/round_000004/results.json", 1),
    "before cross-play is recorded": (r"rename exams/crossplay/results.json", 1),
    "before the run is complete": (r"rename run.json", 1),
}
"""In the order in which a run meets them; each resumed run is killed at the next one."""
LINE_IS_CUT = "after a round, and its line is cut"


def assert_resumed_to_the_whole(run, *settings) -> None:
    short_run.train(run, *settings).check()
    assert outcome(run) == outcome(short_run.whole(*settings))
    assert leftovers(run) == []


def kill(run, moments, *settings) -> None:
    """Resume the run once for each of these file operations, and kill it there."""
    for pattern, nth in moments:
        ended = short_run.train(run, *settings, before=At(run, pattern, nth))
        assert ended.code == KILLED, f"{pattern}: {ended}"


def test_the_short_run_learns_prunes_and_forgets_nothing():
    """Otherwise the tests of this file would compare empty results."""
    run = short_run.whole()
    metrics = [record["metrics"] for record in short_run.rounds(run)]
    learned = [{key for key in values if key.endswith("/grad_norm")} for values in metrics]
    assert learned == [{"defender/grad_norm"}, {"attacker/grad_norm"}] * 2
    checkpoints = sorted(path.name for path in (run / "checkpoints").glob("round_*"))
    assert checkpoints == ["round_000000", "round_000002", "round_000003", "round_000004"]
    moments = run / "checkpoints" / checkpoints[-1] / "optimizer.safetensors"
    assert moments.stat().st_size > 7_000_000, "moments of both players' half a million parameters"


def test_a_run_killed_at_every_step_of_its_writing_is_the_whole_run(tmp_path):
    for moment, place in MOMENTS.items():
        kill(tmp_path / "run", [place])
        if moment == LINE_IS_CUT:
            path = tmp_path / "run" / "rounds.jsonl"
            path.write_bytes(path.read_bytes()[:-9])
    assert_resumed_to_the_whole(tmp_path / "run")


def test_a_run_killed_at_random_times_is_the_whole_run(tmp_path):
    run, rng = tmp_path / "run", random.Random(5)
    for _ in range(3):
        started = Started(short_run.arguments(run))
        time.sleep(rng.uniform(0.2, 2))
        started.process.kill()
        started.wait()
    assert_resumed_to_the_whole(run)


@pytest.mark.parametrize("settings", [REFERENCE, ADAPTERS], ids=["reference", "adapters"])
def test_what_a_resumed_run_needs_besides_weights_is_restored(tmp_path, settings):
    """The KL's reference and the schedule's past; each adapter, its embeddings and its moments."""
    moments = [(r"open rounds.jsonl", 3), (r"rename checkpoints/round_000003", 1)]
    kill(tmp_path / "run", moments, *settings)
    assert_resumed_to_the_whole(tmp_path / "run", *settings)
    last = short_run.rounds(tmp_path / "run")[ROUNDS - 1]["metrics"]
    assert any(key.endswith("/grad_norm") for key in last), "the last round teaches nobody"
    if settings is REFERENCE:
        assert last["defender/kl"] > 0


@pytest.mark.parametrize("recipe", RECALLING)
def test_what_a_run_remembers_survives_a_kill_at_any_moment(tmp_path, recipe):
    """The pool, the league's selves and their matrix, and the turns that depend on the past."""
    moments = [
        (r"open .*/round_000001.tmp/memory.json", 1),
        (r"rename checkpoints/latest", 2),
        (r"open rounds.jsonl", 1),
    ]
    kill(tmp_path / "run", moments, *RECALLING[recipe])
    assert_resumed_to_the_whole(tmp_path / "run", *RECALLING[recipe])
