"""A run plays on to more rounds, and one that was built in Python is saved, resumed, reported."""

import json
from dataclasses import replace

import pytest
from tests import short_run

from sparring import Recipe, RunDir, UsageError, magic, train, write_report
from sparring.settings.config import ExamSettings


def played(folder):
    """What a run learned: its rounds, and every weight and moment at its end."""
    outcome = short_run.outcome(folder)
    return {name: value for name, value in outcome.items() if not name.startswith("exams")}


def test_a_run_that_is_given_more_rounds_is_the_run_that_had_them_from_the_start(tmp_path):
    run = tmp_path / "run"
    short_run.train(run, "rounds=2").check()
    assert RunDir(run).status.status == "complete"
    shorter = RunDir(run).crossplay().asr.keys()
    fewer = short_run.train(run, "rounds=1")
    assert (fewer.code, "rounds: 2 → 1" in fewer.err) == (2, True)
    short_run.train(run).check()
    assert played(run) == played(short_run.whole())
    folder = RunDir(run)
    assert (folder.config.rounds, folder.status.status) == (4, "complete")
    assert folder.exams() == [0, 2, 4]
    assert folder.crossplay().asr.keys() - shorter == {"4"}


@pytest.mark.parametrize(
    ("rounds", "every", "exams"),
    [
        (300, None, [0, 60, 120, 180, 240, 300]),
        (164, None, [0, 33, 66, 98, 131, 164]),
        (7, None, [0, 2, 5, 7]),
        (2, None, [0, 2]),
        (1, None, [0, 1]),
        (10, 0, [0, 10]),
        (10, 4, [0, 4, 8, 10]),
    ],
)
def test_a_run_sits_six_exams_unless_it_says_how_often(rounds, every, exams):
    settings = ExamSettings(every=every)
    assert [done for done in range(rounds + 1) if settings.due(done, rounds)] == exams


TINY = {
    "learner": {"seeds_per_round": 4, "num_generations": 2},
    "sampling": {"max_completion_length": 8},
    "warm_up": {"steps": 0},
    "exam": {"n": 2, "crossplay": 0},
}


def benign_alone(config, *objects):
    """A game of its own: nobody is asked anything harmful."""
    run = magic.build(config, *objects)
    benign = [run.plan.game.open(seed) for seed in run.seeds if not seed.harmful]
    return replace(run, plan=replace(run.plan, openings=lambda *_: benign[:4]))


def test_a_recipe_that_no_package_names_is_saved_resumed_and_reported(tmp_path):
    kitchen = Recipe(TINY, {}, benign_alone, name="kitchen")
    run = kitchen(rounds=2, output_dir=str(tmp_path / "run"))
    train(run, max_rounds=1)
    train(kitchen(rounds=3, output_dir=str(tmp_path / "run")), resume=True)
    assert write_report(tmp_path / "run").is_file()
    folder = RunDir(tmp_path / "run")
    assert [record.metrics["seeds/benign"] for record in folder.rounds()] == [4, 4, 4]
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "complete"
    with pytest.raises(UsageError, match="seed: 42 → 7"):
        train(kitchen(rounds=3, seed=7, output_dir=str(tmp_path / "run")), resume=True)
