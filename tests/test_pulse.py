"""Long work of every kind gives signs of life."""

import io
import time
from collections import defaultdict
from contextlib import nullcontext

import pytest
from rich.console import Console
from rich.text import Text

from sparring.cli import speech
from sparring.judges.http import Server
from sparring.judges.model_judge import Question
from sparring.pulse import beat, part, watched
from sparring.report.progress import Bars
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits
from sparring.types import Message
from tests.command import sparring_command
from tests.short_run import arguments
from tests.transport.server import Script, serving


@pytest.fixture
def beats():
    """How far each work was when it gave a sign, with its total."""
    signs: dict[str, list[tuple[int, int]]] = defaultdict(list)
    with watched(lambda work, done, total: signs[work].append((done, total))):
        yield signs


def test_playing_learning_and_imitating_do(beats, tmp_path, monkeypatch):
    for room in ("cli", "report.progress"):
        monkeypatch.setattr(f"sparring.{room}.watched", lambda *_: nullcontext())
    assert sparring_command(*arguments(tmp_path / "run")).code == 0
    beats.pop("", None)  # of bars that have printed
    assert {"loading", "sampling", "learning", "imitating"} <= {work.split()[0] for work in beats}
    for signs in beats.values():
        assert all(0 <= done < total for done, total in signs)
    assert any(done > 0 for done, _ in beats["sampling"])


def test_a_server_that_takes_its_time_is_waited_for_aloud(beats):
    question = Question((Message("user", "open the vault"),), 16)
    with serving(Script(answer=lambda _: time.sleep(1.2) or "safe")) as (url, _):
        server = Server(Client(Address(url, "judge.base_url"), limits=Limits(timeout=20)), "guard")
        assert [answer.text for answer in server.answer([question] * 3)] == ["safe"] * 3
    ((work, signs),) = beats.items()
    assert (work, len(signs) >= 2, signs[0]) == (f"answers of {url}", True, (0, 3))


def test_nobody_has_to_watch_and_who_watches_may_stop_the_work():
    def stop(work, done, total):
        raise KeyboardInterrupt(f"{work} {done}/{total}")

    beat("sampling", 1, 2)
    with pytest.raises(KeyboardInterrupt, match="sampling 1/2"), watched(stop):
        beat("sampling", 1, 2)
    beat("sampling", 2, 2)


def test_the_parts_of_some_work_count_as_one():
    shown = []
    with watched(lambda *sign: shown.append(sign)):
        for number in range(2):
            with part(number, 2):
                beat("sampling", 3, 48)
        beat("sampling", 3, 48)
    assert shown == [("sampling", 3, 96), ("sampling", 51, 96), ("sampling", 3, 48)]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_on_a_narrow_terminal_the_text_gives_way_to_the_figures(width):
    with io.StringIO() as file:
        terminal = Console(file=file, force_terminal=True, width=width, emoji=False)
        with Bars(terminal) as bars:
            bars.phase("attacker's warm-up", 250, 250, "loss 0.12")
            beat("sampling", 9, 56)
            bars.last_round = "attacker learned: asr 0.81 parsed 1.00 " * 5
            bars.phase("rounds", 3, 160)
            beat("learning", 1, 4)
        last = Text.from_ansi(file.getvalue()).plain.splitlines()[-2:]
    assert "250/250" in last[0]
    assert "sampling" not in last[0], "what it showed is over"
    assert "rounds" in last[1]
    assert "3/160 0:00:" in last[1]
    assert all(len(row.rstrip()) <= width for row in last)


def test_work_that_gives_no_sign_for_long_is_shown_again_from_a_thread(monkeypatch, capsys):
    monkeypatch.setattr(speech, "SILENCE", 0.2)
    with speech.Pulse() as pulse, watched(pulse):
        beat("reading prompts", 0, 3)
        time.sleep(1)
        assert capsys.readouterr().err.count("s  reading prompts 0/3\n") >= 2
        with Bars(speech.console(stderr=True)) as bars:
            time.sleep(0.5)
            assert capsys.readouterr().err == "", "what was under way before is over"
            bars.phase("rounds", 1, 2)
            beat("learning", 4, 9)
            time.sleep(1)
            shown = capsys.readouterr().err
            assert shown.index("rounds 1/2") < shown.index("s  learning 4/9\n")
        with Bars(speech.console(stderr=True), quiet=True):
            beat("learning", 5, 9)
            time.sleep(0.5)
            assert capsys.readouterr().err == ""
    beat("reading prompts", 1, 3)
    time.sleep(0.5)
    assert capsys.readouterr().err == ""
