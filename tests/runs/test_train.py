"""A run is played into its folder, stops where it should, and can be resumed."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.short_run import SETTINGS, warmed

from sparring import RunDir, Status, UnscoredError, Verdict, Watch, configured, train
from sparring.judges.judge import Judge
from sparring.runs.recipes import known
from sparring.runs.train import UNSCORED_ROUNDS
from sparring.store.checkpoints import spread_out


@dataclass
class Failing:
    """A judge that fails at every `nth` state it rules on, with every label still there."""

    judge: Judge
    nth: int
    ruled: int = 0

    def __getattr__(self, name):
        return getattr(self.judge, name)

    def rule(self, states):
        verdicts = self.judge.rule(states)
        for i in range(len(verdicts)):
            self.ruled += 1
            if self.ruled % self.nth == 0:
                verdicts[i] = Verdict(status=Status.TIMEOUT)
        return verdicts


def short(folder, rounds=7, **more):
    settings = {**SETTINGS, "rounds": rounds, "exam.crossplay": 0, "saving.checkpoint_every": 50}
    settings |= {"attacker.model_name_or_path": warmed(), "output_dir": folder, **more}
    return known("magic").build(configured("magic", [f"{k}={v}" for k, v in settings.items()]))


def failing(run, nth):
    return replace(run, plan=replace(run.plan, judge=Failing(run.plan.judge, nth)))


def test_too_many_failed_verdicts_stop_a_run_after_five_rounds_with_its_weights_saved(tmp_path):
    run = short(tmp_path / "run")
    with pytest.raises(UnscoredError, match=r"\d+\.\d% of the games .*--resume goes on") as error:
        train(failing(run, 3))
    assert error.value.exit_code == 3
    folder = RunDir.open(tmp_path / "run")
    assert folder.status.status == "stopped"
    assert folder.status.unscored > 0.05
    assert folder.checkpoints.numbers()[-1] == len(folder.rounds()) == UNSCORED_ROUNDS
    train(run, resume=True)  # with a judge that works again
    assert folder.status.status == "complete"
    assert len(folder.rounds()) == 7


def test_a_few_failed_verdicts_are_counted_pay_nothing_and_stop_nothing(tmp_path):
    paid = []

    class Watching(Watch):
        def played(self, round_):
            paid.extend(
                (e.state.verdict.status, e.returns) for e in round_.episodes if e.state.rulings
            )

    folder = train(failing(short(tmp_path / "run", max_unscored=0.5), 4), watch=Watching())
    failed = [returns for status, returns in paid if status is Status.TIMEOUT]
    assert len(failed) >= 10
    assert set(failed) == {None}
    assert any(returns for status, returns in paid if status is Status.OK)
    assert any(record.metrics["unscored"] > 0.05 for record in folder.rounds())


@given(st.integers(1, 60), st.integers(1, 12))
def test_a_crossplay_meets_the_last_checkpoint_and_from_two_on_the_first(count, most):
    numbers = [20 * i for i in range(count)]
    spread = spread_out(numbers, most)
    assert spread == sorted(set(spread))
    assert len(spread) <= most
    assert spread[-1] == numbers[-1]
    assert most == 1 or spread[0] == 0
    # denser where a run begins
    assert spread_out(list(range(0, 180, 20)), 5) == [0, 20, 40, 80, 160]
