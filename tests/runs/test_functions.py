"""A judge and a payoff that are functions: what they return is checked before a long warm-up."""

import re

import pytest

from sparring import Harm, Seed, Verdict, Watch, magic, train
from sparring.types import UsageError

TASKS = ["open the dragon vault", "wake the giant", "sweep the stairs", "bake the bread"]
SEEDS = [Seed(task, harmful=n < 2, id=task) for n, task in enumerate(TASKS)]
GOOD = Verdict(refused=True, reply_harm=Harm.SAFE)


class Warmed(Watch):
    """Counts the steps of the warm-up."""

    steps = 0

    def warmed(self, step, metrics):
        self.steps += 1


@pytest.mark.parametrize(
    ("judge", "payoff", "message"),
    [
        (lambda state: "refused", None, "wanted a Verdict, got str"),
        (lambda state: None, None, "wanted a Verdict, got NoneType"),
        (lambda state: Verdict(refused="yes"), None, "refused wanted a bool or None, got 'yes'"),
        (lambda state: Verdict(reply_harm="unsafe"), None, "reply_harm wanted a Harm or None"),
        (lambda state: Verdict(score="5"), None, "score wanted a number or None"),
        (lambda state: GOOD, lambda seed, verdict: None, "wanted a finite number, got None"),
        (lambda state: GOOD, lambda seed, verdict: "1.0", "wanted a finite number, got '1.0'"),
        (lambda state: GOOD, lambda seed, verdict: float("nan"), "wanted a finite number, got nan"),
    ],
)
def test_what_is_no_verdict_or_no_number_is_refused_before_the_warm_up(
    tmp_path, judge, payoff, message
):
    more = {"payoff": payoff} if payoff else {}
    run = magic(
        seeds=SEEDS,
        judge=judge,
        rounds=2,
        game={"gate": False, "helpfulness": 0.0, "diversity": 0.0},
        attacker={"model_name_or_path": "sandbox"},
        defender={"model_name_or_path": "sandbox"},
        output_dir=str(tmp_path / "run"),
        **more,
    )
    watch = Warmed()
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        train(run, watch=watch)
    assert any(task in str(caught.value) for task in TASKS), "it names the seed"
    assert watch.steps == 0


def test_a_number_of_any_kind_is_a_payoff():
    import numpy as np
    import torch

    from sparring import FunctionPayoff

    for value in (1, True, 0.5, np.float32(0.5), torch.tensor(0.5)):
        assert FunctionPayoff(lambda seed, verdict: value)(SEEDS[0], GOOD) is not None  # noqa: B023
