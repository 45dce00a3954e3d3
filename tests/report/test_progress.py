import io

import pytest
from rich.console import Console

from sparring.report.progress import ProgressWatch, Trackers
from sparring.types import Player, Round, Turn, UsageError


def test_a_tracker_that_is_not_installed_is_refused_and_not_just_warned_of(monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(UsageError, match=r"saving.report_to: not installed: tensorboard"):
        Trackers.check(["tensorboard"])
    Trackers.check([])


def test_without_a_terminal_every_round_is_one_line_without_escapes(tmp_path):
    heard = io.StringIO()
    watch = ProgressWatch(Console(file=heard, width=200), 7, 3, Trackers([], tmp_path, "x"))
    with watch:
        watch.warmed(1, {"loss": 2.5})
        turn = Turn(frozenset({Player.DEFENDER}), {Player.DEFENDER: 4})
        watch.played(Round(4, turn, (), {"asr": 0.25, "unscored": 0.0}))
    lines = heard.getvalue().splitlines()
    assert [line.split("s  ", 1)[1] for line in lines] == [
        "warm-up 1/3  loss 2.50",
        "round 5/7  defender learned: asr 0.25 unscored 0.00",
    ]
    assert "\x1b" not in heard.getvalue()
