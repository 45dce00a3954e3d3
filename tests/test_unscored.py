"""A run whose judge cannot tell too often stops, resumable; what it could not tell never pays."""

from dataclasses import dataclass, replace

import pytest

from sparring.judges.judge import Judge
from sparring.runs import recipes
from sparring.runs.train import UNSCORED_ROUNDS, train
from sparring.settings.config import to_yaml
from sparring.store.folder import RunDir
from sparring.types import Status, UnscoredError, Verdict
from tests.short_run import SETTINGS, warmed


class Quiet:
    """A watch that looks at nothing."""

    over = staticmethod(lambda plan: plan)
    warmed = played = note = phase = staticmethod(lambda *told: None)


@dataclass
class Failing:
    """A judge that fails at every `nth` state it is asked about, with every label still there."""

    judge: Judge
    nth: int
    asked: int = 0

    def __getattr__(self, name):
        return getattr(self.judge, name)

    def rule(self, states):
        told = self.judge.rule(states)
        for i in range(len(told)):
            self.asked += 1
            if self.asked % self.nth == 0:
                told[i] = Verdict(status=Status.TIMEOUT)
        return told


def begun(folder, rounds=7, **more):
    settings = {
        **SETTINGS,
        "rounds": rounds,
        "exam.crossplay": 0,
        "saving.checkpoint_every": 50,
        "attacker.model_name_or_path": warmed(),
        "output_dir": folder,
        **more,
    }
    config = recipes.configured("magic", [f"{k}={v}" for k, v in settings.items()])
    return recipes.known("magic")(config), RunDir.create(folder, to_yaml(config))


def failing(match, nth):
    return replace(match, plan=replace(match.plan, judge=Failing(match.plan.judge, nth)))


def test_too_many_failed_verdicts_stop_a_run_after_five_rounds_with_its_weights_saved(tmp_path):
    match, run = begun(tmp_path / "run")
    with pytest.raises(UnscoredError, match=r"in \d+\.\d% of the games .*--resume goes on") as told:
        train(failing(match, 3), run, Quiet())
    assert told.value.exit_code == 3
    assert run.status.status == "stopped"
    assert run.status.unscored > 0.05
    assert run.checkpoints.numbers()[-1] == len(run.rounds()) == UNSCORED_ROUNDS
    match, _ = begun(tmp_path / "other")
    train(match, run, Quiet())  # with a judge that works again
    assert run.status.status == "complete"
    assert len(run.rounds()) == 7


def test_a_few_failed_verdicts_are_counted_pay_nothing_and_stop_nothing(tmp_path):
    match, run = begun(tmp_path / "run", max_unscored=0.5)
    paid = []

    class Watching(Quiet):
        @staticmethod
        def played(told):
            paid.extend(
                (e.state.verdict.status, e.returns) for e in told.episodes if e.state.rulings
            )

    train(failing(match, 4), run, Watching())
    failed = [returns for status, returns in paid if status is Status.TIMEOUT]
    assert len(failed) >= 10
    assert set(failed) == {None}
    assert any(returns for status, returns in paid if status is Status.OK)
    assert any(record.metrics["unscored"] > 0.05 for record in run.rounds())
